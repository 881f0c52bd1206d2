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
from gensyn_tvm.program import Program
from gensyn_tvm.training.accumulation import accumulate, check_count
from gensyn_tvm.training.clipping import Clip
from gensyn_tvm.training.emit import Emitter, Expr, build_function, dtype_of, shape_of
from gensyn_tvm.training.losses import Loss, LossFunction, TargetTypes
from gensyn_tvm.training.modes import for_inference
from gensyn_tvm.training.optimizers import Optimizer
from gensyn_tvm.training.plan import CLOCK, Plan, check_names, make_plan, state_roles, variable
from gensyn_tvm.training.precision import MixedPrecision
from gensyn_tvm.training.recomputation import Checkpoint, nodes_to_recompute
from gensyn_tvm.training.step_metrics import Metrics


@dataclass(frozen=True)
class TrainingStep:
    """One step of training as a canonical graph.

    Inputs, in order: the batch's inputs, ``target`` (a loss may have more), parameters, buffers (frozen parameters first),
    optimizer state, ``step`` (int64, counted by the caller from 0), ``seed`` (int64), ``learning_rate`` (float32). Outputs:
    ``loss``, the metrics, then the next value of every parameter, buffer and optimizer state; frozen parameters have none.

    Attributes:
        graph: the canonical graph.
        parameters, states, optimizer_state: initial arrays by input name; frozen parameters are among the states.
        learning_rate: the optimizer's default.
        origin: where the model came from.
        recomputed: indices of the nodes that are computed again for the gradients instead of being kept; no part of the digest.
    """

    graph: Graph
    parameters: Mapping[str, np.ndarray]
    states: Mapping[str, np.ndarray]
    optimizer_state: Mapping[str, np.ndarray]
    learning_rate: float
    origin: str = ""
    recomputed: frozenset[int] = frozenset()

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
    roles = [*((i, "input") for i in program.inputs), *state_roles(program)]
    check_names([name for name, _ in roles])
    outputs = [(name, False) for name in program.outputs]
    name = program.origin or "program"
    return freeze(inference.module, name=name, inputs=roles, outputs=outputs, extents=program.extents)


def training_step(
    program: Program,
    *,
    loss: str | Loss | LossFunction = "cross_entropy",
    optimizer: str | Optimizer = "adamw",
    target: TargetTypes = None,
    metrics: Metrics | None = None,
    frozen: Sequence[str] = (),
    clip: Clip | None = None,
    microbatches: int | None = None,
    precision: MixedPrecision | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingStep:
    """The canonical graph of one training step of a model; docs/training.md has the formulas.

    Args:
        program: an imported model.
        loss: a loss object (``CrossEntropy(label_smoothing=0.1)``), the name of one with default settings (docs/losses.md), or
            a function of the model's outputs and the targets that returns a scalar Relax expression.
        optimizer: an optimizer with its settings (``SGD``, ``AdamW``, … of docs/optimizers.md), or the name of one with default
            settings.
        target: type of the target; may be left out where the loss knows it. For a function also a mapping from names to types,
            if it takes several targets.
        metrics: further outputs: ``accuracy``, ``top5_accuracy``, ``perplexity``, ``mean_absolute_error``, ``gradient_norm``,
            ``parameter_norm``, ``learning_rate``, with a loss scale ``loss_scale`` and ``skipped``; or a mapping of output
            names to these or to functions like ``loss``. By default ``("accuracy",)`` for class indices, nothing otherwise.
        frozen: ``fnmatch`` patterns of parameters that keep their values; they become buffers.
        clip: ``ClipNorm(max_norm)`` or ``ClipValue(limit)``.
        microbatches: n: inputs and targets get a leading axis n, and the gradients and the loss are means over the n
            microbatches, each of the program's shapes.
        precision: ``MixedPrecision(dtype, loss_scale)``.
        checkpoint: what to compute again for the gradients instead of keeping it: ``"sqrt"``, or patterns over places in the
            model (``nodes_to_recompute``). It saves memory, costs time, and changes no digest and no bit.

    Raises:
        InvalidProgramError: something that is no program, an unknown loss, metric or optimizer, a loss that is no float scalar,
            a target of the wrong type, a parameter that the loss does not depend on, a name that is used twice, a pattern that
            no parameter matches, a setting of the wrong kind.
        UnsupportedOperatorError: operators without a canonical form or without a gradient, all of them in one error.
    """
    if microbatches is not None:
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
    updated = [*plan.program.parameters, *plan.updated_states, *plan.optimizer_state]
    graph = freeze(
        _module(plan, microbatches),
        name=program.origin or "program",
        inputs=[
            *plan.batch_roles,
            *state_roles(plan.program),
            *((name, "optimizer") for name in plan.optimizer_state),
            *((name, name) for name in CLOCK),
        ],
        outputs=[("loss", False), *((name, False) for name in plan.metrics), *((name, True) for name in updated)],
    )
    return TrainingStep(
        graph=graph,
        parameters=dict(plan.program.parameters),
        states=dict(plan.program.states),
        optimizer_state=dict(plan.optimizer_state),
        learning_rate=float(plan.optimizer.lr),
        origin=program.origin,
        recomputed=nodes_to_recompute(graph, checkpoint),
    )


def _module(plan: Plan, microbatches: int | None) -> Any:
    """(inputs, targets, parameters, states, optimizer state, step, seed, learning rate) → all outputs of a step."""
    leading = [] if microbatches is None else [microbatches]
    batch = [relax.Var(p.name, relax.TensorType([*leading, *shape_of(p)], dtype_of(p))) for p in plan.batch]
    tensors = plan.variables()
    clock = {name: variable(name, t) for name, t in CLOCK.items()}
    seed, step = clock["seed"], clock["step"]

    def body(e: Emitter) -> Sequence[Expr]:
        if microbatches is None:
            averaged, states = plan.gradients(e, batch, tensors, seed, step)
        else:
            averaged, states = accumulate(e, plan, batch, tensors, seed, step, microbatches)
        shown, new = plan.update(e, averaged, tensors, clock["learning_rate"])
        return [
            *shown,
            *(new[n] for n in plan.program.parameters),
            *(states[n] for n in plan.updated_states),
            *(new[n] for n in plan.optimizer_state),
        ]

    return build_function([*batch, *tensors.values(), *clock.values()], body)
