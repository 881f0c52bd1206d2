"""What a training step consists of, before it is laid out as one program or as several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.program import Program
from gensyn_tvm.training.clipping import Clip, ClipNorm, ClipValue, global_norm
from gensyn_tvm.training.differentiate import check_differentiable, differentiate
from gensyn_tvm.training.emit import Emitter, Expr, inline, number, op
from gensyn_tvm.training.forward import forward, without_frozen
from gensyn_tvm.training.losses import Loss, LossFunction, TargetTypes, as_loss, relax_type
from gensyn_tvm.training.optimizers import OPTIMIZERS, Optimizer
from gensyn_tvm.training.precision import GOOD_STEPS, SCALE, DynamicLossScale, MixedPrecision, StaticLossScale, all_finite
from gensyn_tvm.training.step_metrics import MetricFunction, Metrics, of_batch

Expressions = dict[str, Expr]

_INT64 = TensorType((), "int64")
#: Scalars that come with each call, in the order of a step's inputs.
CLOCK = {"step": _INT64, "seed": _INT64, "learning_rate": TensorType((), "float32")}


@dataclass(frozen=True)
class Plan:
    """A training step, apart from how its parts are put together.

    Attributes:
        program: the model; its parameters are those that are trained, frozen ones are the first of its states.
        frozen: names of the frozen parameters.
        targets: names of the targets.
        adjoint: Relax function (arguments of ``Forward.module``) → (its results, gradients).
        optimizer, clip, precision: as ``training_step`` takes them.
        metrics: name → name of a metric or function.
        optimizer_state: initial arrays, those of the loss scale last.
    """

    program: Program
    frozen: tuple[str, ...]
    targets: tuple[str, ...]
    adjoint: Any
    optimizer: Optimizer
    clip: Clip | None
    precision: MixedPrecision | None
    metrics: Mapping[str, str | MetricFunction]
    optimizer_state: Mapping[str, np.ndarray]

    @property
    def batch(self) -> list[Any]:
        """Variables of the inputs and the targets of one (micro)batch."""
        return list(self.adjoint.params)[: len(self.program.inputs) + len(self.targets)]

    @property
    def batch_roles(self) -> list[tuple[str, str]]:
        """Names and roles of the inputs and the targets."""
        return [*((name, "input") for name in self.program.inputs), *((name, "target") for name in self.targets)]

    @property
    def updated_states(self) -> list[str]:
        """Names of the states that a step has as outputs: all but the frozen parameters."""
        return [name for name in self.program.states if name not in self.frozen]

    @property
    def averaged(self) -> list[str]:
        """Names of what is averaged over microbatches: the loss, the metrics of a batch, the gradients."""
        return ["loss", *of_batch(self.metrics), *(f"gradient.{name}" for name in self.program.parameters)]

    def variables(self) -> Expressions:
        """A variable for each parameter, state, and array of the optimizer's state, by name, in this order."""
        arrays = {**self.program.parameters, **self.program.states, **self.optimizer_state}
        return {name: variable(name, TensorType(a.shape, a.dtype.name)) for name, a in arrays.items()}

    def gradients(
        self, e: Emitter, batch: Sequence[Expr], tensors: Mapping[str, Expr], seed: Expr, step: Expr
    ) -> tuple[list[Expr], Expressions]:
        """The values of ``averaged`` for one batch, and the next states by name.

        ``tensors``: parameters, states and optimizer state by name.
        """
        states = self.program.states
        named = [*self.program.parameters, *states]
        scale = [self._scale(tensors)] if self._scaled else []
        results, gradients = inline(e, self.adjoint, [*batch, *(tensors[n] for n in named), seed, step, *scale])
        results = results[len(scale) :]
        first = 1 + len(of_batch(self.metrics))
        following = dict(zip(self.program.state_updates, results[first:], strict=True))
        return [*results[:first], *gradients], {name: following.get(name, tensors[name]) for name in states}

    def update(
        self, e: Emitter, averaged: Sequence[Expr], tensors: Mapping[str, Expr], learning_rate: Expr
    ) -> tuple[list[Expr], Expressions]:
        """(loss, metrics) in the order of the outputs, and the next parameters and optimizer state by name."""
        first = 1 + len(of_batch(self.metrics))
        parameters = {name: tensors[name] for name in self.program.parameters}
        state = {name: tensors[name] for name in self.optimizer_state if name not in (SCALE, GOOD_STEPS)}
        gradients = dict(zip(parameters, averaged[first:], strict=True))
        shown = {"learning_rate": learning_rate}
        if self._scaled:
            e.place = "loss scale"
            shown["loss_scale"] = self._scale(tensors)
            inverse = e.div(1.0, shown["loss_scale"])
            gradients = {name: e.mul(g, inverse) for name, g in gradients.items()}
        finite = all_finite(e, gradients) if self._dynamic else None
        if isinstance(self.clip, ClipNorm) or self._wanted("gradient_norm"):
            e.place = "gradient norm"
            shown["gradient_norm"] = global_norm(e, gradients)
        if self._wanted("parameter_norm"):
            e.place = "parameter norm"
            shown["parameter_norm"] = global_norm(e, parameters)
        if self.clip is not None:
            gradients = self.clip.emit(e, gradients, shown.get("gradient_norm"))
        new, new_state = self.optimizer.update(e, learning_rate, parameters, gradients, state)
        if self._dynamic is not None:
            shown["skipped"] = e.cast(e(op.logical_not(finite)), "float32")
            kept = {name: e(op.where(finite, value, tensors[name])) for name, value in {**new, **new_state}.items()}
            return self._outputs(averaged[:first], shown), {**kept, **self._dynamic.update(e, tensors, finite)}
        return self._outputs(averaged[:first], shown), {**new, **new_state}

    def _outputs(self, averaged: Sequence[Expr], shown: Mapping[str, Expr]) -> list[Expr]:
        """The loss and all metrics, given the loss and metrics of a batch, and the metrics of the step by their own names."""
        of_batches = dict(zip(of_batch(self.metrics), averaged[1:], strict=True))
        return [averaged[0], *(of_batches[n] if n in of_batches else shown[str(m)] for n, m in self.metrics.items())]

    def _wanted(self, metric: str) -> bool:
        return metric in self.metrics.values()

    @property
    def _dynamic(self) -> DynamicLossScale | None:
        scale = self.precision.loss_scale if self.precision else None
        return scale if isinstance(scale, DynamicLossScale) else None

    @property
    def _scaled(self) -> bool:
        return self.precision is not None and self.precision.loss_scale is not None

    def _scale(self, tensors: Mapping[str, Expr]) -> Expr:
        scale = self.precision.loss_scale if self.precision else None
        return number(scale.scale, "float32") if isinstance(scale, StaticLossScale) else tensors[SCALE]


