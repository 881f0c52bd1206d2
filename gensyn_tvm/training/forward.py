"""The forward function of a training step: the model, its loss and the metrics of a batch, and which parameters are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from tvm import relax

from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.program import Program
from gensyn_tvm.training.emit import Emitter, Expr, Rewrite, build_function, dtype_of, inline
from gensyn_tvm.training.losses import Loss, Scored, TargetTypes, relax_type
from gensyn_tvm.training.modes import for_training
from gensyn_tvm.training.step_metrics import MetricFunction, Metrics, check_scalar, chosen_metrics, emit_metric, of_batch


def without_frozen(program: Program, patterns: Sequence[str]) -> tuple[Program, tuple[str, ...]]:
    """The program with the parameters that match a pattern as states that nothing updates, before the others; their names.

    Raises:
        InvalidProgramError: a pattern that no parameter matches, or nothing left to train.
    """
    if isinstance(patterns, str):
        raise InvalidProgramError(describe("frozen= takes a sequence of patterns", found=repr(patterns)))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in program.parameters):
            names = list(program.parameters)
            shown = ", ".join(names[:8]) + (f", … ({len(names)} in all)" if len(names) > 8 else "")
            raise InvalidProgramError(
                describe(f"no parameter matches the frozen pattern {pattern!r}", expected=f"one of {shown}")
            )
    frozen = tuple(name for name in program.parameters if any(fnmatchcase(name, p) for p in patterns))
    if not frozen:
        return program, ()
    trained = [name for name in program.parameters if name not in frozen]
    if not trained:
        raise InvalidProgramError(describe("every parameter is frozen; there is nothing to train", found=", ".join(patterns)))
    main = program.module["main"]
    given = dict(zip([*program.inputs, *program.parameters, *program.states], main.params, strict=True))
    variables = {name: relax.Var(p.name, p.ty) for name, p in given.items()}
    order = [*program.inputs, *trained, *frozen, *program.states]
    moved = replace(
        program,
        module=build_function([variables[n] for n in order], lambda e: inline(e, main, list(variables.values()))),
        parameters={name: program.parameters[name] for name in trained},
        states={**{name: program.parameters[name] for name in frozen}, **program.states},
    )
    return moved, frozen


@dataclass(frozen=True)
class Forward:
    """The forward function.

    Attributes:
        module: its ``main`` is (inputs, targets, parameters, states, seed, step[, loss scale]) → ([loss * loss scale,] loss,
            metrics of the batch, next states).
        targets: names of the targets.
        metrics: all metrics of the step, name → name of a metric or function.
    """

    module: Any
    targets: tuple[str, ...]
    metrics: Mapping[str, str | MetricFunction]


def forward(
    program: Program,
    loss: Loss,
    target: TargetTypes,
    metrics: Metrics | None,
    available: Sequence[str],
    *,
    rewrite: Rewrite | None = None,
    scaled: bool = False,
) -> Forward:
    """The forward function of a program in training.

    Args:
        program: the model, trained parameters only.
        loss: the loss.
        target, metrics: as ``training_step`` takes them.
        available: the metrics of a step that this one has.
        rewrite: for the model's operators.
        scaled: whether there is a loss scale, a float32 scalar.

    Raises:
        InvalidProgramError: a target or output that does not suit the loss, a loss or metric that is no float scalar, an
            unknown metric.
    """
    training = for_training(program)
    main = training.module["main"]
    count = len(program.inputs)
    types = dict(zip(program.outputs, list(main.body.body.fields), strict=False))
    wanted = loss.targets(types, target)
    variables = [relax.Var(p.name, p.ty) for p in main.params]
    targets = {name: relax.Var(name, relax_type(t)) for name, t in wanted.items()}
    first_target = next(iter(targets.values()), None)
    asked = loss.default_metrics(wanted) if metrics is None else metrics
    chosen = chosen_metrics(asked, available, loss.read(types)[0], first_target)
    scale = [relax.Var("loss_scale", relax.TensorType([], "float32"))] if scaled else []

    def body(e: Emitter) -> Sequence[Expr]:
        results = inline(e, main, variables, rewrite)
        first = len(program.outputs)
        outputs = dict(zip(program.outputs, results[:first], strict=True))
        e.place = "loss"
        value = loss.emit(e, outputs, targets)
        check_scalar(value, "the loss")
        before = [e.mul(value, e.cast(s, dtype_of(value))) for s in scale]
        e.place = "metrics"
        scored = Scored(loss.read(outputs)[0], first_target, value, loss.ignored)
        every = list(outputs.values()), list(targets.values())
        shown = [emit_metric(e, name, metric, scored, *every) for name, metric in of_batch(chosen).items()]
        return [*before, value, *shown, *results[first : first + len(program.state_updates)]]

    module = build_function([*variables[:count], *targets.values(), *variables[count:], *scale], body)
    return Forward(module, tuple(targets), chosen)
