"""Correctly rounded float32 functions as straight-line code over exact operators.

Everything is computed in binary64 to about 2^-52 and rounded to float32 once. The few inputs whose exact result lies closer
to the middle between two floats than that are listed in ``HARD``, found by scripts/prove_elementary.py, which runs all 2^32
inputs. There are no branches, loops or tables, so every lane of a vector does the same work. fma is used where the target has
it as an instruction; without it the same polynomials are evaluated by multiplications and additions.

Integer arithmetic here never overflows, whatever the input: TVM tells LLVM that it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.operators.elementary_coefficients import (
    ATAN_SERIES,
    ERF_CENTRE,
    ERF_RATIO,
    EXP2_TAIL,
    EXP_EVEN,
    EXP_ODD,
    EXP_TAIL,
    LOG_SERIES,
)
from gensyn_tvm.targets.body import Body

Expr = Any

_F64 = "float64"
_LOG2_E = float.fromhex("0x1.71547652b82fep+0")
#: log(2) in two parts; the first has 42 bits, so its product with an exponent is exact.
_LN2_HIGH = float.fromhex("0x1.62e42fefa3800p-1")
_LN2_LOW = float.fromhex("0x1.ef35793c76730p-45")
_LOG10_E = float.fromhex("0x1.bcb7b1526e50ep-2")
#: log10(2) in two parts like log(2).
_LOG10_2_HIGH = float.fromhex("0x1.34413509f7800p-2")
_LOG10_2_LOW = float.fromhex("0x1.fef311f12b358p-46")
_HALF_PI = float.fromhex("0x1.921fb54442d18p+0")
#: pi / 2 - _HALF_PI.
_HALF_PI_LOW = float.fromhex("0x1.1a62633145c07p-54")
#: tan(pi / 8) and tan(3 pi / 8), roughly: where atan changes its reduction.
_TAN_LOW, _TAN_HIGH = 0.4140625, 2.4140625
#: Adding 1.5 * 2^52 rounds to an integer, which then stands in the low bits of the sum.
_ROUNDER = 1.5 * 2.0**52
_MANTISSA = 2**52 - 1
_ONE = 1023 << 52
_SQRT_HALF = 0x3FE6A09E667F3BCD
_SIGN = 0x80000000
_INFINITY = float("inf")
_LARGEST = float.fromhex("0x1.fffffep+127")
#: Compares as zero does and disappears in sums, which +0 does not.
_ZERO = -0.0
_QUIET_NAN = 0x7FC00000

#: Inputs that the binary64 result would round to the wrong side, and their results, as bit patterns. Odd and even functions
#: that calculate with the magnitude (sinh, cosh, atan) have it here.
HARD: dict[str, dict[int, int]] = {
    "exp": {},
    "expm1": {},
    "log": {
        0x3C413D3A: 0xC08E158F,
        0x41178FEB: 0x400FE5E7,
        0x4C5D65A5: 0x418F034B,
        0x65D890D3: 0x4254D1F9,
        0x6F31A8EC: 0x42845A89,
    },
    "log1p": {
        0x35400003: 0x353FFFFF,
        0x3710001B: 0x370FFFF3,
        0x3EFD81AD: 0x3ECDEEE1,
        0x41078FEB: 0x400FE5E7,
        0x65D890D3: 0x4254D1F9,
        0x6F31A8EC: 0x42845A89,
        0xB53FFFFD: 0xB5400001,
        0xB70FFFE5: 0xB710000D,
        0xBB0EC8C4: 0xBB0EF0A5,
    },
    "tanh": {},
    "sigmoid": {0xBA928601: 0x3EFFDB5F},
    "erf": {},
    "exp2": {0x3B429D37: 0x3F804385, 0xBCF3A937: 0x3F7AC6B1},
    "log2": {},
    "log10": {0x0EFEEE7A: 0xC1E99D23},
    "atan": {0x3D8D6B23: 0x3D8D31C3},
    "sinh": {0x3A1285FF: 0x3A1285FF},
    "cosh": {},
}


def _multiply_add(body: Body, a: Expr, b: Expr, c: Expr) -> Expr:
    """a * b + c, with one rounding or two, whichever is fast."""
    return exact.fma(a, b, c) if body.has_fma else exact.add(exact.mul(a, b), c)


def _polynomial(body: Body, x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's scheme; ``x`` is a variable."""
    result = body.const(coefficients[-1], _F64)
    for coefficient in reversed(coefficients[:-1]):
        result = _multiply_add(body, result, x, body.const(coefficient, _F64))
    return result


