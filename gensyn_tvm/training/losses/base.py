"""What all losses share: which outputs they read, their targets, reductions, and losses that are functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from tvm import relax

from gensyn_tvm.canonical.types import FLOATS, TensorType
from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, op, shape_of

#: A loss of one's own: the model's outputs, then the targets, as Relax expressions → a scalar Relax expression.
LossFunction = Callable[..., Any]
#: What a training step is told about its targets.
TargetTypes = TensorType | Mapping[str, TensorType] | None
#: An output by name or by position.
OutputName = int | str

INDICES = ("int64", "int32")


def type_of(output: Expr) -> TensorType:
    """The canonical type of a tensor expression."""
    return TensorType(tuple(shape_of(output)), dtype_of(output))


def relax_type(t: TensorType) -> Any:
    """The Relax type of a canonical one."""
    return relax.TensorType(list(t.shape), t.dtype)


@dataclass(frozen=True)
class Loss:
    """Base of the losses: settings, and how they become Relax.

    Raises:
        InvalidProgramError: a setting out of its range (at construction); outputs or targets that do not suit the loss.
    """

    #: What ``loss=`` and messages call it.
    name: ClassVar[str] = "loss"

    @property
    def ignored(self) -> int | None:
        """The class whose positions do not count, for metrics too."""
        return None

    def read(self, outputs: Mapping[str, Expr]) -> Sequence[Expr]:
        """The outputs that the loss reads; metrics read the first one."""
        raise TypeError(f"{self.name} is abstract")

    def targets(self, outputs: Mapping[str, Expr], target: TargetTypes) -> dict[str, TensorType]:
        """Names and types of the targets that come with each batch, the main one (``target``) first."""
        raise TypeError(f"{self.name} is abstract")

    def default_metrics(self, targets: Mapping[str, TensorType]) -> tuple[str, ...]:
        """The metrics of a training step that asks for none in particular."""
        return ()

    def emit(self, e: Emitter, outputs: Mapping[str, Expr], targets: Mapping[str, Expr]) -> Expr:
        """The scalar loss."""
        raise TypeError(f"{self.name} is abstract")

    def refuse(self, found: str, expected: str, remedy: str = "") -> InvalidProgramError:
        """The error for an output that the loss cannot take."""
        return InvalidProgramError(
            describe(f"{self.name} cannot take this output", found=found, expected=expected, remedy=remedy)
        )


@dataclass(frozen=True)
class OutputLoss(Loss):
    """Base of losses of one output and one target.

    Attributes:
        output: which output it reads, by name or position; may be left out if the model has one output.
    """

    output: OutputName | None = field(default=None, kw_only=True)

    def read(self, outputs: Mapping[str, Expr]) -> Sequence[Expr]:
        if self.output is None and len(outputs) != 1:
            raise InvalidProgramError(
                describe(
                    f"{self.name} takes one output",
                    found=f"{len(outputs)} outputs: {', '.join(outputs)}",
                    remedy="say which with a loss object, such as CrossEntropy(output=0), or give a function of your own",
                )
            )
        return [pick(self.name, outputs, 0 if self.output is None else self.output)]

    def targets(self, outputs: Mapping[str, Expr], target: TargetTypes) -> dict[str, TensorType]:
        (output,) = self.read(outputs)
        return {"target": self.target_type(output, single(self.name, target))}

    def target_type(self, output: Expr, target: TensorType | None) -> TensorType:
        """The type of the target for an output; ``target`` if it is given and fits."""
        raise TypeError(f"{self.name} is abstract")

    def emit(self, e: Emitter, outputs: Mapping[str, Expr], targets: Mapping[str, Expr]) -> Expr:
        (output,) = self.read(outputs)
        return self.value(e, output, targets["target"])

    def value(self, e: Emitter, output: Expr, target: Expr) -> Expr:
        """The scalar loss of an output and a target."""
        raise TypeError(f"{self.name} is abstract")


@dataclass(frozen=True)
class FunctionLoss(Loss):
    """A function of the model's outputs and the targets, in their orders, that returns a float scalar as a Relax expression."""

    name: ClassVar[str] = "a loss function"
    function: LossFunction

    def read(self, outputs: Mapping[str, Expr]) -> Sequence[Expr]:
        return list(outputs.values())

    def targets(self, outputs: Mapping[str, Expr], target: TargetTypes) -> dict[str, TensorType]:
        if target is None:
            raise InvalidProgramError("a loss function of your own needs target=TensorType(shape, dtype), or {name: type, …}")
        return {"target": target} if isinstance(target, TensorType) else dict(target)

    def emit(self, e: Emitter, outputs: Mapping[str, Expr], targets: Mapping[str, Expr]) -> Expr:
        return e(self.function(*outputs.values(), *targets.values()))