def make_plan(
    program: Program,
    *,
    loss: str | Loss | LossFunction,
    optimizer: str | Optimizer,
    target: TargetTypes,
    metrics: Metrics | None,
    frozen: Sequence[str],
    clip: Clip | None,
    precision: MixedPrecision | None,
) -> Plan:
    """Check the settings of a step and differentiate its loss; see ``training_step``."""
    if not isinstance(program, Program):
        raise InvalidProgramError(
            describe(
                "a training step needs a program",
                found=type(program).__name__,
                expected="what from_torch or from_onnx returns",
            )
        )
    if not program.parameters and program.origin.startswith("tflite:"):
        raise InvalidProgramError(
            describe(
                "a TFLite model has no trainable parameters: its converter folded them into one another",
                where=program.origin,
                expected="the model before it was converted",
                remedy="train the SavedModel (from_tensorflow) or the Keras model (from_keras) that the file was made of",
            )
        )
    chosen = _optimizer(optimizer)
    _check_types(clip, precision)
    scale = precision.loss_scale if precision else None
    of_scale = [*(["loss_scale"] if scale else []), *(["skipped"] if isinstance(scale, DynamicLossScale) else [])]
    available = ["gradient_norm", "parameter_norm", "learning_rate", *of_scale]
    trained, names = without_frozen(program, frozen)
    if precision:
        precision.check(trained.parameters)
    state = {**chosen.initial_state(trained.parameters), **(scale.initial_state() if scale else {})}
    rewrite = precision.rewrite if precision else None
    made = forward(trained, as_loss(loss), target, metrics, available, rewrite=rewrite, scaled=scale is not None)
    check_names([*program.inputs, *made.targets, *program.parameters, *program.states, *state, *CLOCK])
    first = len(program.inputs) + len(made.targets)
    where = slice(first, first + len(trained.parameters))
    check_differentiable(made.module["main"], where, list(trained.parameters))
    adjoint = differentiate(made.module, where)
    return Plan(trained, names, made.targets, adjoint, chosen, clip, precision, made.metrics, state)


def _optimizer(optimizer: str | Optimizer) -> Optimizer:
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        raise InvalidProgramError(
            describe(
                f"unknown optimizer {optimizer!r}",
                expected=f"one of {', '.join(OPTIMIZERS)}, or an optimizer object",
            )
        )
    return OPTIMIZERS[optimizer]


def _check_types(clip: Any, precision: Any) -> None:
    if clip is not None and not isinstance(clip, ClipNorm | ClipValue):
        raise InvalidProgramError(
            describe("gradients cannot be clipped by this", found=repr(clip), expected="ClipNorm(max_norm) or ClipValue(limit)")
        )
    if precision is not None and not isinstance(precision, MixedPrecision):
        expected = 'MixedPrecision("bfloat16") or MixedPrecision("float16", loss_scale=...)'
        raise InvalidProgramError(describe("unknown precision", found=repr(precision), expected=expected))


def check_names(names: Sequence[str]) -> None:
    """Check that no name is used twice among a graph's inputs."""
    repeated = sorted({n for n in names if list(names).count(n) > 1})
    if repeated:
        raise InvalidProgramError(
            describe(
                "names are used twice among inputs, parameters and states",
                found=", ".join(repeated),
                remedy="rename the model's inputs (input_names=) or parameters",
            )
        )


def state_roles(program: Program) -> list[tuple[str, str]]:
    """Names and roles of a program's parameters and states."""
    return [*((name, "parameter") for name in program.parameters), *((name, "buffer") for name in program.states)]


def variable(name: str, type_: TensorType) -> Any:
    """A Relax variable of a canonical type."""
    return relax.Var(name, relax_type(type_))
