"""gensyn_tvm: a compiler for neural networks whose results are the same bits on every machine.

Importing this package is cheap: what it exports is imported on first use, so a saved program runs without any framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gensyn_tvm.compiler import compile
    from gensyn_tvm.errors import (
        CheckpointError,
        ConfigError,
        EnvironmentChangedError,
        ExactnessError,
        GensynError,
        ImportModelError,
        InputError,
        InvalidFileError,
        InvalidProgramError,
        ScheduleError,
        TargetError,
        TrainingError,
        UnsupportedOperatorError,
        VerificationError,
    )
    from gensyn_tvm.evidence.trace import trace
    from gensyn_tvm.export.onnx import export_onnx
    from gensyn_tvm.frontends.keras import from_keras
    from gensyn_tvm.frontends.onnx import from_onnx
    from gensyn_tvm.frontends.tensorflow import from_tensorflow
    from gensyn_tvm.frontends.tflite import from_tflite
    from gensyn_tvm.frontends.torch import from_torch
    from gensyn_tvm.program import Program
    from gensyn_tvm.runtime.executable import Executable
    from gensyn_tvm.runtime.packaging import load
    from gensyn_tvm.trainer import Trainer
    from gensyn_tvm.training.accumulation import accumulated_step
    from gensyn_tvm.training.clipping import ClipNorm, ClipValue
    from gensyn_tvm.training.losses import (
        CTC,
        L1,
        NLL,
        BinaryCrossEntropyWithLogits,
        CosineEmbedding,
        CosineSimilarity,
        CrossEntropy,
        Huber,
        KLDivergence,
        MeanSquaredError,
        SmoothL1,
    )
    from gensyn_tvm.training.optimizers import SGD, Adagrad, Adam, AdamW, ExponentialMovingAverage, Lion, RMSprop
    from gensyn_tvm.training.precision import DynamicLossScale, MixedPrecision, StaticLossScale
    from gensyn_tvm.training.step import training_step

_EXPORTS = {
    "Adagrad": "gensyn_tvm.training.optimizers",
    "Adam": "gensyn_tvm.training.optimizers",
    "AdamW": "gensyn_tvm.training.optimizers",
    "BinaryCrossEntropyWithLogits": "gensyn_tvm.training.losses",
    "CTC": "gensyn_tvm.training.losses",
    "CheckpointError": "gensyn_tvm.errors",
    "ClipNorm": "gensyn_tvm.training.clipping",
    "ClipValue": "gensyn_tvm.training.clipping",
    "ConfigError": "gensyn_tvm.errors",
    "CosineEmbedding": "gensyn_tvm.training.losses",
    "CosineSimilarity": "gensyn_tvm.training.losses",
    "CrossEntropy": "gensyn_tvm.training.losses",
    "DynamicLossScale": "gensyn_tvm.training.precision",
    "EnvironmentChangedError": "gensyn_tvm.errors",
    "ExactnessError": "gensyn_tvm.errors",
    "Executable": "gensyn_tvm.runtime.executable",
    "ExponentialMovingAverage": "gensyn_tvm.training.optimizers",
    "GensynError": "gensyn_tvm.errors",
    "Huber": "gensyn_tvm.training.losses",
    "ImportModelError": "gensyn_tvm.errors",
    "InputError": "gensyn_tvm.errors",
    "InvalidFileError": "gensyn_tvm.errors",
    "InvalidProgramError": "gensyn_tvm.errors",
    "KLDivergence": "gensyn_tvm.training.losses",
    "L1": "gensyn_tvm.training.losses",
    "Lion": "gensyn_tvm.training.optimizers",
    "MeanSquaredError": "gensyn_tvm.training.losses",
    "MixedPrecision": "gensyn_tvm.training.precision",
    "NLL": "gensyn_tvm.training.losses",
    "Program": "gensyn_tvm.program",
    "RMSprop": "gensyn_tvm.training.optimizers",
    "SGD": "gensyn_tvm.training.optimizers",
    "ScheduleError": "gensyn_tvm.errors",
    "SmoothL1": "gensyn_tvm.training.losses",
    "StaticLossScale": "gensyn_tvm.training.precision",
    "TargetError": "gensyn_tvm.errors",
    "Trainer": "gensyn_tvm.trainer",
    "TrainingError": "gensyn_tvm.errors",
    "UnsupportedOperatorError": "gensyn_tvm.errors",
    "VerificationError": "gensyn_tvm.errors",
    "accumulated_step": "gensyn_tvm.training.accumulation",
    "compile": "gensyn_tvm.compiler",
    "export_onnx": "gensyn_tvm.export.onnx",
    "from_keras": "gensyn_tvm.frontends.keras",
    "from_onnx": "gensyn_tvm.frontends.onnx",
    "from_tensorflow": "gensyn_tvm.frontends.tensorflow",
    "from_tflite": "gensyn_tvm.frontends.tflite",
    "from_torch": "gensyn_tvm.frontends.torch",
    "load": "gensyn_tvm.runtime.packaging",
    "trace": "gensyn_tvm.evidence.trace",
    "training_step": "gensyn_tvm.training.step",
}

__all__ = [
    "CTC",
    "L1",
    "NLL",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "BinaryCrossEntropyWithLogits",
    "CheckpointError",
    "ClipNorm",
    "ClipValue",
    "ConfigError",
    "CosineEmbedding",
    "CosineSimilarity",
    "CrossEntropy",
    "DynamicLossScale",
    "EnvironmentChangedError",
    "ExactnessError",
    "Executable",
    "ExponentialMovingAverage",
    "GensynError",
    "Huber",
    "ImportModelError",
    "InputError",
    "InvalidFileError",
    "InvalidProgramError",
    "KLDivergence",
    "Lion",
    "MeanSquaredError",
    "MixedPrecision",
    "Program",
    "RMSprop",
    "ScheduleError",
    "SmoothL1",
    "StaticLossScale",
    "TargetError",
    "Trainer",
    "TrainingError",
    "UnsupportedOperatorError",
    "VerificationError",
    "__version__",
    "accumulated_step",
    "compile",
    "export_onnx",
    "from_keras",
    "from_onnx",
    "from_tensorflow",
    "from_tflite",
    "from_torch",
    "load",
    "trace",
    "training_step",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'gensyn_tvm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
