"""Gradient accumulation: one update from several microbatches, in one program or one microbatch after another.

Both ways compute the same bits. Losses, metrics of a batch and gradients are added over microbatches by ``PairwiseSum``, then
multiplied by 1 / n. Dropout in microbatch m of step s of n microbatches draws the bits of step s * n + m. Batch normalisation
hands its running statistics from each microbatch to the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.canonical.from_relax import freeze
from gensyn_tvm.canonical.graph import STATE_ROLES, Graph
from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.program import Program
from gensyn_tvm.training.clipping import Clip
from gensyn_tvm.training.emit import Emitter, Expr, build_function, op, shape_of
from gensyn_tvm.training.losses import Loss, LossFunction, TargetTypes
from gensyn_tvm.training.optimizers import Optimizer
from gensyn_tvm.training.pairwise import PairwiseSum
from gensyn_tvm.training.plan import CLOCK, Plan, check_names, make_plan, state_roles, variable
from gensyn_tvm.training.precision import SCALE, MixedPrecision
from gensyn_tvm.training.settings import is_count
from gensyn_tvm.training.step_metrics import Metrics


def check_count(microbatches: Any) -> None:
    """Check the number of microbatches.

    Raises:
        InvalidProgramError: it is no positive integer.
    """
    if not is_count(microbatches, 1):
        raise InvalidProgramError(
            describe("gradients cannot be accumulated", found=f"microbatches={microbatches!r}", expected="a positive integer")
        )


def accumulate(
    e: Emitter, plan: Plan, batch: Sequence[Expr], tensors: Mapping[str, Expr], seed: Expr, step: Expr, count: int
) -> tuple[list[Expr], dict[str, Expr]]:
    """Means over ``count`` microbatches of ``plan.averaged``, and the states after the last; ``batch`` has a leading axis."""
    sums: PairwiseSum[list[Expr]] = PairwiseSum(lambda a, b: _added(e, a, b))
    states: dict[str, Expr] = {}
    for m in range(count):
        e.place = f"microbatch {m}"
        one = [_microbatch(e, x, m) for x in batch]
        values, states = plan.gradients(e, one, {**tensors, **states}, seed, e.add(e.mul(step, count), m))
        sums.push(values)
    return mean(e, sums.total(), count), states


def _added(e: Emitter, a: Sequence[Expr], b: Sequence[Expr]) -> list[Expr]:
    e.place = "sum over microbatches"
    return [e.add(x, y) for x, y in zip(a, b, strict=True)]


def _microbatch(e: Emitter, x: Expr, m: int) -> Expr:
    return e(op.reshape(e(op.strided_slice(x, [0], [m], [m + 1], [1])), shape_of(x)[1:]))


def mean(e: Emitter, sums: Sequence[Expr], count: int) -> list[Expr]:
    """Sums over microbatches * (1 / count)."""
    e.place = "mean over microbatches"
    return [e.mul(s, 1.0 / count) for s in sums]


# ---- one microbatch after another -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class AccumulatedStep:
    """One step of training as three small canonical graphs; ``compile`` makes an ``AccumulatedExecutable`` of it.

    Attributes:
        gradient: a microbatch's inputs and targets, parameters, buffers, [``optimizer.loss_scale``,] ``step`` (the step * n +
            the index of the microbatch), ``seed`` → loss, metrics of a batch, ``gradient.<parameter>``; next buffers.
        add: ``left.<name>`` and ``right.<name>`` of these results → their sums.
        apply: ``sum.<name>``, parameters, optimizer state, ``learning_rate`` → loss, metrics; next parameters and optimizer
            state.
        microbatches: n.
        parameters, states, optimizer_state, learning_rate, origin: as in ``TrainingStep``.
    """

    gradient: Graph
    add: Graph
    apply: Graph
    microbatches: int
    parameters: Mapping[str, np.ndarray]
    states: Mapping[str, np.ndarray]
    optimizer_state: Mapping[str, np.ndarray]
    learning_rate: float
    origin: str = ""

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The whole initial state by name."""
        return {**self.parameters, **self.states, **self.optimizer_state}

    def arrays_of(self, graph: Graph) -> dict[str, np.ndarray]:
        """The initial arrays that one of the graphs reads."""
        return {i.name: self.arrays[i.name] for i in graph.inputs if i.role in STATE_ROLES}