def _clamp(body: Body, x: Expr, low: float, high: float) -> Expr:
    """``x`` (a variable) limited to [low, high]; NaN stays."""
    low_const, high_const = body.const(low), body.const(high)
    raised = body.let(exact.select(exact.lt(x, low_const), low_const, x))
    return body.let(exact.select(exact.lt(high_const, raised), high_const, raised))


def _widen(body: Body, x: Expr) -> Expr:
    return body.let(exact.convert(body.let(x), _F64))


def _with_sign_of(body: Body, x: Expr, result: Expr) -> Expr:
    """``result``, which is +0 or has the sign of ``x``, with that sign also if it is zero."""
    sign = tirx.bitwise_and(body.reinterpret("uint32", x), body.int_const(_SIGN, "uint32"))
    return body.reinterpret("float32", tirx.bitwise_or(body.reinterpret("uint32", result), sign))


def _finish(body: Body, name: str, x: Expr, wide: Expr) -> Expr:
    """The last rounding, and the hard inputs put right."""
    result = exact.convert(body.let(wide), "float32")
    if not HARD[name]:
        return result
    bits = body.let(body.reinterpret("uint32", x))
    for pattern, value in HARD[name].items():
        hard = tirx.EQ(bits, body.int_const(pattern, "uint32"))
        result = exact.select(hard, body.bits_const("float32", value), result)
    return result


def _reduce_exponent(body: Body, d: Expr) -> tuple[Expr, Expr]:
    """(r, k) with d = k log(2) + r, |r| <= log(2) / 2: r is a binary64 variable, k the int64 k * 2^52 (0 for NaN)."""
    rounder = body.const(_ROUNDER, _F64)
    rounded = body.let(_multiply_add(body, d, body.const(_LOG2_E, _F64), rounder))
    k = body.let(exact.sub(rounded, rounder))
    r = _multiply_add(body, k, body.const(-_LN2_HIGH, _F64), d)
    r = body.let(_multiply_add(body, k, body.const(-_LN2_LOW, _F64), r))
    shifted = tirx.shift_left(body.reinterpret("uint64", rounded), body.int_const(52, "uint64"))
    return r, body.reinterpret("int64", shifted)


def _exp(body: Body, d: Expr) -> Expr:
    """e^d for a binary64 variable d with |d| < 700, or NaN."""
    r, k = _reduce_exponent(body, d)
    power = _polynomial(body, r, (1.0, 1.0, *EXP_TAIL))
    return body.reinterpret(_F64, tirx.Add(body.reinterpret("int64", power), k))


def _expm1(body: Body, d: Expr) -> Expr:
    """e^d - 1 with a small relative error for a binary64 variable d with |d| < 700, or NaN; -0 gives +0."""
    r, k = _reduce_exponent(body, d)
    square = exact.mul(r, r)
    power = _multiply_add(body, square, _polynomial(body, r, EXP_TAIL), r)
    scale = body.let(body.reinterpret(_F64, tirx.Add(k, body.int_const(_ONE, "int64"))))
    return _multiply_add(body, power, scale, exact.sub(scale, body.const(1.0, _F64)))


