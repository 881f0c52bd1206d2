"""``training_step`` and ``inference_graph``: from an imported program to canonical graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tvm import relax

from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.from_relax import freeze
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.program import Program
from gensyn_tvm.training.differentiate import check_differentiable, differentiate
from gensyn_tvm.training.emit import Emitter, Expr, build_function, dtype_of, inline, shape_of
from gensyn_tvm.training.losses import (
    METRICS,
    Loss,
    LossFunction,
    Scored,
    TargetTypes,
    as_loss,
    check_metric,
    relax_type,
)
from gensyn_tvm.training.modes import for_inference, for_training
from gensyn_tvm.training.optimizers import OPTIMIZERS, Optimizer

_INT64 = TensorType((), "int64")
_CLOCK = {"step": _INT64, "seed": _INT64, "learning_rate": TensorType((), "float32")}


@dataclass(frozen=True)
class TrainingStep:
    """One step of training as a canonical graph.

    Inputs, in order: the batch's inputs, ``target`` (a loss may have more), parameters, buffers, optimizer state, ``step``
    (int64, counted by the caller from 0), ``seed`` (int64), ``learning_rate`` (float32). Outputs: ``loss``, the metrics, then
    the next value of every parameter, buffer and optimizer state.

    Attributes:
        graph: the canonical graph.
        parameters, states, optimizer_state: initial arrays by input name.
        learning_rate: the optimizer's default.
        origin: where the model came from.
    """

    graph: Graph
    parameters: Mapping[str, np.ndarray]
    states: Mapping[str, np.ndarray]
    optimizer_state: Mapping[str, np.ndarray]
    learning_rate: float
    origin: str = ""

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) that names the step; it does not depend on names, arrays or any target."""
        return serialise.digest(self.graph)


def inference_graph(program: Program) -> Graph:
    """The canonical graph of a model in inference: inputs, parameters, buffers → outputs.

    Raises:
        UnsupportedOperatorError: everything in the model that has no canonical form, in one error.
    """
    inference = for_inference(program)
    roles = [*((i, "input") for i in program.inputs), *_state_roles(program)]
    _check_names([name for name, _ in roles])
    outputs = [(name, False) for name in program.outputs]
    name = program.origin or "program"
    return freeze(inference.module, name=name, inputs=roles, outputs=outputs, extents=program.extents)


def training_step(
    program: Program,
    *,
    loss: str | Loss | LossFunction = "cross_entropy",
    optimizer: str | Optimizer = "adamw",
    target: TargetTypes = None,
    metrics: Sequence[str] | None = None,
) -> TrainingStep:
    """The canonical graph of one training step of a model.

    Args:
        program: an imported model.
        loss: a loss object (``CrossEntropy(label_smoothing=0.1)``), the name of one with default settings (docs/losses.md), or
            a function of the model's outputs and the targets that returns a scalar Relax expression.
        optimizer: ``SGD``, ``Adam`` or ``AdamW`` with its settings, or the name of one with default settings.
        target: type of the target; may be left out where the loss knows it. For a function also a mapping from names to types,
            if it takes several targets.
        metrics: further outputs: ``accuracy``, ``top5_accuracy``, ``perplexity``, ``mean_absolute_error``; by default
            ``("accuracy",)`` for class indices, nothing otherwise.

    Raises:
        InvalidProgramError: something that is no program, an unknown loss, metric or optimizer, a loss that is no float scalar,
            a target of the wrong type, a parameter that the loss does not depend on, a name that is used twice.
        UnsupportedOperatorError: operators without a canonical form or without a gradient, all of them in one error.
    """
    if not isinstance(program, Program):
        raise InvalidProgramError(
            describe(
                "a training step needs a program",
                found=type(program).__name__,
                expected="what from_torch or from_onnx returns",
            )
        )
    chosen = _optimizer(optimizer)
    state = chosen.initial_state(program.parameters)
    forward, targets, names = _forward(program, as_loss(loss), target, metrics)
    _check_names([*program.inputs, *targets, *program.parameters, *program.states, *state, *_CLOCK])
    among = _parameter_slice(program, len(targets))
    check_differentiable(forward["main"], among, list(program.parameters))
    adjoint = differentiate(forward, among)
    module = _with_optimizer(program, adjoint, chosen, state, among, len(names))
    updated = [*program.parameters, *program.states, *state]
    graph = freeze(
        module,
        name=program.origin or "program",
        inputs=[
            *((i, "input") for i in program.inputs),
            *((name, "target") for name in targets),
            *_state_roles(program),
            *((name, "optimizer") for name in state),
            *((name, name) for name in _CLOCK),
        ],
        outputs=[("loss", False), *((name, False) for name in names), *((name, True) for name in updated)],
    )
    return TrainingStep(
        graph=graph,
        parameters=dict(program.parameters),
        states=dict(program.states),
        optimizer_state=state,
        learning_rate=float(chosen.lr),
        origin=program.origin,
    )


