"""The configuration of a run, ``config.toml``: its tables and keys, read and checked before anything is imported.

Paths are relative to the folder of the file. docs/trainer.md shows every key.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from gensyn_tvm.errors import ConfigError, describe

try:
    from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator
except ImportError as missing:
    raise ConfigError(
        describe("configuration files need the package pydantic", found=str(missing), remedy='pip install "gensyn_tvm[train]"')
    ) from missing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class _Table(BaseModel):
    """A table without other keys than its own; types are not converted, except integers to floats."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ModelTable(_Table):
    """What is trained.

    Attributes:
        source: an ``.onnx`` file, a ``.gtvm`` file with a training step, or ``file.py:function`` or
            ``package.module:function``, which returns (torch module, example inputs) or a ``Program``; its file is executed.
        batch: batch size, where the model leaves it open.
        shapes: of ONNX inputs, where the model leaves them open.
    """

    source: str
    batch: PositiveInt | None = None
    shapes: dict[str, list[PositiveInt]] = {}


class DataTable(_Table):
    """Samples: exactly one of ``files``, ``tokens`` and ``source``.

    Attributes:
        files: one ``.npz`` or ``.safetensors`` file, or ``.npy`` files by name.
        tokens: a file of tokens; with it ``block``, ``dtype``, ``stride``, ``start``, ``stop`` as for ``Tokens``.
        source: ``file.py:function`` that returns the data, as ``Trainer.fit`` takes them.
    """

    files: str | dict[str, str] | None = None
    tokens: str | None = None
    source: str | None = None
    block: PositiveInt | None = None
    dtype: str = "uint16"
    stride: PositiveInt | None = None
    start: int = 0
    stop: int | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> DataTable:
        if sum(kind is not None for kind in (self.files, self.tokens, self.source)) != 1:
            raise ValueError("give one of files, tokens and source")
        if (self.tokens is None) != (self.block is None):
            raise ValueError("tokens and block go together")
        return self


class RunTable(_Table):
    """How long, on what, from which seed; see ``Trainer``."""

    steps: PositiveInt | None = None
    epochs: PositiveInt | None = None
    seed: int = 0
    shuffle: bool = True
    target: str = "native"
    threads: PositiveInt | None = None
    metrics: list[str] | None = None

    @model_validator(mode="after")
    def _one_length(self) -> RunTable:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give one of steps and epochs")
        return self


class StepTable(_Table):
    """What a step does beside its loss and optimizer; see ``training_step`` (docs/training.md).

    Attributes:
        frozen: patterns of parameters that keep their values.
        clip_norm, clip_value: at most one of them.
        microbatches: gradients are accumulated over so many batches of the model's size.
        precision: ``bfloat16`` or ``float16``.
        loss_scale: a number, or ``dynamic``; with ``precision``.
    """

    frozen: list[str] = []
    clip_norm: float | None = None
    clip_value: float | None = None
    microbatches: PositiveInt | None = None
    precision: str | None = None
    loss_scale: float | Literal["dynamic"] | None = None

    @model_validator(mode="after")
    def _fitting(self) -> StepTable:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("give one of clip_norm and clip_value")
        if self.loss_scale is not None and self.precision is None:
            raise ValueError("loss_scale goes with precision")
        return self


class KindTable(BaseModel):
    """A loss, an optimizer or a learning rate: its kind, and its own settings."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    kind: str

    def settings(self) -> dict[str, Any]:
        """The settings beside the kind."""
        return dict(self.model_extra or {})


class EvaluationTable(_Table):
    """Samples held out; see ``Evaluation``."""

    averaged: bool = False

    data: DataTable
    every: PositiveInt
    batches: PositiveInt | None = None
    best: str | None = None
    larger_is_better: bool = False


class CheckpointTable(_Table):
    """See ``Checkpoints``."""

    folder: str
    every: PositiveInt | None = None
    keep: PositiveInt = 3


class LogTable(_Table):
    """Where numbers are logged."""

    csv: str | None = None
    tensorboard: str | None = None
    every: PositiveInt = 1


class OutputTable(_Table):
    """Files written after the last step: ``model`` for inference, ``step`` to train on; both ``.gtvm``.

    ``averaged`` writes the averages of ``exponential_moving_average`` as the model's parameters.
    """

    averaged: bool = False

    model: str | None = None
    step: str | None = None


class Config(_Table):
    """A whole configuration.

    Attributes:
        loss: name of a loss, or a table with its ``kind`` and settings.
        optimizer: name of an optimizer, or a table.
        learning_rate: a number, or a table of a schedule (docs/optimizers.md); the optimizer's own if left out.
        folder: of the file.
    """

    model: ModelTable
    data: DataTable
    run: RunTable
    step: StepTable = StepTable()
    loss: str | KindTable | None = None
    optimizer: str | KindTable | None = None
    learning_rate: float | KindTable | None = None
    evaluation: EvaluationTable | None = None
    checkpoints: CheckpointTable | None = None
    logs: LogTable = LogTable()
    output: OutputTable = OutputTable()
    folder: Path = Field(default=Path(), exclude=True)

    def path(self, text: str) -> Path:
        """A path of the file, which is relative to its folder."""
        return self.folder / text


def read_config(path: str | os.PathLike[str], overrides: Sequence[str] = (), steps: int | None = None) -> Config:
    """Read and check a configuration file.

    Args:
        path: the file.
        overrides: ``table.key=value``, with the value in TOML's notation; anything else is taken as a string.
        steps: instead of the file's length of the run.

    Raises:
        ConfigError: the file is missing or no TOML, or has unknown keys or unusable values, all of them named.
    """
    where = os.fspath(path)
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(describe("a configuration cannot be read", where=where, found=str(error), expected="TOML")) from error
    for override in overrides:
        _override(values, override)
    if steps is not None:
        table = values.setdefault("run", {})
        if isinstance(table, dict):
            table.pop("epochs", None)
            table["steps"] = steps
    return _checked(values, where, Path(path).parent)


def _checked(values: Mapping[str, Any], where: str, folder: Path) -> Config:
    try:
        return Config.model_validate({**values, "folder": folder} if "folder" not in values else values)
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False):
            # Alternatives of a union follow the key, as names of types.
            key = ".".join(str(part) for part in problem["loc"] if part not in ("str", "float", "KindTable"))
            text = "unknown key" if problem["type"] == "extra_forbidden" else problem["msg"].removeprefix("Value error, ")
            problems.append(f"{key}: {text}" if key else text)
        found = "; ".join(dict.fromkeys(problems))
        raise ConfigError(
            describe("a configuration is not valid", where=where, found=found, remedy="see docs/trainer.md")
        ) from error


def _override(values: dict[str, Any], text: str) -> None:
    name, equals, value = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(describe("unusable override", found=text, expected="table.key=value, like optimizer.lr=1e-3"))
    table: Any = values
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise ConfigError(describe("unusable override", found=text, expected=f"{key} to be a table, not a value"))
    try:
        table[keys[-1]] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[keys[-1]] = value
