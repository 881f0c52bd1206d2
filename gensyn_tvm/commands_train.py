"""``gensyn-tvm train config.toml``: from a configuration to a run and its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gensyn_tvm import commands
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.errors import ConfigError, InvalidProgramError, describe
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.trainer.config import Config, DataTable, KindTable, StepTable, read_config
from gensyn_tvm.trainer.data import Arrays, Tokens
from gensyn_tvm.trainer.evaluation import Evaluation, evaluation_graph
from gensyn_tvm.trainer.logs import CsvLog, Log, TensorBoardLog
from gensyn_tvm.trainer.trainer import Checkpoints, Trainer, Training
from gensyn_tvm.training.accumulation import AccumulatedStep, accumulated_step
from gensyn_tvm.training.clipping import ClipNorm, ClipValue
from gensyn_tvm.training.precision import DynamicLossScale, MixedPrecision, StaticLossScale
from gensyn_tvm.training.step_metrics import STEP_METRICS

if TYPE_CHECKING:
    from gensyn_tvm.compiler import Source
    from gensyn_tvm.program import Program
    from gensyn_tvm.training.optimizers import Optimizer
    from gensyn_tvm.training.step import TrainingStep


@dataclass(frozen=True)
class Trained:
    """The outcome of ``train_config``.

    Attributes:
        config: what was done.
        program: digest of the training step.
        training: the run.
    """

    config: Config
    program: str
    training: Training


def train_config(
    path: str, *, resume: bool = False, steps: int | None = None, overrides: Sequence[str] = (), progress: bool = False
) -> Trained:
    """Do what a configuration says.

    Raises:
        ConfigError: the configuration is not valid.
        GensynError: whatever the model, the data and the run raise.
    """
    config = read_config(path, overrides, steps)
    if resume and config.checkpoints is None:
        raise ConfigError(describe("--resume needs checkpoints", where=path, expected="a table [checkpoints] with folder"))
    for name in ("model", "step"):
        destination = getattr(config.output, name)
        if destination:
            from gensyn_tvm.runtime.file import check_destination

            check_destination(config.path(destination))
    program, step = _step(config)
    data = _data(config, config.data, step.gradient if isinstance(step, AccumulatedStep) else step.graph)
    trainer = _trainer(config, program, step, progress)
    del step  # its arrays are the initial state, which the run takes over
    run, start = config.run, None
    if program is None and trainer.executable.state.step:  # a saved step that was trained already goes on from there
        start = trainer.executable.state
    options: dict[str, Any] = {"steps": run.steps, "epochs": run.epochs, "shuffle": run.shuffle, "resume": resume}
    training = trainer.fit(data, **options, state=start, release=True)
    _write(config, program, trainer, training)
    return Trained(config, trainer.stepper.digest, training)


# ---- the parts of a run ---------------------------------------------------------------------------------------------


def _step(config: Config) -> tuple[Program | None, TrainingStep | AccumulatedStep | Source]:
    from gensyn_tvm.training.step import training_step

    model = config.model
    source = _located(config, model.source)
    if source.endswith(".gtvm"):
        given = [n for n in ("loss", "optimizer") if getattr(config, n) is not None] + (
            ["evaluation"] if config.evaluation else []
        )
        given += ["run.metrics"] if config.run.metrics is not None else []
        given += ["step"] if config.step != StepTable() else []
        given += ["output.model"] if config.output.model else []
        if given or model.batch or model.shapes:
            found = ", ".join([*given, *(f"model.{n}" for n in ("batch", "shapes") if getattr(model, n))])
            expected = "none of these: a saved training step has its loss, optimizer and shapes"
            raise ConfigError(
                describe("keys that do not go with a .gtvm file", where=model.source, found=found, expected=expected)
            )
        return None, commands.load_source(source)
    shapes = {name: tuple(extents) for name, extents in model.shapes.items()}
    program = commands.load_model(source, shapes=shapes, batch=model.batch)
    options = {"loss": _loss(config), "optimizer": _optimizer(config), "metrics": config.run.metrics, **_options(config)}
    if config.step.microbatches is None:
        return program, training_step(program, **options)
    if config.output.step:
        found = "step.microbatches and output.step"
        raise ConfigError(describe("accumulated steps are not saved", found=found, remedy="use checkpoints"))
    return program, accumulated_step(program, microbatches=config.step.microbatches, **options)


def _options(config: Config) -> dict[str, Any]:
    """The table ``step`` as arguments of ``training_step``.

    Raises:
        ConfigError: a setting out of its range.
    """
    table = config.step
    try:
        norm = None if table.clip_norm is None else ClipNorm(table.clip_norm)
        clip = norm if table.clip_value is None else ClipValue(table.clip_value)
        dynamic = DynamicLossScale() if table.loss_scale == "dynamic" else None
        scale = StaticLossScale(table.loss_scale) if isinstance(table.loss_scale, float | int) else dynamic
        precision = None if table.precision is None else MixedPrecision(table.precision, scale)
    except InvalidProgramError as error:
        raise ConfigError(f"step: {error}") from error
    return {"frozen": table.frozen, "clip": clip, "precision": precision}


def _located(config: Config, source: str) -> str:
    """A source with its path relative to the configuration's folder; a module's name stays."""
    path, colon, function = source.rpartition(":")
    if colon and not path.endswith(".py"):
        return source
    return f"{config.path(path)}:{function}" if colon else str(config.path(source))


def _with_settings(key: str, kinds: dict[str, Any], chosen: str | KindTable) -> Any:
    """An object of a table by kind, with the settings of the configuration.

    Raises:
        ConfigError: no such kind, or a setting that it does not have.
    """
    kind, settings = (chosen, {}) if isinstance(chosen, str) else (chosen.kind, chosen.settings())
    if kind not in kinds:
        raise ConfigError(describe(f"{key}: no such kind", found=kind, expected=f"one of {', '.join(kinds)}"))
    known = [f.name for f in fields(kinds[kind]) if f.init]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        found = ", ".join(f"{key}.{name}" for name in unknown)
        raise ConfigError(describe(f"unknown settings of {kind}", found=found, expected=f"some of {', '.join(known)}"))
    try:
        return replace(kinds[kind], **{n: tuple(v) if isinstance(v, list) else v for n, v in settings.items()})
    except (InvalidProgramError, TypeError) as error:
        raise ConfigError(describe(f"{key}: unusable settings", found=str(error))) from error


def _loss(config: Config) -> Any:
    from gensyn_tvm.training.losses import LOSSES

    return _with_settings("loss", dict(LOSSES), config.loss or "cross_entropy")


def _optimizer(config: Config) -> Optimizer:
    from gensyn_tvm.training.optimizers import from_dict

    return cast("Optimizer", _described("optimizer", from_dict, config.optimizer or "adamw"))


def _learning_rate(config: Config) -> Any:
    from gensyn_tvm.training.learning_rates import from_dict

    given = config.learning_rate
    return _described("learning_rate", from_dict, given) if isinstance(given, KindTable) else given


def _described(key: str, from_dict: Callable[[dict[str, Any]], Any], chosen: str | KindTable) -> Any:
    """What a table describes.

    Raises:
        ConfigError: no such kind, or settings that it does not have.
    """
    try:
        return from_dict({"kind": chosen} if isinstance(chosen, str) else {"kind": chosen.kind, **chosen.settings()})
    except InvalidProgramError as error:
        raise ConfigError(f"{key}: {error}") from error


def _trainer(config: Config, program: Program | None, step: TrainingStep | AccumulatedStep | Source, progress: bool) -> Trainer:
    from gensyn_tvm.training.optimizers import to_dict

    run, logs, saved = config.run, config.logs, config.checkpoints
    outputs: list[Log] = [CsvLog(config.path(logs.csv))] if logs.csv else []
    outputs += [TensorBoardLog(config.path(logs.tensorboard))] if logs.tensorboard else []
    return Trainer(
        step,
        target=run.target,
        threads=run.threads,
        seed=run.seed,
        learning_rate=_learning_rate(config),
        checkpoints=Checkpoints(config.path(saved.folder), saved.every, saved.keep) if saved else None,
        evaluation=_evaluation(config, program),
        logs=outputs,
        log_every=logs.every,
        progress=progress,
        optimizer=json.dumps(to_dict(_optimizer(config))) if program is not None else "",
    )


def _evaluation(config: Config, program: Program | None) -> Evaluation | None:
    table = config.evaluation
    if table is None or program is None:
        return None
    # Norms and scales are the training step's own.
    metrics = None if config.run.metrics is None else [m for m in config.run.metrics if m not in STEP_METRICS]
    graph = evaluation_graph(program, loss=_loss(config), metrics=metrics)
    from gensyn_tvm.compiler import Source

    return Evaluation(
        Source(graph, State({**program.parameters, **program.states})),
        _data(config, table.data, graph),
        every=table.every,
        batches=table.batches,
        best=table.best,
        larger_is_better=table.larger_is_better,
        averaged=table.averaged,
    )


def _data(config: Config, table: DataTable, graph: Graph) -> Any:
    if table.files is not None:
        files: Any = table.files
        return Arrays.load(config.path(files) if isinstance(files, str) else {n: config.path(p) for n, p in files.items()})
    if table.tokens is not None and table.block is not None:
        (dtype,) = {i.type.dtype for i in graph.inputs if i.role == "input"} or {"int64"}
        return Tokens(
            config.path(table.tokens),
            table.block,
            dtype=table.dtype,
            stride=table.stride,
            start=table.start,
            stop=table.stop,
            batch_dtype=dtype,
        )
    return commands.call_function(_located(config, str(table.source)))


def _write(config: Config, program: Program | None, trainer: Trainer, training: Training) -> None:
    from gensyn_tvm.compiler import compile
    from gensyn_tvm.runtime.packaging import save_executables
    from gensyn_tvm.training.optimizers import averaged

    exe, state, output = trainer.executable, training.state, config.output
    if output.step and isinstance(exe, Executable):
        save_executables(Path(config.path(output.step)), [exe], state)
    if output.model and program is not None:
        arrays = {**state, **averaged(state)} if output.averaged else state
        trained = replace(
            program,
            parameters={n: arrays[n] for n in program.parameters},
            states={n: state[n] for n in program.states},
        )
        compile(trained, config.run.target, threads=config.run.threads).save(config.path(output.model))