def _split(body: Body, w: Expr) -> tuple[Expr, Expr]:
    """w = 2^k z with z in [sqrt(1/2), sqrt(2)), for a positive finite binary64 w: the bits of z + C, and of k + 1023.

    Returns the uint64 variable whose low 52 bits plus those of sqrt(1/2) are z, and whose high 12 bits are k + 1023.
    """
    shifted = body.let(tirx.Add(body.reinterpret("uint64", w), body.int_const(_ONE - _SQRT_HALF, "uint64")))
    biased = tirx.shift_right(shifted, body.int_const(52, "uint64"))
    # As the low bits of 2^52 the biased exponent becomes a float without a conversion instruction.
    packed = tirx.bitwise_or(biased, body.int_const((1023 + 52) << 52, "uint64"))
    k = exact.sub(body.reinterpret(_F64, packed), body.const(2.0**52 + 1023.0, _F64))
    return shifted, body.let(k)


def _log_mantissa(body: Body, x: Expr) -> tuple[Expr, Expr]:
    """(f, k) with x = 2^k (1 + f) and 1 + f in [sqrt(1/2), sqrt(2)), binary64 variables, for a float32 variable x."""
    shifted, k = _split(body, _log_domain(body, x, 2.0**-149))
    mantissa = tirx.bitwise_and(shifted, body.int_const(_MANTISSA, "uint64"))
    z = body.reinterpret(_F64, tirx.Add(mantissa, body.int_const(_SQRT_HALF, "uint64")))
    return body.let(exact.sub(z, body.const(1.0, _F64))), k


def _log_tail(body: Body, f: Expr, low: Expr) -> Expr:
    """log(1 + f) - f + low for a binary64 variable f with 1 + f in [sqrt(1/2), sqrt(2)].

    With s = f / (2 + f), log(1 + f) = 2 atanh(s) = 2 s + s R(s^2), and 2 s = f - s f without the error of the division.
    """
    s = body.let(exact.div(f, exact.add(f, body.const(2.0, _F64))))
    z = body.let(exact.mul(s, s))
    correction = _multiply_add(body, z, _polynomial(body, z, LOG_SERIES), exact.neg(f))
    return _multiply_add(body, s, correction, low)


def _log_sum(body: Body, f: Expr, k: Expr) -> Expr:
    """log(1 + f) + k log(2) for binary64 variables with 1 + f in [sqrt(1/2), sqrt(2)]."""
    tail = _log_tail(body, f, exact.mul(k, body.const(_LN2_LOW, _F64)))
    return _multiply_add(body, k, body.const(_LN2_HIGH, _F64), exact.add(f, tail))


def _log_domain(body: Body, x: Expr, low: float) -> Expr:
    """``x`` (a variable) limited to [low, largest float], NaN to ``low``, and widened: bits that are safe to calculate with."""
    low_const, high_const = body.const(low), body.const(_LARGEST)
    raised = body.let(exact.select(exact.lt(low_const, x), x, low_const))
    return _widen(body, exact.select(exact.lt(raised, high_const), raised, high_const))


def _log_specials(body: Body, x: Expr, pole: float, result: Expr) -> Expr:
    """-inf at ``pole``, NaN below it, infinity and NaN as they are."""
    result = exact.select(exact.lt(x, body.const(_INFINITY)), result, x)
    result = exact.select(exact.lt(x, body.const(pole)), body.bits_const("float32", _QUIET_NAN), result)
    return exact.select(exact.eq(x, body.const(pole)), body.const(-_INFINITY), result)


def exp(body: Body, x: Expr) -> Expr:
    """e^x. Beyond the clamps the result is 0 or infinity by the last rounding."""
    d = _widen(body, _clamp(body, x, -105.0, 90.0))
    return _finish(body, "exp", x, _exp(body, d))


def expm1(body: Body, x: Expr) -> Expr:
    """e^x - 1."""
    d = _widen(body, _clamp(body, x, -30.0, 90.0))
    return _with_sign_of(body, x, _finish(body, "expm1", x, _expm1(body, d)))


def log(body: Body, x: Expr) -> Expr:
    """Natural logarithm."""
    f, k = _log_mantissa(body, x)
    return _log_specials(body, x, _ZERO, _finish(body, "log", x, _log_sum(body, f, k)))


