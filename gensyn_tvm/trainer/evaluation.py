"""Evaluation during training: loss and metrics of the model in inference mode on samples held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from tvm import relax

from gensyn_tvm.canonical.from_relax import freeze
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.canonical.types import to_carrier
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.program import Program
from gensyn_tvm.runtime.executable import Executable, State, as_array
from gensyn_tvm.trainer.batches import batch_size, named_batch
from gensyn_tvm.trainer.data import batches_of
from gensyn_tvm.trainer.stepper import Stepper
from gensyn_tvm.training.emit import Emitter, Expr, build_function, inline
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
from gensyn_tvm.training.modes import for_inference
from gensyn_tvm.training.optimizers import averaged

#: (outputs by name, the batch by name) → numbers by name.
Metrics = Callable[[Mapping[str, np.ndarray], Mapping[str, Any]], Mapping[str, float]]


@dataclass(frozen=True)
class Evaluation:
    """What is measured every so often.

    Each number is the mean over the batches: summed in float64 in the order of the batches, then divided by their count.
    Samples are not shuffled, an incomplete last batch is left out.

    Attributes:
        program: an inference program (anything that ``compile`` takes, or an ``Executable``) whose parameters and buffers have
            the names of the training step's. Without ``metrics`` all its outputs must be scalars; see ``evaluation_graph``.
        data: as for ``Trainer.fit``.
        every: steps between two evaluations; there is one after the last step too.
        metrics: makes numbers of the outputs; what it computes beyond integers should be exact if logs are to be equal
            everywhere.
        best: name of the number that says which checkpoint is best; the first one by default.
        larger_is_better: for that number.
        batches: use only so many batches.
        averaged: with the averages of ``ExponentialMovingAverage`` in place of the parameters.
    """

    program: Any
    data: Any
    every: int
    metrics: Metrics | None = None
    best: str | None = None
    larger_is_better: bool = False
    batches: int | None = None
    averaged: bool = False


def evaluation_graph(
    program: Program,
    *,
    loss: str | Loss | LossFunction = "cross_entropy",
    target: TargetTypes = None,
    metrics: Sequence[str] | None = None,
) -> Graph:
    """A canonical graph (inputs, targets, parameters, buffers) → (loss, metrics) of the model in inference mode.

    Args:
        program: an imported model.
        loss, target, metrics: as for ``training_step``.

    Raises:
        InvalidProgramError: an unknown loss or metric, or one that does not suit the model.
    """
    chosen = as_loss(loss)
    main = for_inference(program).module["main"]
    types = dict(zip(program.outputs, list(main.body.body.fields), strict=False))
    wanted = chosen.targets(types, target)
    names = chosen.default_metrics(wanted) if metrics is None else tuple(metrics)
    variables = [relax.Var(p.name, p.ty) for p in main.params]
    targets = {name: relax.Var(name, relax_type(t)) for name, t in wanted.items()}
    first_target = next(iter(targets.values()), None)
    for name in names:
        check_metric(name, chosen.read(types)[0], first_target)

    def body(e: Emitter) -> Sequence[Expr]:
        outputs = dict(zip(program.outputs, inline(e, main, variables), strict=False))
        e.place = "evaluation"
        value = chosen.emit(e, outputs, targets)
        scored = Scored(chosen.read(outputs)[0], first_target, value, chosen.ignored)
        return [value, *(METRICS[m](e, scored) for m in names)]

    count = len(program.inputs)
    return freeze(
        build_function([*variables[:count], *targets.values(), *variables[count:]], body),
        name=f"{program.origin or 'program'} evaluation",
        inputs=[
            *((i, "input") for i in program.inputs),
            *((n, "target") for n in targets),
            *((n, "parameter") for n in program.parameters),
            *((n, "buffer") for n in program.states),
        ],
        outputs=[("loss", False), *((n, False) for n in names)],
    )


class Evaluator:
    """An ``Evaluation`` made ready: compiled, its data cut into batches.

    Raises:
        InputError: ``every`` or ``batches`` below 1, a training step as the program, parameters that the step does not have.
    """

    def __init__(self, evaluation: Evaluation, step: Stepper, target: Any) -> None:
        from gensyn_tvm.compiler import compile

        self.evaluation = evaluation
        program = evaluation.program
        if isinstance(program, Executable):
            self.exe = program
        else:
            self.exe = compile(program, target, threads=step.threads)
            self.exe.release()  # it only ever reads the arrays that are trained
        lacking = sorted(set(self.exe.state_types) - set(step.exe.state_types))
        if evaluation.every < 1 or (evaluation.batches or 1) < 1 or self.exe.is_training_step or lacking:
            found = f"every={evaluation.every}, batches={evaluation.batches}"
            found += ", a training step" if self.exe.is_training_step else ""
            found += f", arrays that the training step lacks: {', '.join(lacking)}" if lacking else ""
            expected = "an inference program of the trained model, and at least 1"
            raise InputError(describe("this evaluation cannot be done", found=found, expected=expected))
        self._step = step.graph
        self.batches = batches_of(evaluation.data, lambda: batch_size(self.exe.graph), seed=0, shuffle=False)

    def run(self, arrays: Mapping[str, Any]) -> dict[str, float]:
        """The numbers for a state's arrays, which nobody writes to meanwhile: they are read where they are.

        Raises:
            InputError: the data do not fit the program, or give no batch; no averages in the state.
        """
        arrays = {**arrays, **averaged(arrays)} if self.evaluation.averaged else arrays
        self.exe.check_state(State(arrays))
        own = {name: to_carrier(as_array(arrays[name])) for name in self.exe.state_types}
        try:
            return self._means(own)
        finally:
            self.exe.forget()

    def _means(self, own: Mapping[str, np.ndarray]) -> dict[str, float]:
        sums: dict[str, np.float64] = {}
        count = 0
        for batch in islice(self.batches.start(0, epochs=1), self.evaluation.batches):
            for name, value in self._numbers(named_batch(self._step, batch), own).items():
                sums[name] = sums.get(name, np.float64(0)) + np.float64(value)
            count += 1
        if not sums:
            raise InputError("the data of an evaluation give no batch")
        return {name: float(value / np.float64(count)) for name, value in sums.items()}

    def _numbers(self, batch: Mapping[str, Any], own: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
        reads = {i.name for i in self.exe.graph.inputs if i.role in ("input", "target")}
        results = self.exe.run({n: v for n, v in batch.items() if n in reads}, {}, own=own)
        outputs = {o.name: as_array(r) for o, r in zip(self.exe.graph.outputs, results, strict=True)}
        if self.evaluation.metrics is not None:
            return self.evaluation.metrics(outputs, batch)
        wrong = [name for name, value in outputs.items() if value.shape != ()]
        if wrong:
            remedy = "evaluate evaluation_graph(program, loss=…), or give Evaluation.metrics"
            raise InputError(describe("an evaluated output is no scalar", found=", ".join(wrong), remedy=remedy))
        return {name: value[()] for name, value in outputs.items()}

    def best_name(self, numbers: Mapping[str, float]) -> str:
        """The number that decides which checkpoint is best.

        Raises:
            InputError: ``Evaluation.best`` names none.
        """
        name = self.evaluation.best or next(iter(numbers))
        if name not in numbers:
            raise InputError(describe(f"no number is called {name!r}", found=", ".join(numbers)))
        return name

    def is_better(self, value: float, than: float) -> bool:
        """Whether ``value`` beats the best so far; a NaN never does."""
        return value > than if self.evaluation.larger_is_better else value < than
