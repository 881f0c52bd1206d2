"""``training_step`` and ``inference_graph``: from an imported program to canonical graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from gensyn_tvm.training.losses import LOSSES, METRICS, relax_type, target_type
from gensyn_tvm.training.modes import for_inference, for_training
from gensyn_tvm.training.optimizers import OPTIMIZERS, Optimizer

#: A loss of one's own: the model's outputs, then the target, as Relax expressions → a scalar Relax expression.
LossFunction = Callable[..., Any]

_INT64 = TensorType((), "int64")
_CLOCK = {"step": _INT64, "seed": _INT64, "learning_rate": TensorType((), "float32")}


@dataclass(frozen=True)
class TrainingStep:
    """One step of training as a canonical graph.

    Inputs, in order: the batch's inputs, ``target``, parameters, buffers, optimizer state, ``step`` (int64, counted by the
    caller from 0), ``seed`` (int64), ``learning_rate`` (float32). Outputs: ``loss``, the metrics, then the next value of
    every parameter, buffer and optimizer state.

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
    loss: str | LossFunction = "cross_entropy",
    optimizer: str | Optimizer = "adamw",
    target: TensorType | None = None,
    metrics: Sequence[str] | None = None,
) -> TrainingStep:
    """The canonical graph of one training step of a model.

    Args:
        program: an imported model.
        loss: ``cross_entropy`` (float32 logits (N, classes, …), target int64 or int32 (N, …)), ``mean_squared_error`` (target
            like the output), or a function of the model's outputs and the target that returns a scalar Relax expression.
        optimizer: ``SGD``, ``Adam`` or ``AdamW`` with its settings, or the name of one with default settings.
        target: type of the target; may be left out for the named losses.
        metrics: further outputs; by default ``("accuracy",)`` for cross entropy, nothing otherwise.

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
    names = tuple(metrics) if metrics is not None else (("accuracy",) if loss == "cross_entropy" else ())
    _check_metrics(names, loss)
    state = chosen.initial_state(program.parameters)
    _check_names([*program.inputs, "target", *program.parameters, *program.states, *state, *_CLOCK])
    forward = _forward(program, loss, target, names)
    check_differentiable(forward["main"], _parameter_slice(program), list(program.parameters))
    adjoint = differentiate(forward, _parameter_slice(program))
    module = _with_optimizer(program, adjoint, chosen, state, len(names))
    updated = [*program.parameters, *program.states, *state]
    graph = freeze(
        module,
        name=program.origin or "program",
        inputs=[
            *((i, "input") for i in program.inputs),
            ("target", "target"),
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


def _check_metrics(metrics: Sequence[str], loss: str | LossFunction) -> None:
    for name in metrics:
        if name not in METRICS:
            raise InvalidProgramError(describe(f"unknown metric {name!r}", expected=f"one of {', '.join(METRICS)}"))
        if loss == "mean_squared_error":
            raise InvalidProgramError(
                describe(f"metric {name!r} needs class indices as the target", found=f"loss {loss!r}", remedy="use metrics=()")
            )


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


def _parameter_slice(program: Program) -> slice:
    """Where the parameters are among the arguments of the forward function."""
    first = len(program.inputs) + 1
    return slice(first, first + len(program.parameters))


def _forward(program: Program, loss: str | LossFunction, target: TensorType | None, metrics: Sequence[str]) -> Any:
    """(inputs, target, parameters, states, seed, step) → (loss, metrics, next states)."""
    training = for_training(program)
    main = training.module["main"]
    count = len(program.inputs)
    output_types = list(main.body.body.fields)[: len(program.outputs)]
    wanted = _target(program, loss, target, output_types)
    variables = [relax.Var(p.name, p.ty) for p in main.params]
    target_variable = relax.Var("target", relax_type(wanted))

    def body(e: Emitter) -> Sequence[Expr]:
        results = inline(e, main, variables)
        first = len(program.outputs)
        outputs, updates = results[:first], results[first : first + len(program.state_updates)]
        e.place = "loss"
        value = LOSSES[loss](e, outputs[0], target_variable) if isinstance(loss, str) else e(loss(*outputs, target_variable))
        _check_loss(value)
        e.place = "metrics"
        return [value, *(METRICS[m](e, outputs[0], target_variable) for m in metrics), *updates]

    return build_function([*variables[:count], target_variable, *variables[count:]], body)


def _target(program: Program, loss: str | LossFunction, target: TensorType | None, outputs: Sequence[Any]) -> TensorType:
    if not isinstance(loss, str):
        if target is None:
            raise InvalidProgramError("a loss function of your own needs target=TensorType(shape, dtype)")
        return target
    if loss not in LOSSES:
        expected = f"one of {', '.join(LOSSES)}, or a function (outputs…, target) → scalar"
        raise InvalidProgramError(describe(f"unknown loss {loss!r}", expected=expected))
    if len(outputs) != 1:
        raise InvalidProgramError(
            describe(
                f"{loss} takes one output",
                found=f"{len(outputs)} outputs: {', '.join(program.outputs)}",
                remedy="give a loss function of your own",
            )
        )
    return target_type(loss, outputs[0], target)


def _check_loss(value: Expr) -> None:
    shape = getattr(value.ty, "shape", None)
    if shape is None or shape_of(value) or dtype_of(value) not in ("float32", "float64"):
        raise InvalidProgramError(
            describe("the loss is not a scalar", found=str(value.ty), expected="a float scalar", remedy="take its mean or sum")
        )


def _with_optimizer(program: Program, adjoint: Any, optimizer: Optimizer, state: Mapping[str, np.ndarray], metrics: int) -> Any:
    """(inputs, target, parameters, states, optimizer state, step, seed, learning rate) → all outputs of a step."""
    batch = [relax.Var(p.name, p.ty) for p in adjoint.params[:-2]]
    opt = {name: relax.Var(name, relax_type(TensorType(a.shape, a.dtype.name))) for name, a in state.items()}
    clock = {name: relax.Var(name, relax_type(t)) for name, t in _CLOCK.items()}
    parameters = dict(zip(program.parameters, batch[_parameter_slice(program)], strict=True))
    states = dict(zip(program.states, batch[_parameter_slice(program).stop :], strict=True))

    def body(e: Emitter) -> Sequence[Expr]:
        results, gradients = inline(e, adjoint, [*batch, clock["seed"], clock["step"]])
        shown, updates = results[: 1 + metrics], results[1 + metrics :]
        named = dict(zip(parameters, gradients, strict=True))
        new, new_opt = optimizer.update(e, clock["learning_rate"], parameters, named, opt)
        new_states = {**states, **dict(zip(program.state_updates, updates, strict=True))}
        return [*shown, *(new[n] for n in parameters), *(new_states[n] for n in states), *(new_opt[n] for n in opt)]

    return build_function([*batch, *opt.values(), *clock.values()], body)
