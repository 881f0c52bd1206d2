"""Elementwise operators; binary ones broadcast as NumPy does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.interpreter import elementary, scalar
from gensyn_tvm.interpreter.scalar import Array

Attrs = Mapping[str, Any]
Operator = Callable[..., Array]


def simple(function: Callable[..., Array]) -> Operator:
    """The operator that applies ``function`` to its inputs and has no attributes."""

    def operator(attrs: Attrs, out: TensorType, *arrays: Array) -> Array:
        return function(*arrays)

    return operator


def correctly_rounded(name: str) -> Operator:
    """The operator of an elementary function on float32."""
    return simple(elementary.FUNCTIONS[name])


def _integral(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A rounding to integral values whose zeros have the sign of x."""

    def rounded(x: Array) -> Array:
        return np.copysign(function(x), x)

    return rounded


floor = _integral(np.floor)
ceil = _integral(np.ceil)
round_even = _integral(np.rint)


def sign(x: Array) -> Array:
    """x > 0 ? 1 : (x < 0 ? -1 : x)."""
    one = scalar.constant_like(1, x)
    return np.where(x > 0, one, np.where(x < 0, -one, x))


def is_nan(x: Array) -> Array:
    """Whether x is NaN."""
    return np.not_equal(x, x)
