"""Type rules of operators that index with data: gathering, scattering, sorting, cumulative sums, suppression of boxes."""

from __future__ import annotations

from typing import Any

from gensyn_tvm.canonical.rule_basics import Attrs, Rule, Types, arity, axes_of, need, show
from gensyn_tvm.canonical.types import FLOATS, INTEGERS, NATIVE, TensorType

INDEX = ("int32", "int64")
_ARITHMETIC = (*FLOATS, "int32", "int64", "uint32")
_NUMBERS = FLOATS + INTEGERS

#: How a scattered element meets what is there, with the dtypes that allow it (None: every dtype).
REDUCTIONS: dict[str, tuple[str, ...] | None] = {
    "none": None,
    "add": _ARITHMETIC,
    "mul": _ARITHMETIC,
    "max": _NUMBERS,
    "min": _NUMBERS,
}


def _axis(attrs: Attrs, rank: int) -> int:
    axis: Any = attrs["axis"]
    need(type(axis) is int and 0 <= axis < rank, f"axis={axis!r}", f"an axis below {rank}")
    return axis


def _flag(attrs: Attrs, name: str) -> None:
    need(type(attrs[name]) is bool, f"{name}={attrs[name]!r}", f"{name}: a boolean")


def _indexed(t: TensorType) -> None:
    need(t.dtype in INDEX, t, f"indices of a dtype in {INDEX}")


# ---- gathering ------------------------------------------------------------------------------------------------------


def take(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x, indices: the axis is replaced by the shape of the indices."""
    arity(inputs, 2)
    x, indices = inputs
    _indexed(indices)
    axis = _axis(attrs, x.rank)
    need(x.shape[axis] > 0, show(inputs), "at least one element on the axis")
    return (TensorType((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype),)


def _beside(x: TensorType, indices: TensorType, axis: int, inputs: Types) -> None:
    fits = indices.rank == x.rank and all(
        n <= m for a, (n, m) in enumerate(zip(indices.shape, x.shape, strict=True)) if a != axis
    )
    need(fits, show(inputs), f"indices of the same rank, not larger except on axis {axis}")


def gather_elements(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x, indices: the shape of the indices."""
    arity(inputs, 2)
    x, indices = inputs
    _indexed(indices)
    axis = _axis(attrs, x.rank)
    need(x.shape[axis] > 0, show(inputs), "at least one element on the axis")
    _beside(x, indices, axis, inputs)
    return (TensorType(indices.shape, x.dtype),)


def _tuples(x: TensorType, indices: TensorType, batch: int, inputs: Types) -> int:
    """Length of the index tuples in the last axis of the indices."""
    _indexed(indices)
    need(indices.rank > batch, show(inputs), f"indices of a rank above {batch}")
    length = indices.shape[-1]
    need(batch + length <= x.rank, show(inputs), f"index tuples of at most {x.rank - batch} components")
    need(x.shape[:batch] == indices.shape[:batch], show(inputs), f"equal extents on the first {batch} axes")
    return length


def gather_nd(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x, indices: a part of x for each index tuple."""
    arity(inputs, 2)
    x, indices = inputs
    batch = attrs["batch_dims"]
    need(type(batch) is int and 0 <= batch <= x.rank, f"batch_dims={batch!r}", f"a number of axes up to {x.rank}")
    length = _tuples(x, indices, batch, inputs)
    need(all(x.shape[batch : batch + length]), show(inputs), "at least one element on every indexed axis")
    return (TensorType((*indices.shape[:-1], *x.shape[batch + length :]), x.dtype),)


def reverse(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x back to front along axes."""
    arity(inputs, 1)
    axes_of(attrs["axes"], inputs[0].rank)
    return (inputs[0],)


# ---- scattering -----------------------------------------------------------------------------------------------------


def _reduction(attrs: Attrs, x: TensorType) -> None:
    reduction = attrs["reduction"]
    need(reduction in REDUCTIONS, f"reduction={reduction!r}", f"one of {tuple(REDUCTIONS)}")
    allowed = REDUCTIONS[reduction]
    need(allowed is None or x.dtype in allowed, f"{reduction} of {x.dtype}", f"dtype in {allowed}")


def scatter_elements(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x, indices, updates: x with elements replaced or combined."""
    arity(inputs, 3)
    x, indices, updates = inputs
    _indexed(indices)
    _beside(x, indices, _axis(attrs, x.rank), inputs)
    need(updates == TensorType(indices.shape, x.dtype), show(inputs), "updates of the indices' shape and the data's dtype")
    _reduction(attrs, x)
    return (x,)


def scatter_nd(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """x, indices, updates: x with parts replaced or combined."""
    arity(inputs, 3)
    x, indices, updates = inputs
    length = _tuples(x, indices, 0, inputs)
    expected = TensorType((*indices.shape[:-1], *x.shape[length:]), x.dtype)
    need(updates == expected, show(inputs), f"updates of type {expected}")
    _reduction(attrs, x)
    return (x,)


# ---- order ----------------------------------------------------------------------------------------------------------


def argsort(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Positions in sorted order."""
    arity(inputs, 1)
    (x,) = inputs
    need(x.dtype in NATIVE, show(inputs), f"dtype in {NATIVE}")
    _axis(attrs, x.rank)
    _flag(attrs, "descending")
    return (TensorType(x.shape, "int64"),)


def cumulative(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """Running sum or product along an axis."""
    arity(inputs, 1)
    (x,) = inputs
    need(x.dtype in _ARITHMETIC, show(inputs), f"dtype in {_ARITHMETIC}")
    _axis(attrs, x.rank)
    _flag(attrs, "exclusive")
    _flag(attrs, "reverse")
    return (x,)


def suppress(inputs: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    """boxes, order, eligible, threshold, limit: which boxes are kept."""
    arity(inputs, 5)
    boxes, order, eligible, threshold, limit = inputs
    need(boxes.rank == 3 and boxes.shape[2] == 4 and boxes.dtype == "float32", show(inputs), "float32 boxes (batch, boxes, 4)")
    fits = order.rank == 3 and order.dtype == "int64" and (order.shape[0], order.shape[2]) == boxes.shape[:2]
    need(fits, show(inputs), "an int64 order (batch, classes, boxes)")
    need(eligible == TensorType(order.shape, "bool"), show(inputs), "a bool for each place in the order")
    scalars = threshold == TensorType((), "float32") and limit == TensorType((), "int64")
    need(scalars, show(inputs), "a float32 threshold and an int64 limit, both scalars")
    return (eligible,)


RULES: dict[str, Rule] = {
    "take": take,
    "gather_elements": gather_elements,
    "gather_nd": gather_nd,
    "reverse": reverse,
    "scatter_elements": scatter_elements,
    "scatter_nd": scatter_nd,
    "argsort": argsort,
    "cumsum": cumulative,
    "cumprod": cumulative,
    "suppress": suppress,
}

ATTRIBUTES: dict[str, set[str]] = {
    "take": {"axis"},
    "gather_elements": {"axis"},
    "gather_nd": {"batch_dims"},
    "reverse": {"axes"},
    "scatter_elements": {"axis", "reduction"},
    "scatter_nd": {"reduction"},
    "argsort": {"axis", "descending"},
    "cumsum": {"axis", "exclusive", "reverse"},
    "cumprod": {"axis", "exclusive", "reverse"},
}