def accumulated_step(
    program: Program,
    *,
    microbatches: int,
    loss: str | Loss | LossFunction = "cross_entropy",
    optimizer: str | Optimizer = "adamw",
    target: TargetTypes = None,
    metrics: Metrics | None = None,
    frozen: Sequence[str] = (),
    clip: Clip | None = None,
    precision: MixedPrecision | None = None,
) -> AccumulatedStep:
    """Like ``training_step(program, microbatches=n, …)``, to the bit, with the memory of one microbatch.

    Raises:
        InvalidProgramError, UnsupportedOperatorError: as ``training_step``.
    """
    check_count(microbatches)
    plan = make_plan(
        program,
        loss=loss,
        optimizer=optimizer,
        target=target,
        metrics=metrics,
        frozen=frozen,
        clip=clip,
        precision=precision,
    )
    gradient = _gradient_graph(plan)
    return AccumulatedStep(
        gradient=gradient,
        add=_add_graph(plan, gradient),
        apply=_apply_graph(plan, gradient, microbatches),
        microbatches=microbatches,
        parameters=dict(plan.program.parameters),
        states=dict(plan.program.states),
        optimizer_state=dict(plan.optimizer_state),
        learning_rate=float(plan.optimizer.lr),
        origin=program.origin,
    )


def _gradient_graph(plan: Plan) -> Graph:
    tensors, program = plan.variables(), plan.program
    read = [*program.parameters, *program.states, *([SCALE] if SCALE in tensors else [])]
    clock = {name: variable(name, CLOCK[name]) for name in ("step", "seed")}

    def body(e: Emitter) -> Sequence[Expr]:
        values, states = plan.gradients(e, plan.batch, tensors, clock["seed"], clock["step"])
        return [*values, *(states[n] for n in plan.updated_states)]

    return freeze(
        build_function([*plan.batch, *(tensors[n] for n in read), *clock.values()], body),
        name=f"gradient of {program.origin or 'program'}",
        inputs=[
            *plan.batch_roles,
            *state_roles(program),
            *((n, "optimizer") for n in read if n == SCALE),
            *((n, n) for n in clock),
        ],
        outputs=[*((n, False) for n in plan.averaged), *((n, True) for n in plan.updated_states)],
    )


def _sums(gradient: Graph, prefix: str) -> list[Any]:
    """A variable for each result of a microbatch that is summed."""
    types = gradient.value_types()
    return [variable(f"{prefix}.{o.name}", types[o.value]) for o in gradient.outputs if not o.updates]


def _add_graph(plan: Plan, gradient: Graph) -> Graph:
    left, right = _sums(gradient, "left"), _sums(gradient, "right")
    return freeze(
        build_function([*left, *right], lambda e: _added(e, left, right)),
        name=f"sum of gradients of {plan.program.origin or 'program'}",
        inputs=[(v.name, "input") for v in (*left, *right)],
        outputs=[(n, False) for n in plan.averaged],
    )


def _apply_graph(plan: Plan, gradient: Graph, count: int) -> Graph:
    sums, rate = _sums(gradient, "sum"), variable("learning_rate", CLOCK["learning_rate"])
    read = [*plan.program.parameters, *plan.optimizer_state]
    tensors = {name: v for name, v in plan.variables().items() if name in read}
    inputs = [
        *((v.name, "input") for v in sums),
        *((n, "parameter") for n in plan.program.parameters),
        *((n, "optimizer") for n in plan.optimizer_state),
        ("learning_rate", "learning_rate"),
    ]
    check_names([name for name, _ in inputs])

    def body(e: Emitter) -> Sequence[Expr]:
        shown, new = plan.update(e, mean(e, sums, count), tensors, rate)
        return [*shown, *(new[n] for n in read)]

    return freeze(
        build_function([*sums, *tensors.values(), rate], body),
        name=f"update of {plan.program.origin or 'program'}",
        inputs=inputs,
        outputs=[("loss", False), *((n, False) for n in plan.metrics), *((n, True) for n in read)],
    )
