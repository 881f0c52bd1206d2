"""The binary64 algorithms of docs/numerics-float64.md on NumPy arrays.

Values of about 106 bits are pairs (high, low) of float64 arrays. All functions are elementwise on float64 arrays that
broadcast, and expect floating-point warnings to be switched off.
"""

from __future__ import annotations

import numpy as np

from gensyn_tvm.interpreter.scalar import Array, fma

Pair = tuple[Array, Array]

_ROUND_TO_INTEGER = np.float64(6755399441055744.0)  # 1.5 * 2^52
_LOG2_E = np.float64(float.fromhex("0x1.71547652b82fep+0"))
_LN2 = (np.float64(float.fromhex("0x1.62e42fefa3800p-1")), np.float64(float.fromhex("0x1.ef35793c76730p-45")))
_TWO_THIRDS = (np.float64(float.fromhex("0x1.5555555555555p-1")), np.float64(float.fromhex("0x1.5555555555555p-55")))

#: Q of LOG, lowest degree first.
LOG_SERIES = tuple(
    float.fromhex(h)
    for h in (
        "0x1.999999999999ap-2",
        "0x1.2492492492491p-2",
        "0x1.c71c71c71cfd7p-3",
        "0x1.745d17451376fp-3",
        "0x1.3b13b1bc64de3p-3",
        "0x1.1110dfb241e74p-3",
        "0x1.e1f7f8b3abadap-4",
        "0x1.ac4ab12489da3p-4",
        "0x1.b8d2ce6714f8bp-4",
    )
)
#: T of EXP, lowest degree first.
EXP_TAIL = tuple(
    float.fromhex(h)
    for h in (
        "0x1.0000000000000p-1",
        "0x1.5555555555555p-3",
        "0x1.5555555555557p-5",
        "0x1.1111111111111p-7",
        "0x1.6c16c16c15a6cp-10",
        "0x1.a01a01a0196aep-13",
        "0x1.a01a01a9e8105p-16",
        "0x1.71de3a5aa6edfp-19",
        "0x1.27e4d41d6e4cfp-22",
        "0x1.ae642c872f1b5p-26",
        "0x1.1f7f2002ddb53p-29",
        "0x1.61bfa22fdca3dp-33",
    )
)


def polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    """Horner's scheme from the highest degree down, each step one fma."""
    value = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = fma(value, x, np.full_like(x, c))
    return value


def fast_two_sum(a: Array, b: Array) -> Pair:
    """FAST2SUM."""
    s = a + b
    return s, b - (s - a)


def two_sum(a: Array, b: Array) -> Pair:
    """2SUM."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def two_product(a: Array, b: Array) -> Pair:
    """2PROD."""
    p = a * b
    return p, fma(a, b, -p)


def decompose(a: Array) -> Pair:
    """(f, k) with a = 2^k (1 + f) and sqrt(1/2) <= 1 + f < sqrt(2); a is first limited to the positive finite numbers."""
    a = np.where(a > 2.0**-1074, a, 2.0**-1074)
    a = np.where(a < np.finfo(np.float64).max, a, np.finfo(np.float64).max)
    mantissa, exponent = np.frexp(a)
    small = mantissa.view(np.uint64) < np.uint64(0x3FE6A09E667F3BCD)
    mantissa = np.where(small, 2.0 * mantissa, mantissa)
    return mantissa - 1.0, (exponent - small).astype(np.float64)


def log_near_one(f: Array, g: Array) -> Pair:
    """LOG1: log(1 + f + g)."""
    d = f + 2.0
    d_low = (f - (d - 2.0)) + g
    s = f / d
    t = (fma(-s, d, f) + fma(-s, d_low, g)) / d
    z, z_low = two_product(s, s)
    z_low = fma(s + s, t, z_low)
    q = z * polynomial(z, LOG_SERIES)
    c, c_low = fast_two_sum(np.full_like(q, _TWO_THIRDS[0]), q)
    c_low = c_low + _TWO_THIRDS[1]
    m, m_low = two_product(z, c)
    m_low = m_low + fma(z, c_low, z_low * c)
    u, u_low = two_product(s, m)
    u_low = u_low + fma(s, m_low, t * m)
    high, low = fast_two_sum(s + s, u)
    return high, low + (u_low + (t + t))


def log(f: Array, g: Array, k: Array) -> Pair:
    """LOG: k log(2) + log(1 + f + g)."""
    high, low = log_near_one(f, g)
    total, error = fast_two_sum(k * _LN2[0], high)
    return fast_two_sum(total, error + fma(k, np.full_like(k, _LN2[1]), low))


def exp_reduced(h: Array, rest: Array) -> tuple[Array, Array, Array]:
    """EXP1: (high, low, k) with e^(h + rest) = 2^k (1 + high + low); k are int64."""
    h, rest = np.broadcast_arrays(h, rest)
    k = fma(h, np.full_like(h, _LOG2_E), np.full_like(h, _ROUND_TO_INTEGER)) - _ROUND_TO_INTEGER
    r = fma(-k, np.full_like(k, _LN2[0]), h)
    high, low = two_sum(r, -k * _LN2[1])
    high, low = two_sum(high, low + rest)
    low = (high * high) * polynomial(high, EXP_TAIL) + fma(high, low, low)
    return high, low, np.where(k == k, k, 0.0).astype(np.int64)


def scale(x: Array, k: Array) -> Array:
    """SCALE: x * 2^a * 2^(k - a), a = floor(k / 2)."""
    half = k >> 1
    one = np.ones(k.shape)
    return (x * np.ldexp(one, half)) * np.ldexp(one, k - half)


def exp(h: Array, rest: Array) -> Array:
    """EXP: e^(h + rest)."""
    high, low, k = exp_reduced(h, rest)
    total, error = fast_two_sum(np.ones_like(high), high)
    return scale(total + (error + low), k)
