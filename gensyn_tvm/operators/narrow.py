"""Narrow dtypes: decoding bit patterns to numbers and encoding numbers with one rounding, as bodies of exact operators.

A bit pattern is an unsigned integer (``TensorType.carrier``). Floats of up to 16 bits are decoded to float32, which holds each
of them, and encoded from float32; integers of fewer than 8 bits are decoded to and encoded from int8 or uint8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import NARROW_FLOATS, NARROW_INTEGERS, carrier_of
from gensyn_tvm.operators import exact
from gensyn_tvm.targets.body import Body

Expr = Any

_F32 = "float32"
_U32 = "uint32"
#: float32: bits of the fraction, bias of the exponent, patterns of infinity and of the quiet NaN.
_FRACTION, _BIAS, _INFINITY, _NAN = 23, 127, 0x7F800000, 0x7FC00000
_MAGNITUDE = 0x7FFFFFFF


@dataclass(frozen=True)
class Format:
    """A float format with a sign bit.

    Attributes:
        exponent, fraction: widths in bits.
        bias: of the exponent.
        largest: pattern of the largest finite number.
        overflow: pattern of everything beyond it, without the sign (infinity, or NaN, or the largest number itself).
        nan: pattern of NaN.
        infinite: whether ``overflow`` is infinity.
        signed_zero: whether -0 exists.
    """

    exponent: int
    fraction: int
    bias: int
    largest: int
    overflow: int
    nan: int
    infinite: bool = False
    signed_zero: bool = True

    @property
    def sign(self) -> int:
        """Pattern of the sign bit."""
        return 1 << (self.exponent + self.fraction)


FORMATS: dict[str, Format] = {
    "float16": Format(5, 10, 15, 0x7BFF, 0x7C00, 0x7E00, infinite=True),
    "bfloat16": Format(8, 7, 127, 0x7F7F, 0x7F80, 0x7FC0, infinite=True),
    "float8_e5m2": Format(5, 2, 15, 0x7B, 0x7C, 0x7E, infinite=True),
    "float8_e4m3fn": Format(4, 3, 7, 0x7E, 0x7F, 0x7F),
    "float8_e5m2fnuz": Format(5, 2, 16, 0x7F, 0x80, 0x80, signed_zero=False),
    "float8_e4m3fnuz": Format(4, 3, 8, 0x7F, 0x80, 0x80, signed_zero=False),
    "float4_e2m1fn": Format(2, 1, 1, 0x7, 0x7, 0x0),
}


def _power(body: Body, exponent: int) -> Expr:
    """2^exponent as a float32 constant."""
    return body.const(2.0**exponent)


def _u32(body: Body, value: int) -> Expr:
    return body.int_const(value, _U32)


def _decode_float(f: Format) -> Callable[[Body, Expr], Expr]:
    def decode(body: Body, code: Expr) -> Expr:
        wide = body.let(body.cast_int(_U32, code))
        magnitude = body.let(tirx.bitwise_and(wide, _u32(body, f.sign - 1)))
        sign = tirx.shift_left(tirx.bitwise_and(wide, _u32(body, f.sign)), _u32(body, 31 - f.exponent - f.fraction))
        shifted = body.let(tirx.shift_left(magnitude, _u32(body, _FRACTION - f.fraction)))
        # Scaling by a power of two puts the exponent right and makes subnormals normal, without rounding.
        number = shifted
        if f.bias != _BIAS:
            scaled = exact.mul(body.let(body.reinterpret(_F32, shifted)), _power(body, _BIAS - f.bias))
            number = body.reinterpret(_U32, scaled)
        number = body.let(tirx.bitwise_or(number, sign))
        if f.infinite and f.bias != _BIAS:
            special = tirx.bitwise_or(tirx.bitwise_or(shifted, _u32(body, _INFINITY)), sign)
            number = exact.select(tirx.GE(magnitude, _u32(body, f.overflow)), special, number)
        elif not f.infinite and f.nan:
            nan = tirx.EQ(
                tirx.bitwise_and(wide, _u32(body, 2 * f.sign - 1 if f.nan == f.sign else f.sign - 1)), _u32(body, f.nan)
            )
            number = exact.select(nan, _u32(body, _NAN), number)
        return body.reinterpret(_F32, body.let(number))

    return decode


def _encode_float(f: Format, dtype: str, *, saturate: bool) -> Callable[[Body, Expr], Expr]:
    """Adding a power of two rounds what becomes subnormal; adding half a unit to the bits rounds the rest."""
    drop = _FRACTION - f.fraction
    magic = 1 - f.bias - f.fraction + _FRACTION

    def encode(body: Body, x: Expr) -> Expr:
        bits = body.let(body.reinterpret(_U32, x))
        magnitude = body.let(tirx.bitwise_and(bits, _u32(body, _MAGNITUDE)))
        # NaN stays out of the float addition, infinity out of the integer one.
        finite = body.let(tirx.Min(magnitude, _u32(body, _INFINITY)))
        summed = exact.add(body.let(body.reinterpret(_F32, finite)), _power(body, magic))
        base = (magic + _BIAS) << _FRACTION
        small = body.let(tirx.Sub(body.let(body.reinterpret(_U32, summed)), _u32(body, base)))
        odd = tirx.bitwise_and(tirx.shift_right(finite, _u32(body, drop)), _u32(body, 1))
        rounded = tirx.shift_right(tirx.Add(tirx.Add(finite, _u32(body, (1 << (drop - 1)) - 1)), odd), _u32(body, drop))
        offset = (_BIAS - f.bias) << f.fraction
        normal = body.let(tirx.Sub(tirx.Max(rounded, _u32(body, offset)), _u32(body, offset)))
        is_small = tirx.LT(finite, _u32(body, (1 - f.bias + _BIAS) << _FRACTION))
        code = body.let(exact.select(is_small, small, normal))
        beyond = f.largest if saturate else f.overflow
        code = body.let(exact.select(tirx.GT(code, _u32(body, f.largest)), _u32(body, beyond), code))
        sign = tirx.shift_right(tirx.bitwise_and(bits, _u32(body, 2**31)), _u32(body, 31 - f.exponent - f.fraction))
        signed = body.let(tirx.bitwise_or(code, sign))
        if not f.signed_zero:
            signed = exact.select(tirx.EQ(code, _u32(body, 0)), code, signed)
            signed = body.let(exact.select(tirx.EQ(code, _u32(body, f.nan)), code, signed))
        result = exact.select(tirx.GT(magnitude, _u32(body, _INFINITY)), _u32(body, f.nan), signed)
        return body.cast_int(carrier_of(dtype), body.let(result))

    return encode


# ---- float8_e8m0fnu: powers of two from 2^-127 (0) to 2^127 (254); 255 is NaN ----------------------------------------


def _decode_e8m0(body: Body, code: Expr) -> Expr:
    wide = body.let(body.cast_int(_U32, code))
    power = exact.select(tirx.EQ(wide, _u32(body, 0)), _u32(body, 1 << 22), tirx.shift_left(wide, _u32(body, _FRACTION)))
    return body.reinterpret(_F32, body.let(exact.select(tirx.EQ(wide, _u32(body, 255)), _u32(body, _NAN), power)))


def _encode_e8m0(*, saturate: bool) -> Callable[[Body, Expr], Expr]:
    """Nearest power of two, halfway up; zero (unless saturating), negative numbers and NaN give NaN."""

    def encode(body: Body, x: Expr) -> Expr:
        bits = body.let(body.reinterpret(_U32, x))
        positive = body.let(tirx.Min(bits, _u32(body, _INFINITY)))
        rounded = tirx.shift_right(tirx.Add(positive, _u32(body, 1 << (_FRACTION - 1))), _u32(body, _FRACTION))
        # Below the smallest normal float32 the powers are 2^-126 and 2^-127, and 3/4 of the former is halfway.
        tiny = exact.select(tirx.LT(positive, _u32(body, 0x600000)), _u32(body, 0), _u32(body, 1))
        code = body.let(exact.select(tirx.LT(positive, _u32(body, 1 << _FRACTION)), tiny, rounded))
        code = body.let(tirx.Min(code, _u32(body, 254 if saturate else 255)))
        no_number = tirx.GT(bits, _u32(body, _INFINITY))
        if not saturate:
            no_number = tirx.Or(no_number, tirx.EQ(bits, _u32(body, 0)))
        return body.cast_int("uint8", body.let(exact.select(no_number, _u32(body, 255), code)))

    return encode


# ---- narrow integers ------------------------------------------------------------------------------------------------


def native_integer(dtype: str) -> str:
    """The 8-bit integer that holds a narrow one."""
    return "uint8" if dtype.startswith("u") else "int8"


def _decode_integer(dtype: str) -> Callable[[Body, Expr], Expr]:
    bits = NARROW_INTEGERS[dtype]

    def decode(body: Body, code: Expr) -> Expr:
        wide = tirx.bitwise_and(body.cast_int("int32", code), body.int_const(2**bits - 1, "int32"))
        if not dtype.startswith("u"):
            # (v ^ s) - s extends the sign s
            sign = body.int_const(2 ** (bits - 1), "int32")
            wide = tirx.Sub(body.let(tirx.bitwise_xor(wide, sign)), sign)
        return body.cast_int(native_integer(dtype), body.let(wide))

    return decode


def _encode_integer(dtype: str) -> Callable[[Body, Expr], Expr]:
    bits = NARROW_INTEGERS[dtype]

    def encode(body: Body, x: Expr) -> Expr:
        return body.cast_int("uint8", tirx.bitwise_and(body.cast_int("int32", x), body.int_const(2**bits - 1, "int32")))

    return encode


# ---- the rows ---------------------------------------------------------------------------------------------------------


def _floats() -> dict[str, Callable[[Body, Expr], Expr]]:
    bodies: dict[str, Callable[[Body, Expr], Expr]] = {
        "decode_float8_e8m0fnu": _decode_e8m0,
        "encode_float8_e8m0fnu": _encode_e8m0(saturate=False),
        "saturate_float8_e8m0fnu": _encode_e8m0(saturate=True),
    }
    for dtype, f in FORMATS.items():
        bodies[f"decode_{dtype}"] = _decode_float(f)
        bodies[f"encode_{dtype}"] = _encode_float(f, dtype, saturate=False)
        bodies[f"saturate_{dtype}"] = _encode_float(f, dtype, saturate=True)
    return bodies


#: Bodies of ``exact.NARROW``: each takes the body and the argument (a variable, any lanes).
BODIES: dict[str, Callable[[Body, Expr], Expr]] = {
    **_floats(),
    **{f"decode_{dtype}": _decode_integer(dtype) for dtype in NARROW_INTEGERS},
    **{f"encode_{dtype}": _encode_integer(dtype) for dtype in NARROW_INTEGERS},
}


def decode(code: Expr, dtype: str) -> Expr:
    """A bit pattern as float32 (floats) or as int8 or uint8 (integers)."""
    element = _F32 if dtype in NARROW_FLOATS else native_integer(dtype)
    return exact.call(f"decode_{dtype}", exact.with_lanes(element, exact.lanes_of(exact.dtype_of(code))), code)


def encode(x: Expr, dtype: str, *, saturate: bool = False) -> Expr:
    """The bit pattern of a float32 (floats, one rounding) or of an int8 or uint8 (integers, modulo 2^width)."""
    name = f"saturate_{dtype}" if saturate else f"encode_{dtype}"
    return exact.call(name, exact.with_lanes(carrier_of(dtype), exact.lanes_of(exact.dtype_of(x))), x)


def canonical_nan_pattern(code: Expr, dtype: str) -> Expr:
    """The bit pattern with every NaN replaced by the canonical one."""
    element = carrier_of(dtype)
    if dtype not in FORMATS:  # float8_e8m0fnu has one NaN
        return code
    f = FORMATS[dtype]
    if not f.nan or f.nan == f.sign:
        return code
    magnitude = tirx.bitwise_and(code, tirx.IntImm(element, f.sign - 1))
    limit = tirx.IntImm(element, f.overflow if f.infinite else f.largest)
    return exact.select(tirx.GT(magnitude, limit), tirx.IntImm(element, f.nan), code)