def log1p(body: Body, x: Expr) -> Expr:
    """log(1 + x). 1 + x is rounded only to find its exponent k; (1 + x) 2^-k - 1 has one rounding."""
    d = _log_domain(body, x, -1.0 + 2.0**-24)
    one = body.const(1.0, _F64)
    shifted, k = _split(body, exact.add(d, one))
    exponent = tirx.bitwise_and(shifted, body.int_const(0x7FF << 52, "uint64"))
    scale = body.let(body.reinterpret(_F64, tirx.Sub(body.int_const(2046 << 52, "uint64"), exponent)))
    f = body.let(_multiply_add(body, d, scale, exact.sub(scale, one)))
    result = _with_sign_of(body, x, _finish(body, "log1p", x, _log_sum(body, f, k)))
    return _log_specials(body, x, -1.0, result)


def tanh(body: Body, x: Expr) -> Expr:
    """tanh(x) = e / (e + 2) with e = e^(2x) - 1. From 9.02 on the result rounds to 1."""
    d = _widen(body, _clamp(body, x, -10.0, 10.0))
    e = body.let(_expm1(body, body.let(exact.add(d, d))))
    quotient = exact.div(e, exact.add(e, body.const(2.0, _F64)))
    return _with_sign_of(body, x, _finish(body, "tanh", x, quotient))


def _sigmoid_near_zero(body: Body, x: Expr) -> Expr:
    """Sigmoid for |x| < 2^-14: 1/2 + x/4 - x^3/48.

    For many x the first two terms are the middle between two floats and the third is far below the last bit of binary64.
    A factor a little below 1/4 leads to the right side of the middle, and over no other one.
    """
    if body.has_fma:
        return exact.fma(x, body.const(0.25 - 2.0**-26), body.const(0.5))
    d = _widen(body, x)
    product = exact.mul(d, body.const(0.25 - 2.0**-26, _F64))
    return exact.convert(body.let(exact.add(product, body.const(0.5, _F64))), "float32")


def sigmoid(body: Body, x: Expr) -> Expr:
    """1 / (1 + e^-x) with e^r = (p + q) / (p - q), p even and q odd: the division is needed anyway."""
    d = _widen(body, exact.neg(_clamp(body, x, -105.0, 90.0)))
    r, k = _reduce_exponent(body, d)
    z = body.let(exact.mul(r, r))
    even = body.let(_polynomial(body, z, EXP_EVEN))
    odd = body.let(exact.mul(r, _polynomial(body, z, EXP_ODD)))
    denominator = body.let(exact.sub(even, odd))
    scaled = body.reinterpret(_F64, tirx.Add(body.reinterpret("int64", exact.add(even, odd)), k))
    result = _finish(body, "sigmoid", x, body.let(exact.div(denominator, exact.add(scaled, denominator))))
    near_zero = exact.lt(exact.absolute(x), body.const(2.0**-14))
    return exact.select(near_zero, _sigmoid_near_zero(body, x), result)


def erf(body: Body, x: Expr) -> Expr:
    """Error function: x times a polynomial in x^2. From 3.9192059 on the result rounds to 1."""
    d = _widen(body, _clamp(body, x, -3.92, 3.92))
    t = body.let(_multiply_add(body, d, d, body.const(-ERF_CENTRE, _F64)))
    return _finish(body, "erf", x, exact.mul(d, _polynomial(body, t, ERF_RATIO)))


def exp2(body: Body, x: Expr) -> Expr:
    """2^x. Beyond the clamps the result is 0 or infinity by the last rounding."""
    d = _widen(body, _clamp(body, x, -152.0, 130.0))
    rounder = body.const(_ROUNDER, _F64)
    rounded = body.let(exact.add(d, rounder))
    r = body.let(exact.sub(d, exact.sub(rounded, rounder)))
    power = _polynomial(body, r, (1.0, *EXP2_TAIL))
    k = tirx.shift_left(body.reinterpret("uint64", rounded), body.int_const(52, "uint64"))
    wide = tirx.Add(body.reinterpret("int64", power), body.reinterpret("int64", k))
    return _finish(body, "exp2", x, body.reinterpret(_F64, wide))


