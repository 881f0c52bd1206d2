"""Training runs: ``Trainer``, its data, checkpoints, evaluation and logs."""

from __future__ import annotations

from gensyn_tvm.trainer.checkpoint import Checkpoint, checkpoints, latest_checkpoint, read_checkpoint
from gensyn_tvm.trainer.data import Arrays, Samples, Source, Tokens, epoch_order
from gensyn_tvm.trainer.evaluation import Evaluation, evaluation_graph
from gensyn_tvm.trainer.logs import CsvLog, Log, TensorBoardLog
from gensyn_tvm.trainer.trainer import Checkpoints, Trainer, Training

__all__ = [
    "Arrays",
    "Checkpoint",
    "Checkpoints",
    "CsvLog",
    "Evaluation",
    "Log",
    "Samples",
    "Source",
    "TensorBoardLog",
    "Tokens",
    "Trainer",
    "Training",
    "checkpoints",
    "epoch_order",
    "evaluation_graph",
    "latest_checkpoint",
    "read_checkpoint",
]
