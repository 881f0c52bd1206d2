"""Conversions between number formats, bit operations and integer division."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import FLOATS, NARROW, NARROW_FLOATS, NARROW_INTEGERS, TensorType
from gensyn_tvm.operators import exact, narrow
from gensyn_tvm.operators.nest import kernel, load

Expr = Any
Attrs = Mapping[str, Any]

SCALAR: dict[str, Callable[..., Expr]] = {
    "rem": exact.int_rem,
    "bit_and": tirx.bitwise_and,
    "bit_or": tirx.bitwise_or,
    "bit_xor": tirx.bitwise_xor,
    "bit_not": tirx.bitwise_not,
    "shift_left": exact.shift_left,
    "shift_right": exact.shift_right,
}


def _converted(x: Expr, source: str, target: str, *, saturate: bool = False) -> Expr:
    """``x`` of dtype ``source`` (narrow ones as bit patterns) as ``target``, by the path that docs/numerics.md gives."""
    if source == target:
        return x
    if source in NARROW:
        x = narrow.decode(x, source)
        source = "float32" if source in NARROW_FLOATS else narrow.native_integer(source)
    if target not in NARROW:
        return x if source == target else exact.convert(x, target)
    if target in NARROW_FLOATS:
        if source == "float64":
            x = exact.narrow_to_odd(x)
        elif source != "float32":
            x = exact.convert(x, "float32")
        return narrow.encode(x, target, saturate=saturate)
    return narrow.encode(_to_narrow_integer(x, source, target), target)


def _to_narrow_integer(x: Expr, source: str, target: str) -> Expr:
    """An int8 or uint8: of floats saturated to the target's range, of integers the lowest bits."""
    element = narrow.native_integer(target)
    bits = NARROW_INTEGERS[target]
    if source == element:
        return x
    x = exact.convert(x, element)
    if not source.startswith("float"):
        return x
    low, high = (0, 2**bits - 1) if element == "uint8" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return tirx.Max(tirx.Min(x, tirx.IntImm(element, high)), tirx.IntImm(element, low))


def conversion(*, saturate: bool) -> Callable[[str, Sequence[TensorType], TensorType, Attrs], Any]:
    """Builder of ``cast`` or ``cast_saturating``."""

    def build(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
        source = inputs[0].dtype
        with kernel(name, inputs, output) as k:

            def value(index: Sequence[Expr]) -> Expr:
                return _converted(load(k.inputs[0], index), source, output.dtype, saturate=saturate)

            k.stage("map", k.output, output.shape, value)
        return k.result()

    return build


def _canonical(x: Expr, dtype: str) -> Expr:
    """``x`` with every NaN replaced by the one without payload."""
    if dtype in NARROW_FLOATS:
        return narrow.canonical_nan_pattern(x, dtype)
    return exact.canonical_nan(x) if dtype in FLOATS else x


def bitcast(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """The same bits, those of a NaN the canonical ones."""
    source, target = inputs[0].carrier, output.carrier
    with kernel(name, inputs, output) as k:

        def value(index: Sequence[Expr]) -> Expr:
            x = _canonical(load(k.inputs[0], index), inputs[0].dtype)
            if source == "bool":
                x = exact.convert(x, "uint8")
            return x if exact.dtype_of(x) == target else tirx.reinterpret(target, x)

        k.stage("map", k.output, output.shape, value)
    return k.result()


def canonical_nan(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """Every NaN becomes the quiet NaN without payload: applied to each float output of a program."""
    with kernel(name, inputs, output) as k:
        k.stage("map", k.output, output.shape, lambda index: _canonical(load(k.inputs[0], index), output.dtype))
    return k.result()