# ---- checks ---------------------------------------------------------------------------------------------------------


def _optimizer(optimizer: str | Optimizer) -> Optimizer:
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        raise InvalidProgramError(
            describe(
                f"unknown optimizer {optimizer!r}",
                expected=f"one of {', '.join(OPTIMIZERS)}, or an SGD, Adam or AdamW object",
            )
        )
    return OPTIMIZERS[optimizer]


def _check_names(names: Sequence[str]) -> None:
    repeated = sorted({n for n in names if list(names).count(n) > 1})
    if repeated:
        raise InvalidProgramError(
            describe(
                "names are used twice among inputs, parameters and states",
                found=", ".join(repeated),
                remedy="rename the model's inputs (input_names=) or parameters",
            )
        )


# ---- the parts of a step --------------------------------------------------------------------------------------------


def _state_roles(program: Program) -> list[tuple[str, str]]:
    return [*((name, "parameter") for name in program.parameters), *((name, "buffer") for name in program.states)]


def _parameter_slice(program: Program, targets: int) -> slice:
    """Where the parameters are among the arguments of the forward function."""
    first = len(program.inputs) + targets
    return slice(first, first + len(program.parameters))


def _forward(
    program: Program, loss: Loss, target: TargetTypes, metrics: Sequence[str] | None
) -> tuple[Any, list[str], tuple[str, ...]]:
    """(inputs, targets, parameters, states, seed, step) → (loss, metrics, next states); the names of targets and metrics."""
    training = for_training(program)
    main = training.module["main"]
    count = len(program.inputs)
    types = dict(zip(program.outputs, list(main.body.body.fields), strict=False))
    wanted = loss.targets(types, target)
    names = loss.default_metrics(wanted) if metrics is None else tuple(metrics)
    variables = [relax.Var(p.name, p.ty) for p in main.params]
    targets = {name: relax.Var(name, relax_type(t)) for name, t in wanted.items()}
    first_target = next(iter(targets.values()), None)
    for name in names:
        check_metric(name, loss.read(types)[0], first_target)

    def body(e: Emitter) -> Sequence[Expr]:
        results = inline(e, main, variables)
        first = len(program.outputs)
        outputs = dict(zip(program.outputs, results[:first], strict=True))
        e.place = "loss"
        value = loss.emit(e, outputs, targets)
        _check_loss(value)
        e.place = "metrics"
        scored = Scored(loss.read(outputs)[0], first_target, value, loss.ignored)
        updates = results[first : first + len(program.state_updates)]
        return [value, *(METRICS[m](e, scored) for m in names), *updates]

    module = build_function([*variables[:count], *targets.values(), *variables[count:]], body)
    return module, list(targets), names


def _check_loss(value: Expr) -> None:
    shape = getattr(value.ty, "shape", None)
    if shape is None or shape_of(value) or dtype_of(value) not in ("float32", "float64"):
        raise InvalidProgramError(
            describe("the loss is not a scalar", found=str(value.ty), expected="a float scalar", remedy="take its mean or sum")
        )


def _with_optimizer(
    program: Program, adjoint: Any, optimizer: Optimizer, state: Mapping[str, np.ndarray], among: slice, metrics: int
) -> Any:
    """(inputs, targets, parameters, states, optimizer state, step, seed, learning rate) → all outputs of a step."""
    batch = [relax.Var(p.name, p.ty) for p in adjoint.params[:-2]]
    opt = {name: relax.Var(name, relax_type(TensorType(a.shape, a.dtype.name))) for name, a in state.items()}
    clock = {name: relax.Var(name, relax_type(t)) for name, t in _CLOCK.items()}
    parameters = dict(zip(program.parameters, batch[among], strict=True))
    states = dict(zip(program.states, batch[among.stop :], strict=True))

    def body(e: Emitter) -> Sequence[Expr]:
        results, gradients = inline(e, adjoint, [*batch, clock["seed"], clock["step"]])
        shown, updates = results[: 1 + metrics], results[1 + metrics :]
        named = dict(zip(parameters, gradients, strict=True))
        new, new_opt = optimizer.update(e, clock["learning_rate"], parameters, named, opt)
        new_states = {**states, **dict(zip(program.state_updates, updates, strict=True))}
        return [*shown, *(new[n] for n in parameters), *(new_states[n] for n in states), *(new_opt[n] for n in opt)]

    return build_function([*batch, *opt.values(), *clock.values()], body)
