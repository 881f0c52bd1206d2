"""Losses as Relax expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import relax

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, number, op, shape_of

#: Emits the scalar loss of an output and a target.
Loss = Callable[[Emitter, Expr, Expr], Expr]


def cross_entropy(e: Emitter, logits: Expr, target: Expr) -> Expr:
    """Mean cross entropy of logits (N, C, …), float, and class indices (N, …), int32 or int64.

    Every sum over classes of where(class == target, log_softmax(logits), 0) is negated; then their mean is taken. An index
    outside [0, C) adds 0 to the sum and counts.
    """
    shape = shape_of(logits)
    log_p = e(op.nn.log_softmax(logits, 1))
    hit = class_mask(e, target, shape)
    picked = e(op.sum(e(op.where(hit, log_p, number(0, dtype_of(logits)))), 1, False))
    return e(op.mean(e(op.negative(picked))))


def class_mask(e: Emitter, target: Expr, shape: list[int]) -> Expr:
    """Where the class index along axis 1 of ``shape`` equals ``target`` (N, …)."""
    classes = e(op.arange(0, shape[1], 1, dtype_of(target)))
    beside = e(op.reshape(classes, [1, shape[1], *[1] * (len(shape) - 2)]))
    return e(op.equal(e(op.expand_dims(target, 1)), beside))


def mean_squared_error(e: Emitter, output: Expr, target: Expr) -> Expr:
    """mean((output - target) * (output - target)) of two tensors of one shape and float dtype."""
    difference = e.sub(output, target)
    return e(op.mean(e.mul(difference, difference)))


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mean_squared_error": mean_squared_error}


def target_type(loss: str, output: Any, target: TensorType | None) -> TensorType:
    """The type of a built-in loss's target for an output; ``target`` if it is given and fits.

    Raises:
        InvalidProgramError: the output or the given target does not suit the loss.
    """
    shape, dtype = tuple(shape_of(output)), dtype_of(output)
    if loss == "cross_entropy":
        if len(shape) < 2 or dtype not in ("float32",):
            raise InvalidProgramError(
                describe(
                    "cross_entropy cannot take this output",
                    found=f"{dtype}{list(shape)}",
                    expected="float32 logits (N, classes, …)",
                    remedy="return the logits of a batch, without softmax",
                )
            )
        allowed = [TensorType((shape[0], *shape[2:]), d) for d in ("int64", "int32")]
    else:
        allowed = [TensorType(shape, dtype)]
        if not allowed[0].is_float:
            raise InvalidProgramError(f"{loss} needs a float output, found {allowed[0]}")
    if target is None:
        return allowed[0]
    if target not in allowed:
        raise InvalidProgramError(
            describe(f"the target does not suit {loss}", found=str(target), expected=" or ".join(map(str, allowed)))
        )
    return target


def accuracy(e: Emitter, output: Expr, target: Expr) -> Expr:
    """Fraction (float32) of positions where the largest entry along axis 1 of output (N, C, …) is at ``target`` (N, …)."""
    best = e.cast(e(op.argmax(output, 1, False)), dtype_of(target))
    hits = e.cast(e(op.equal(best, target)), "float32")
    return e(op.mean(hits))


METRICS: dict[str, Loss] = {"accuracy": accuracy}


def relax_type(t: TensorType) -> Any:
    """The Relax type of a canonical one."""
    return relax.TensorType(list(t.shape), t.dtype)
