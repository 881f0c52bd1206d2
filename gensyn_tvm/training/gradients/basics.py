"""What gradient rules are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tvm

from gensyn_tvm.canonical.convert_context import integer
from gensyn_tvm.canonical.relax_ops import PREFIX, canonical_attributes
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, number, op, shape_of

#: (variable of the result, the call, gradient of the loss with respect to the result, emitter) → the gradients with respect to
#: each argument of the call, None where there is none. A tuple's gradient is a ``relax.Tuple``, or an expression of tuple type.
Gradient = Callable[[Any, Any, Expr, Emitter], Sequence[Expr | None]]


def attrs_of(call: Any) -> dict[str, Any]:
    """The attributes of a call of a canonical operator."""
    return canonical_attributes(call.op.name.removeprefix(PREFIX), call)


def like(value: float, x: Expr) -> Expr:
    """A scalar constant in the dtype of ``x``."""
    return number(value, dtype_of(x))


def unbroadcast(e: Emitter, g: Expr, x: Expr) -> Expr:
    """``g`` summed, in one sum, over the axes along which ``x`` was broadcast to its shape."""
    g = e(g)
    return g if shape_of(g) == shape_of(x) else e(op.collapse_sum_to(g, shape_of(x)))


def kept(value: Expr, shape: Sequence[int], axes: Sequence[int]) -> Expr:
    """A reduction's result with the reduced axes of ``shape`` as 1."""
    return op.reshape(value, [1 if a in axes else n for a, n in enumerate(shape)])


def swapped(e: Emitter, x: Expr) -> Expr:
    """x with its last two axes swapped; what is swapped already is taken as it was before."""
    inner = _definition(e, x)
    if inner is not None and _name(inner) in _TRANSPOSES and swaps(_permutation(inner)):
        return inner.args[0]
    rank = len(shape_of(x))
    return e(op.permute_dims(x, [*range(rank - 2), rank - 1, rank - 2]))


def swapped_product(e: Emitter, x: Expr) -> Expr:
    """x with its last two axes swapped; (p @ q)^T becomes q^T @ p^T, which has the same bits and may need no transpose."""
    inner = _definition(e, x)
    if inner is not None and _name(inner) == "relax.matmul":
        p, q = inner.args
        return e(op.matmul(swapped(e, q), swapped(e, p)))
    return swapped(e, x)


def swaps(perm: Sequence[int]) -> bool:
    """Whether a permutation swaps the last two axes and nothing else."""
    n = len(perm)
    return n >= 2 and list(perm) == [*range(n - 2), n - 1, n - 2]


_TRANSPOSES = ("relax.permute_dims", PREFIX + "transpose")


def _definition(e: Emitter, x: Expr) -> Any:
    """The call that a variable stands for, if it is one."""
    value = e.builder.lookup_binding(x) if isinstance(x, tvm.ir.Var) else None
    return value if isinstance(value, tvm.ir.Call) else None


def _name(call: Any) -> str:
    return str(getattr(call.op, "name", ""))


def _permutation(call: Any) -> Sequence[int]:
    if _name(call) == PREFIX + "transpose":
        return list(attrs_of(call)["perm"])
    rank, axes = len(shape_of(call.args[0])), call.attrs.axes
    return list(range(rank))[::-1] if axes is None else [integer(a) % rank for a in axes]
