"""ONNX conversions of numbers, bit operations, integer division, remainders, powers and circular functions."""

from __future__ import annotations

from gensyn_tvm.canonical.types import FLOATS, INTEGERS, NARROW_FLOATS, NARROW_INTEGERS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.division import remainder
from gensyn_tvm.frontends.emit import Emitter, Expr, constant_of, dtype_of, number, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs
from gensyn_tvm.frontends.onnx_reader import element_type
from gensyn_tvm.training.ops import stop_gradient

# ---- conversions ----------------------------------------------------------------------------------------------------


def _power_of_two(e: Emitter, x: Expr, *, saturate: bool) -> Expr:
    """A float32 with its fraction cut off, and its exponent raised by one if the fraction was not 0."""
    bits = e.canonical("bitcast", e(stop_gradient(x)), dtype="uint32")
    kept = e.canonical("bit_and", bits, number(0xFF800000, "uint32"))
    raised = e.add(kept, number(0x00800000, "uint32"))
    inexact = e(op.not_equal(e.canonical("bit_and", bits, number(0x007FFFFF, "uint32")), number(0, "uint32")))
    field = e.canonical("bit_and", bits, number(0x7F800000, "uint32"))
    room = e(op.less(field, number(0x7F000000 if saturate else 0x7F800000, "uint32")))
    chosen = e.where(e(op.logical_and(inexact, room)), raised, kept)
    is_nan = e(op.isnan(x))
    return e.where(is_nan, x, e.canonical("bitcast", chosen, dtype="float32"))


def cast_as(e: Emitter, x: Expr, dtype: str, a: Attributes) -> Expr:
    """x as ``dtype``: to 8-bit floats saturating unless told otherwise, to powers of two rounded as ``round_mode`` says."""
    if dtype_of(x) == dtype:
        return x
    saturate = bool(a.get("saturate", 1)) and dtype.startswith("float8")
    if dtype == "float8_e8m0fnu" and a.get("round_mode", "up") != "nearest":
        x = e.cast(x, "float32")
        if a.get("round_mode", "up") != "up":
            raise e.refuse(f"round_mode {a['round_mode']}", expected="up or nearest")
        x = _power_of_two(e, x, saturate=saturate)
    if dtype in NARROW_INTEGERS and dtype_of(x) in (*FLOATS, *NARROW_FLOATS):
        x = e.cast(x, "int32")  # of which the lowest bits stay
    if not saturate:
        return e.cast(x, dtype)
    if dtype_of(x) not in (*FLOATS, *NARROW_FLOATS):
        x = e.cast(x, "float32")
    return e.canonical("cast_saturating", x, dtype=dtype)


def convert_bitcast(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """The same bits as another dtype of the same width."""
    dtype = element_type(a["to"], e.place)
    if dtype == dtype_of(x[0]):
        return x[0]
    if dtype == "bool":
        return e.cast(e.canonical("bitcast", x[0], dtype="uint8"), "bool")
    return e.canonical("bitcast", x[0], dtype=dtype)


# ---- integers -------------------------------------------------------------------------------------------------------


def convert_shift(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.canonical({"LEFT": "shift_left", "RIGHT": "shift_right"}[a["direction"]], x[0], x[1])


def _canonical(name: str) -> Converter:
    """The canonical operator of that name, of all inputs."""
    return lambda e, x, a: e.canonical(name, *x)


def convert_div(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Of integers the quotient truncated toward zero."""
    return e(op.divide(x[0], x[1]))


def convert_mod(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """The remainder: with ``fmod`` it has the sign of x, otherwise that of y."""
    return remainder(e, x[0], x[1], sign_of_x=bool(a.get("fmod", 0)))


# ---- powers ---------------------------------------------------------------------------------------------------------


def _is_simple(exponent: float) -> bool:
    """Whether ``blocks.power`` takes the exponent: powers that are few products or a square root."""
    return abs(exponent) == 0.5 or (float(exponent).is_integer() and abs(exponent) <= 4)


def convert_pow(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Small constant exponents become products or square roots; others ``pow``, in float64 if one is a float and one is not."""
    base, power = x
    dtype, other = dtype_of(base), dtype_of(power)
    array = constant_of(power)
    if dtype in FLOATS and array is not None and array.size == 1 and _is_simple(array.item()):
        y = blocks.power(e, base, array.item())
        return e.reshape(y, [1] * (array.ndim - rank_of(y)) + shape_of(y)) if array.ndim > rank_of(y) else y
    if dtype in FLOATS and other in FLOATS:
        common = "float64" if "float64" in (dtype, other) else "float32"
    elif dtype in FLOATS or other in FLOATS:
        common = "float64"
    elif dtype in INTEGERS and other in INTEGERS:
        common = "int32" if dtype == other == "int32" else "int64"
    else:
        raise e.refuse(f"{dtype} to a power of {other}", expected="numbers")
    return e.cast(e.canonical("pow", e.cast(base, common), e.cast(power, common)), dtype)


# ---- circular and hyperbolic functions ------------------------------------------------------------------------------


def _single(name: str) -> Converter:
    """A correctly rounded function, of float32 only."""

    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        if dtype_of(x[0]) != "float32":
            raise e.refuse(f"an input of {dtype_of(x[0])}", expected="float32", remedy="cast to float32 first")
        return e.canonical(name, x[0])

    return convert


NUMBERS: dict[str, Converter] = {
    "Cast": lambda e, x, a: cast_as(e, x[0], element_type(a["to"], e.place), a),
    "CastLike": lambda e, x, a: cast_as(e, x[0], dtype_of(x[1]), a),
    "BitCast": convert_bitcast,
    "BitShift": convert_shift,
    "BitwiseAnd": _canonical("bit_and"),
    "BitwiseOr": _canonical("bit_or"),
    "BitwiseXor": _canonical("bit_xor"),
    "BitwiseNot": _canonical("bit_not"),
    "Div": convert_div,
    "Mod": convert_mod,
    "Pow": convert_pow,
    "Sin": _single("sin"),
    "Cos": _single("cos"),
    "Tan": _single("tan"),
    "Asin": _single("asin"),
    "Acos": _single("acos"),
    "Asinh": _single("asinh"),
    "Acosh": _single("acosh"),
    "Atanh": _single("atanh"),
}