# ---- checks ---------------------------------------------------------------------------------------------------------


def check(loss: Loss, condition: bool, what: str) -> None:
    """Refuse a setting unless ``condition``."""
    if not condition:
        raise InvalidProgramError(f"{type(loss).__name__}: {what}")


def check_reduction(loss: Loss, reduction: str, allowed: Sequence[str] = ("mean", "sum")) -> None:
    """Refuse a reduction that gives no scalar."""
    if reduction not in allowed:
        raise InvalidProgramError(
            describe(
                f"{type(loss).__name__} cannot reduce like this",
                found=f"reduction={reduction!r}",
                expected=" or ".join(map(repr, allowed)),
                remedy="a training step minimises a scalar",
            )
        )


def is_number(value: Any, low: float | None = None) -> bool:
    """Whether a setting is a finite number, of at least ``low``."""
    return isinstance(value, int | float) and math.isfinite(value) and (low is None or value >= low)


def constants(loss: Loss, name: str, value: Any) -> Any:
    """A setting of numbers (nested sequences, an array) as nested tuples, so that equal losses are equal; None stays."""
    if value is None:
        return None
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidProgramError(f"{type(loss).__name__}: {name} must be numbers, found {type(value).__name__}") from error
    check(loss, bool(np.isfinite(array).all()), f"{name} must be finite")
    return _nested(array.tolist())


def _nested(value: Any) -> Any:
    return tuple(_nested(v) for v in value) if isinstance(value, list) else value


def pick(loss: str, outputs: Mapping[str, Expr], which: OutputName) -> Expr:
    """One of the model's outputs by name or position."""
    names = list(outputs)
    if isinstance(which, str) and which in outputs:
        return outputs[which]
    if isinstance(which, int) and not isinstance(which, bool) and -len(names) <= which < len(names):
        return outputs[names[which]]
    raise InvalidProgramError(
        describe(
            f"{loss} reads an output that the model does not have",
            found=f"output={which!r}",
            expected=f"one of {', '.join(names)}, or a position among them",
        )
    )


def single(loss: str, target: TargetTypes) -> TensorType | None:
    """The type of the only target."""
    if target is not None and not isinstance(target, TensorType):
        found = f"{type(target).__name__} {target!r}"
        raise InvalidProgramError(describe(f"{loss} takes one target", found=found, expected="target=TensorType(shape, dtype)"))
    return target


def fitting(loss: str, target: TensorType | None, allowed: Sequence[TensorType]) -> TensorType:
    """``target`` if it is allowed, the first of the allowed types if it is not given."""
    if target is None:
        return allowed[0]
    if target not in allowed:
        raise InvalidProgramError(
            describe(f"the target does not suit {loss}", found=str(target), expected=" or ".join(map(str, allowed)))
        )
    return target


def like_output(loss: Loss, output: Expr, target: TensorType | None, dtypes: Sequence[str] = FLOATS) -> TensorType:
    """A target of the output's type, which must be one of ``dtypes``."""
    found = type_of(output)
    if found.dtype not in dtypes:
        raise loss.refuse(str(found), f"a {' or '.join(dtypes)} output", "cast the model's output")
    return fitting(loss.name, target, [found])


# ---- parts of losses ------------------------------------------------------------------------------------------------


def reduced(e: Emitter, losses: Expr, reduction: str) -> Expr:
    """The sum of all elements, or that divided by their number."""
    return e(op.mean(losses) if reduction == "mean" else op.sum(losses))


def constant(values: Any, like: Expr) -> Expr:
    """Numbers as a constant of the dtype of ``like``, each the double rounded to nearest."""
    dtype = dtype_of(like)
    return relax.const(np.array(values, dtype=np.float64).astype(dtype), dtype)