def log2(body: Body, x: Expr) -> Expr:
    """Logarithm to base 2, k + log(1 + f) / log(2): exact for powers of 2."""
    f, k = _log_mantissa(body, x)
    fraction = exact.add(f, _log_tail(body, f, body.const(_ZERO, _F64)))
    wide = _multiply_add(body, fraction, body.const(_LOG2_E, _F64), k)
    return _log_specials(body, x, _ZERO, _finish(body, "log2", x, wide))


def log10(body: Body, x: Expr) -> Expr:
    """Logarithm to base 10, k log10(2) + log(1 + f) / log(10)."""
    f, k = _log_mantissa(body, x)
    fraction = exact.add(f, _log_tail(body, f, body.const(_ZERO, _F64)))
    low = _multiply_add(body, fraction, body.const(_LOG10_E, _F64), exact.mul(k, body.const(_LOG10_2_LOW, _F64)))
    wide = _multiply_add(body, k, body.const(_LOG10_2_HIGH, _F64), low)
    return _log_specials(body, x, _ZERO, _finish(body, "log10", x, wide))


def atan(body: Body, x: Expr) -> Expr:
    """Inverse tangent: atan(t), pi/4 + atan(t) or pi/2 + atan(t) with t = a, (a - 1) / (a + 1) or -1 / a, a = |x|."""
    magnitude = body.let(exact.absolute(x))
    a, one, zero = _widen(body, magnitude), body.const(1.0, _F64), body.const(0.0, _F64)
    small = exact.lt(magnitude, body.const(_TAN_LOW))
    large = exact.lt(body.const(_TAN_HIGH), magnitude)
    numerator = exact.select(small, a, exact.select(large, exact.neg(one), exact.sub(a, one)))
    denominator = exact.select(small, one, exact.select(large, a, exact.add(a, one)))
    t = body.let(exact.div(body.let(numerator), body.let(denominator)))
    high, low = ((body.const(v / 2.0, _F64), body.const(v, _F64)) for v in (_HALF_PI, _HALF_PI_LOW))
    offset = body.let(exact.select(small, zero, exact.select(large, high[1], high[0])))
    offset_low = body.let(exact.select(small, zero, exact.select(large, low[1], low[0])))
    z = body.let(exact.mul(t, t))
    tail = _multiply_add(body, exact.mul(t, z), _polynomial(body, z, ATAN_SERIES), offset_low)
    wide = exact.add(offset, exact.add(t, tail))
    return _with_sign_of(body, x, _finish(body, "atan", magnitude, wide))


def sinh(body: Body, x: Expr) -> Expr:
    """(e + e / (e + 1)) / 2 with e = e^|x| - 1. Beyond the clamp the result is infinity by the last rounding."""
    magnitude = body.let(exact.absolute(x))
    e = body.let(_expm1(body, _widen(body, _clamp(body, magnitude, 0.0, 90.0))))
    doubled = exact.add(e, exact.div(e, exact.add(e, body.const(1.0, _F64))))
    result = _finish(body, "sinh", magnitude, exact.mul(doubled, body.const(0.5, _F64)))
    return _with_sign_of(body, x, result)


def cosh(body: Body, x: Expr) -> Expr:
    """(e + 1 / e) / 2 with e = e^|x|. Beyond the clamp the result is infinity by the last rounding."""
    magnitude = body.let(exact.absolute(x))
    e = body.let(_exp(body, _widen(body, _clamp(body, magnitude, 0.0, 90.0))))
    doubled = exact.add(e, exact.div(body.const(1.0, _F64), e))
    return _finish(body, "cosh", magnitude, exact.mul(doubled, body.const(0.5, _F64)))


#: Each takes the body and a float32 variable (any lanes) and returns the float32 result.
BODIES: dict[str, Callable[[Body, Expr], Expr]] = {
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "erf": erf,
    "exp2": exp2,
    "log2": log2,
    "log10": log10,
    "atan": atan,
    "sinh": sinh,
    "cosh": cosh,
}
