"""Integer tensors that shapes are computed with, as far as they are known: arrays of Python objects, of which an int is a
number, a text the name of an open dimension, and None unknown. Integer arithmetic only, in Python's unbounded integers; what
leaves 32 bits is unknown, so it does not matter whether the model computes with int32 or int64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

#: Elements of the largest tensor that is followed.
LIMIT = 256
_BOUND = 2**31

Array = np.ndarray
#: None where a value is not known at all.
Known = Array | None
Attributes = dict[str, Any]


def known(items: Any) -> Array:
    """The array of a list of numbers, texts and None, or of one of them."""
    items = list(items) if isinstance(items, Sequence) and not isinstance(items, str) else items
    result = np.empty((len(items),) if isinstance(items, list) else (), dtype=object)
    result[...] = items
    return result


def as_numbers(array: Known) -> list[int] | None:
    """The elements, if all of them are numbers."""
    if array is None or not all(isinstance(x, int) for x in array.flat):
        return None
    return [int(x) for x in array.flat]


def of_array(array: np.ndarray) -> Known:
    """The array of a constant; None if it is too large or no integers."""
    if array.dtype.kind not in "iub" or array.size > LIMIT:
        return None
    result = np.empty(array.shape, dtype=object)
    result[...] = array.astype(object)
    return result


# ---- elementwise ----------------------------------------------------------------------------------------------------


def _elementwise(function: Callable[[int, int], int], neutral: int | None = None) -> Callable[..., Known]:
    """Of two numbers ``function``; what is not a number stays itself beside the neutral element on the right, or on the left
    of a commutative function."""
    commutes = function in (_add, _multiply)

    def both(a: Any, b: Any) -> Any:
        if isinstance(a, int) and isinstance(b, int):
            result = function(int(a), int(b))
            return result if abs(result) < _BOUND else None
        if b == neutral and neutral is not None:
            return a
        return b if commutes and a == neutral else None

    def apply(x: list[Known], _: Attributes) -> Known:
        result = x[0]
        for other in x[1:]:
            if result is None or other is None:
                return None
            result = np.asarray(np.frompyfunc(both, 2, 1)(result, other), dtype=object)
        return result

    return apply


def _add(a: int, b: int) -> int:
    return a + b


def _multiply(a: int, b: int) -> int:
    return a * b


def _divide(a: int, b: int) -> int:
    """Towards zero; unknown where nothing is defined."""
    if b == 0:
        return _BOUND
    return a // b if (a < 0) == (b < 0) else -(-a // b)


def _modulo(a: int, b: int) -> int:
    """Where both definitions of ONNX agree."""
    return a % b if a >= 0 and b > 0 else _BOUND


def _unary(function: Callable[[int], int]) -> Callable[..., Known]:
    def apply(x: list[Known], _: Attributes) -> Known:
        each = np.frompyfunc(lambda v: function(v) if isinstance(v, int) and abs(v) < _BOUND else None, 1, 1)
        return None if x[0] is None else np.asarray(each(x[0]), dtype=object)

    return apply


def _where(x: list[Known], _: Attributes) -> Known:
    if any(v is None for v in x):
        return None
    choose = np.frompyfunc(lambda c, a, b: (a if c else b) if isinstance(c, int) else (a if a == b else None), 3, 1)
    return np.asarray(choose(*x), dtype=object)


# ---- movement -------------------------------------------------------------------------------------------------------


def _gather(x: list[Known], a: Attributes) -> Known:
    indices = as_numbers(x[1])
    if x[0] is None or x[1] is None or indices is None or x[0].ndim == 0:
        return None
    axis = a.get("axis", 0)
    return np.take(x[0], np.array(indices, dtype=np.int64).reshape(x[1].shape), axis=axis)


def _concat(x: list[Known], a: Attributes) -> Known:
    parts = [v for v in x if v is not None]
    return np.concatenate(parts, axis=a.get("axis", 0)) if len(parts) == len(x) else None


def _slice(x: list[Known], a: Attributes) -> Known:
    given = [as_numbers(v) for v in x[1:]]
    starts, ends = given[0], given[1]
    if x[0] is None or starts is None or ends is None or None in given:
        return None
    axes = given[2] if len(given) > 2 else list(range(len(starts)))
    steps = given[3] if len(given) > 3 else [1] * len(starts)
    assert axes is not None and steps is not None
    index: list[Any] = [slice(None)] * x[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end if end >= -(2**62) else None, step)
    return np.asarray(x[0][tuple(index)], dtype=object)


def _unsqueeze(x: list[Known], a: Attributes) -> Known:
    axes = a.get("axes") if len(x) < 2 else as_numbers(x[1])
    return None if x[0] is None or axes is None else np.expand_dims(x[0], tuple(axes))


def _squeeze(x: list[Known], a: Attributes) -> Known:
    axes = a.get("axes") if len(x) < 2 else as_numbers(x[1])
    if x[0] is None or (len(x) > 1 and axes is None):
        return None
    return np.squeeze(x[0], None if axes is None else tuple(axes))


def _reshape(x: list[Known], a: Attributes) -> Known:
    target = as_numbers(x[1])
    if x[0] is None or target is None or (0 in target and not a.get("allowzero") and len(target) > x[0].ndim):
        return None
    if not a.get("allowzero"):
        target = [x[0].shape[k] if d == 0 else d for k, d in enumerate(target)]
    return x[0].reshape(target)


def _same(x: list[Known], _: Attributes) -> Known:
    return x[0]


def _reduce(function: Callable[[list[int]], int]) -> Callable[..., Known]:
    def apply(x: list[Known], a: Attributes) -> Known:
        """Over all axes of a tensor with at most one."""
        numbers = as_numbers(x[0])
        if x[0] is None or numbers is None or x[0].ndim > 1 or a.get("noop_with_empty_axes"):
            return None
        result = function(numbers)
        return known([result] if a.get("keepdims", 1) and x[0].ndim else result) if abs(result) < _BOUND else None

    return apply


def _range(x: list[Known], _: Attributes) -> Known:
    bounds = [as_numbers(v) for v in x]
    if any(b is None or len(b) != 1 for b in bounds):
        return None
    start, limit, step = (b[0] for b in bounds if b is not None)
    return known(list(range(start, limit, step))) if step and len(range(start, limit, step)) <= LIMIT else None


#: Operators on integer tensors. A function gets the inputs (None where unknown or left out) and the attributes.
OPERATORS: dict[str, Callable[[list[Known], Attributes], Known]] = {
    "Add": _elementwise(_add, 0),
    "Sub": _elementwise(lambda a, b: a - b, 0),
    "Mul": _elementwise(_multiply, 1),
    "Div": _elementwise(_divide, 1),
    "Mod": _elementwise(_modulo),
    "Min": _elementwise(min),
    "Max": _elementwise(max),
    "Equal": _elementwise(lambda a, b: int(a == b)),
    "Less": _elementwise(lambda a, b: int(a < b)),
    "Greater": _elementwise(lambda a, b: int(a > b)),
    "Neg": _unary(lambda v: -v),
    "Abs": _unary(abs),
    "Where": _where,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Identity": _same,
    "ReduceProd": _reduce(math.prod),
    "ReduceSum": _reduce(sum),
    "ReduceMax": _reduce(lambda v: max(v, default=_BOUND)),
    "ReduceMin": _reduce(lambda v: min(v, default=_BOUND)),
    "Range": _range,
}
