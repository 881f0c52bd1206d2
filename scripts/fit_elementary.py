"""Print the binary64 coefficients of gensyn_tvm/operators/elementary/coefficients.py.

Each polynomial interpolates its function in the Chebyshev nodes of the reduced range, in 60 digits, and every coefficient is
then rounded to binary64. The result is within a small factor of the best polynomial of its degree; what is left of the error
is judged by scripts/prove_elementary.py on every input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath

mpmath.mp.dps = 60

Function = Callable[[Any], Any]

#: Point around which the squared argument of erf is expanded; a binary64 number.
ERF_CENTRE = 7.6875
#: Where the variable of erfc is 0.
ERFC_CENTRE = 2.5


def interpolate(function: Function, low: Any, high: Any, degree: int) -> list[float]:
    """Monomial coefficients, lowest first, of the polynomial through the Chebyshev nodes of [low, high]."""
    count = degree + 1
    centre, half = (high + low) / 2, (high - low) / 2
    nodes = [centre + half * mpmath.cos(mpmath.pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    vandermonde = mpmath.matrix(count, count)
    for row, node in enumerate(nodes):
        for column in range(count):
            vandermonde[row, column] = node**column
    solution = mpmath.lu_solve(vandermonde, mpmath.matrix([function(node) for node in nodes]))
    return [float(c) for c in solution]


def raised(coefficients: list[float]) -> list[float]:
    """The coefficients with the first one last place larger."""
    return [math.nextafter(coefficients[0], math.inf), *coefficients[1:]]


def exp_tail(r: Any) -> Any:
    """(e^r - 1 - r) / r^2."""
    return mpmath.mpf(1) / 2 if r == 0 else (mpmath.expm1(r) - r) / r**2


def log_series(z: Any) -> Any:
    """(2 atanh(s) / s - 2) / z with s^2 = z."""
    s = mpmath.sqrt(z)
    return mpmath.mpf(2) / 3 if z == 0 else (2 * mpmath.atanh(s) / s - 2) / z


def log_double_series(z: Any) -> Any:
    """((2 atanh(s) / s - 2) / z - 2/3) / z with s^2 = z."""
    if z < 1e-20:
        return mpmath.mpf(2) / 5 + 2 * z / 7 + 2 * z**2 / 9
    return (log_series(z) - mpmath.mpf(2) / 3) / z


def exp2_tail(r: Any) -> Any:
    """(2^r - 1) / r."""
    return mpmath.log(2) if r == 0 else mpmath.expm1(r * mpmath.log(2)) / r


def atan_series(z: Any) -> Any:
    """(atan(t) / t - 1) / z with t^2 = z."""
    t = mpmath.sqrt(z)
    return -mpmath.mpf(1) / 3 if z == 0 else (mpmath.atan(t) / t - 1) / z


def sin_pi_series(z: Any) -> Any:
    """(sin(pi r) / r - pi) / z with r^2 = z."""
    r = mpmath.sqrt(z)
    return -(mpmath.pi**3) / 6 if z == 0 else (mpmath.sinpi(r) / r - mpmath.pi) / z


def cos_pi_series(z: Any) -> Any:
    """(cos(pi r) - 1) / z with r^2 = z."""
    return -(mpmath.pi**2) / 2 if z == 0 else (mpmath.cospi(mpmath.sqrt(z)) - 1) / z


def asin_series(z: Any) -> Any:
    """(asin(s) / s - 1) / z with s^2 = z."""
    s = mpmath.sqrt(z)
    return mpmath.mpf(1) / 6 if z == 0 else (mpmath.asin(s) / s - 1) / z


def erf_ratio(t: Any) -> Any:
    """erf(x) / x with x^2 = t + ERF_CENTRE."""
    x = mpmath.sqrt(t + ERF_CENTRE)
    return mpmath.erf(x) / x


def erfc_scaled(t: Any) -> Any:
    """e^(x^2) erfc(x) with t = (x - ERFC_CENTRE) / (x + ERFC_CENTRE)."""
    x = ERFC_CENTRE * (1 + t) / (1 - t)
    return mpmath.exp(x * x) * mpmath.erfc(x)


def exp_ratio(end: Any) -> tuple[list[float], list[float]]:
    """P and Q of e^r = (P(r^2) + r Q(r^2)) / (P(r^2) - r Q(r^2)), both of degree 2, P(0) = 1, Q(0) = 1/2, for r^2 <= end."""
    nodes = [end / 2 * (1 + mpmath.cos(mpmath.pi * (2 * i + 1) / 8)) for i in range(4)]
    rows, right = [], []
    for z in nodes:
        t = mpmath.tanh(mpmath.sqrt(z) / 2) / mpmath.sqrt(z)
        rows.append([t * z, t * z**2, -z, -(z**2)])
        right.append(mpmath.mpf(1) / 2 - t)
    p1, p2, q1, q2 = mpmath.lu_solve(mpmath.matrix(rows), mpmath.matrix(right))
    return [1.0, float(p1), float(p2)], [0.5, float(q1), float(q2)]


def inverse_pi_parts(lowest_bit: int) -> tuple[float, float, float]:
    """1 / pi modulo 2^(1 - lowest_bit) in 29 bits, 24 bits and a rounded rest: its products with multiples of 2^lowest_bit
    are those with 1 / pi, but for multiples of 2."""
    with mpmath.workprec(600):
        rest = 1 / mpmath.pi
        if lowest_bit > -1:
            step = mpmath.mpf(2) ** (1 - lowest_bit)
            rest -= mpmath.floor(rest / step) * step
        unit = mpmath.mpf(2) ** (mpmath.floor(mpmath.log(rest, 2)) - 28)
        parts = []
        for _ in range(2):
            parts.append(float(mpmath.floor(rest / unit) * unit))
            rest -= mpmath.mpf(parts[-1])
            unit /= 2**24
        return parts[0], parts[1], float(rest)


def print_reduction() -> None:
    """The table for arguments below 2^44 and five times for 2^19 times larger ones."""
    print("INVERSE_PI = (")
    for step in range(6):
        lowest_bit = -1 if step == 0 else 44 + 19 * (step - 1) - 23
        parts = ", ".join(f'float.fromhex("{part.hex()}")' for part in inverse_pi_parts(lowest_bit))
        print(f"    ({parts}),")
    print(")")


def main() -> None:
    """Print the tables as Python source."""
    half_log2 = mpmath.log(2) / 2 * mpmath.mpf("1.0000001")
    log_end = ((mpmath.sqrt(2) - 1) / (mpmath.sqrt(2) + 1)) ** 2
    atan_end = (mpmath.sqrt(2) - 1) ** 2
    erf_end = mpmath.mpf("15.3666")
    erfc_low, erfc_high = ((mpmath.mpf(x) - ERFC_CENTRE) / (mpmath.mpf(x) + ERFC_CENTRE) for x in ("0.5", "10.07"))
    even, odd = exp_ratio(half_log2**2)
    tables = {
        "EXP_TAIL": interpolate(exp_tail, -half_log2, half_log2, 9),
        "EXP_EVEN": even,
        "EXP_ODD": odd,
        "ERFC_SCALED": interpolate(erfc_scaled, erfc_low, erfc_high, 20),
        "LOG_SERIES": interpolate(log_series, mpmath.mpf(0), log_end, 6),
        "EXP2_TAIL": interpolate(exp2_tail, -mpmath.mpf("0.5"), mpmath.mpf("0.5"), 10),
        "ATAN_SERIES": interpolate(atan_series, mpmath.mpf(0), atan_end * mpmath.mpf("1.0000001"), 10),
        "EXP_DOUBLE_TAIL": interpolate(exp_tail, -half_log2, half_log2, 11),
        "LOG_DOUBLE_SERIES": interpolate(log_double_series, mpmath.mpf(0), log_end * mpmath.mpf("1.0000001"), 8),
        "SIN_PI_SERIES": interpolate(sin_pi_series, mpmath.mpf(0), mpmath.mpf("0.2505"), 7),
        "TAN_SIN_SERIES": interpolate(sin_pi_series, mpmath.mpf(0), mpmath.mpf("0.0627"), 5),
        "TAN_COS_SERIES": interpolate(cos_pi_series, mpmath.mpf(0), mpmath.mpf("0.0627"), 6),
        "ASIN_SERIES": interpolate(asin_series, mpmath.mpf(0), mpmath.mpf("0.25"), 12),
        "ATANH_SERIES": interpolate(log_series, mpmath.mpf(0), mpmath.mpf("0.0403"), 7),
        "ERF_RATIO": raised(interpolate(erf_ratio, -mpmath.mpf(ERF_CENTRE), erf_end - ERF_CENTRE, 27)),
    }
    for name, coefficients in tables.items():
        print(f"{name} = (")
        for coefficient in coefficients:
            print(f'    float.fromhex("{coefficient.hex()}"),')
        print(")")
    print_reduction()


if __name__ == "__main__":
    main()
