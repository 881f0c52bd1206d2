"""Comparison of a model's training with its framework's: loss, gradients and next states of one step, without dropout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gensyn_tvm.canonical.types import FLOATS, TensorType
from gensyn_tvm.compiler import compile, source_of
from gensyn_tvm.conversion.framework_steps import FrameworkStep, Trainable
from gensyn_tvm.conversion.verify import check, difference, in_framework
from gensyn_tvm.evidence.samples import Draw, sample
from gensyn_tvm.program import Program
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.training.modes import without_dropout
from gensyn_tvm.training.optimizers import SGD
from gensyn_tvm.training.step import training_step

#: So large that p - rate * gradient holds the gradient to the last bits; a power of two, so that dividing by it is exact.
RATE = 2.0**40
#: Of the largest gradient: gradients below this part of it are compared with that, since some are nothing but rounding errors,
#: such as those of a bias in front of a normalisation.
_LEAST = 0.01
#: In place of a loss that the framework's table lacks.
_OTHER_LOSS = "mean_squared_error"
_OF_CLASSES = ("cross_entropy", "nll")


@dataclass(frozen=True)
class TrainingVerification:
    """The outcome of comparing one step.

    Attributes:
        reference: what computed the framework's step.
        loss: with which both were computed.
        seed: of inputs and target.
        tolerance: the limit.
        differences: of the loss, of each gradient and of each next state by name, relative to its largest magnitude, of a
            gradient at least a hundredth of the largest of all; infinite where shapes, infinities or NaNs differ.
        note: what was not compared, and why.
    """

    reference: str
    loss: str
    seed: int
    tolerance: float
    differences: Mapping[str, float]
    note: str = ""

    @property
    def largest(self) -> float:
        """Of all of them."""
        return max(self.differences.values(), default=0.0)


def verify_training(
    program: Program, trainable: Trainable, loss: str, *, target: str, tolerance: float, seed: int = 0
) -> TrainingVerification:
    """Take one step here and in the framework from the same arrays.

    Args:
        loss: of the training step; mean squared error stands for one that the framework's table lacks, and the note says so.
        target: of the machine code.

    Raises:
        VerificationError: something differs by more than the tolerance, or the framework cannot take the step.
    """
    notes = []
    narrow = [name for name, a in program.parameters.items() if a.dtype.name not in FLOATS]
    if narrow:
        note = f"not compared: parameters of {program.parameters[narrow[0]].dtype.name} round a step, not a gradient"
        return TrainingVerification("nothing", loss, seed, tolerance, {}, note)
    if loss not in trainable.losses:
        notes.append(f"{_OTHER_LOSS} in place of {loss}, of which the framework has no function like ours")
        loss = _OTHER_LOSS
    source = source_of(training_step(without_dropout(program), loss=loss, optimizer=SGD(lr=RATE), metrics=()))
    batch = {i.name: i.type for i in source.graph.inputs if i.role in ("input", "target")}
    arrays = {name: _drawn(program, name, type_, loss, seed, stream) for stream, (name, type_) in enumerate(batch.items())}
    (target_name,) = (i.name for i in source.graph.inputs if i.role == "target")
    inputs = [arrays[name] for name in batch if name != target_name]
    theirs = in_framework(lambda: trainable.step(inputs, arrays[target_name], loss))
    exe = compile(source, target)
    state, metrics = exe(exe.init(0), arrays)
    if any("dropout" in op for op in _operators(program)):
        notes.append("dropout is off in both")
    done = _compared(program, state, metrics["loss"], theirs)
    return check(TrainingVerification(theirs.reference, loss, seed, tolerance, done, "; ".join(notes)))


def _operators(program: Program) -> set[str]:
    values = [b.value for block in program.module["main"].body.blocks for b in block.bindings]
    return {str(getattr(getattr(v, "op", None), "name", "")) for v in values}


def _drawn(program: Program, name: str, type_: TensorType, loss: str, seed: int, stream: int) -> np.ndarray:
    """An input, or a target that suits the loss: classes, no negative numbers for a logarithm."""
    if name in program.inputs:
        return sample(type_, seed, stream)
    if loss in _OF_CLASSES:
        output = program.module["main"].ret_ty.fields[0]
        return sample(type_, seed, stream, Draw(below=int(output.shape[1])))
    array = sample(type_, seed, stream)
    return np.abs(array) if loss == "kl_divergence" else array


def _compared(program: Program, state: State, loss: float, theirs: FrameworkStep) -> dict[str, float]:
    found = {"loss": difference(np.float64(loss), np.float64(theirs.loss))}
    largest = max((float(np.abs(g[np.isfinite(g)]).max(initial=0)) for g in theirs.gradients.values()), default=0.0)
    for name, before in program.parameters.items():
        # A step of size RATE, taken back.
        gradient = (before.astype(np.float64) - state[name].astype(np.float64)) / RATE
        wanted = theirs.gradients.get(name, np.zeros(before.shape)).astype(np.float64)
        found[f"gradient of {name}"] = difference(gradient, wanted, least=_LEAST * largest)
    for name, wanted in theirs.states.items():
        found[f"next {name}"] = difference(state[name], wanted)
    return found
