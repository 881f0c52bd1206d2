"""Exact arithmetic in TIR: operators that no TVM pass understands.

TVM's analyzer treats floats as real numbers ((x + y) - y becomes x) and its code generators contract a * b + c where they
can. Deterministic variants are therefore written with the opaque operators below, which stay untouched until the very end
of the pipeline, where ``gensyn_tvm.targets.lowering`` turns each into the target's exact instructions. All are pure and
vectorise elementwise.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.ir import register_op_attr

from gensyn_tvm.canonical.types import NARROW, NARROW_FLOATS

Expr = Any

PREFIX = "tirx.exact_"

#: Operators of two floats with a float result, one rounding each (maximum and minimum: no rounding).
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum")
#: Comparisons of two floats, IEEE semantics.
COMPARE = ("eq", "ne", "lt", "le")
#: Operators of one float with a float result.
UNARY = ("neg", "abs", "sqrt", "floor", "ceil", "round")
#: Correctly rounded functions of one float32; bodies are in ``gensyn_tvm.operators.elementary``.
ELEMENTARY = (
    *("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf"),
    *("exp2", "log2", "log10", "atan", "sinh", "cosh"),
    *("sin", "cos", "tan", "asin", "acos", "asinh", "acosh", "atanh", "rsqrt", "cbrt", "erfc"),
)
#: Functions of two floats of one dtype, or of two integers; bodies are there too.
ELEMENTARY_BINARY = ("pow",)
#: Bit patterns of narrow dtypes to numbers and back (``saturate``: what is too large becomes the largest number); bodies are
#: in ``gensyn_tvm.operators.narrow``.
NARROW_ROWS = (
    *(f"decode_{dtype}" for dtype in NARROW),
    *(f"encode_{dtype}" for dtype in NARROW),
    *(f"saturate_{dtype}" for dtype in NARROW_FLOATS),
)
#: Integer division and remainder, shifts by any count.
INTEGER = ("int_div", "int_rem", "shift_left", "shift_right")
#: index: an integer as it is (``gensyn_tvm.targets.indices``); fma; bit-pattern constant and reinterpretation; conversions;
#: wrapping integer arithmetic; NaN canonicalisation.
OTHER = ("index", "fma", "bits", "convert", "narrow_to_odd", "canonical_nan", "wrap_add", "wrap_sub", "wrap_mul")

NAMES = BINARY + COMPARE + UNARY + ELEMENTARY + ELEMENTARY_BINARY + NARROW_ROWS + INTEGER + OTHER

_CALL_EFFECT_PURE = 1

for _name in NAMES:
    register_op_attr(PREFIX + _name, "TVectorizable", True)
    register_op_attr(PREFIX + _name, "TCallEffectKind", _CALL_EFFECT_PURE)
    register_op_attr(PREFIX + _name, "TScriptPrinterName", "exact_" + _name)


def dtype_of(expr: Expr) -> str:
    """dtype of a TIR expression, lanes included: ``float32``, ``float64x8``, ``bool`` …"""
    ty = expr.ty
    return str(getattr(ty, "dtype", ty))


def element_of(dtype: str) -> str:
    """dtype without lanes."""
    return dtype.split("x")[0]


def lanes_of(dtype: str) -> int:
    """Number of lanes, 1 for scalars."""
    return int(dtype.split("x")[1]) if "x" in dtype else 1


def with_lanes(element: str, lanes: int) -> str:
    """dtype of ``lanes`` elements."""
    return element if lanes == 1 else f"{element}x{lanes}"


def call(name: str, dtype: str, *args: Expr) -> Expr:
    """A call of the exact operator ``name``."""
    return tirx.call_intrin(dtype, PREFIX + name, *args)


def _same_dtype(name: str) -> Callable[..., Expr]:
    def make(*args: Expr) -> Expr:
        return call(name, dtype_of(args[0]), *args)

    make.__name__ = name
    make.__doc__ = f"Exact ``{name}`` of floats of one dtype."
    return make


add = _same_dtype("add")
sub = _same_dtype("sub")
mul = _same_dtype("mul")
div = _same_dtype("div")
maximum = _same_dtype("maximum")
minimum = _same_dtype("minimum")
fma = _same_dtype("fma")
neg = _same_dtype("neg")
absolute = _same_dtype("abs")
sqrt = _same_dtype("sqrt")
floor = _same_dtype("floor")
ceil = _same_dtype("ceil")
round_even = _same_dtype("round")
canonical_nan = _same_dtype("canonical_nan")
wrap_add = _same_dtype("wrap_add")
wrap_sub = _same_dtype("wrap_sub")
wrap_mul = _same_dtype("wrap_mul")
int_div = _same_dtype("int_div")
int_rem = _same_dtype("int_rem")
shift_left = _same_dtype("shift_left")
shift_right = _same_dtype("shift_right")


def _comparison(name: str) -> Callable[[Expr, Expr], Expr]:
    def make(a: Expr, b: Expr) -> Expr:
        return call(name, with_lanes("bool", lanes_of(dtype_of(a))), a, b)

    make.__name__ = name
    make.__doc__ = f"IEEE comparison ``{name}`` of two floats; any with NaN is false, except ``ne``."
    return make


eq = _comparison("eq")
ne = _comparison("ne")
lt = _comparison("lt")
le = _comparison("le")


def gt(a: Expr, b: Expr) -> Expr:
    """a > b."""
    return lt(b, a)


def ge(a: Expr, b: Expr) -> Expr:
    """a >= b."""
    return le(b, a)


def is_nan(a: Expr) -> Expr:
    """Whether ``a`` is a NaN."""
    return ne(a, a)


def select(condition: Expr, a: Expr, b: Expr) -> Expr:
    """``condition ? a : b``; both sides are evaluated."""
    return tirx.Select(condition, a, b)


def elementary(name: str, x: Expr) -> Expr:
    """A correctly rounded function of a float32."""
    if name not in ELEMENTARY:
        raise ValueError(f"no elementary function {name!r}")
    return call(name, dtype_of(x), x)


def elementary_binary(name: str, x: Expr, y: Expr) -> Expr:
    """A function of two numbers of one dtype."""
    if name not in ELEMENTARY_BINARY:
        raise ValueError(f"no elementary function {name!r} of two variables")
    return call(name, dtype_of(x), x, y)


_UINT_OF = {"float32": "uint32", "float64": "uint64"}


def from_bits(dtype: str, bits: int) -> Expr:
    """The float constant of element dtype ``dtype`` with the given bit pattern.

    The pattern travels as two 32-bit integers, because TIR's integer immediates are signed 64-bit.
    """
    high, low = divmod(bits, 2**32)
    if element_of(dtype) == "float32":
        return call("bits", "float32", tirx.IntImm("int64", low))
    return call("bits", "float64", tirx.IntImm("int64", low), tirx.IntImm("int64", high))


def const(value: float, dtype: str = "float32") -> Expr:
    """The float constant nearest to ``value`` (a Python float), as its bit pattern.

    Raises:
        OverflowError: ``value`` is finite and too large for float32.
    """
    if element_of(dtype) == "float32":
        return from_bits(dtype, struct.unpack("<I", struct.pack("<f", value))[0])
    return from_bits(dtype, struct.unpack("<Q", struct.pack("<d", value))[0])


def convert(x: Expr, element: str) -> Expr:
    """Conversion to another element dtype as docs/numerics.md defines ``cast``."""
    return call("convert", with_lanes(element, lanes_of(dtype_of(x))), x)


def narrow_to_odd(x: Expr) -> Expr:
    """A float64 as a float32 rounded to odd: truncated toward zero, last bit 1 if anything was cut off.

    Rounding that to a float of at most 22 significant bits is as if the float64 had been rounded once.
    """
    return call("narrow_to_odd", with_lanes("float32", lanes_of(dtype_of(x))), x)


def int_const(value: int, dtype: str) -> Expr:
    """An integer constant; TIR's immediates are signed, so the upper half of uint64 is reinterpreted."""
    if dtype == "uint64" and value >= 2**63:
        return tirx.reinterpret("uint64", tirx.IntImm("int64", value - 2**64))
    return tirx.IntImm(dtype, value)
