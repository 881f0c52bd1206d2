"""From exact operators to instructions: one table, a row per operator, a column per kind of target.

TVM's ``LowerIntrin`` calls these functions at the very end of its pipeline, after vectorisation and every simplification, so
nothing can change the arithmetic afterwards. On LLVM each operation stands under ``llvm.arithmetic.fence``, because TVM
hard-wires ``AllowFPOpFusion = Fast``, which would contract a * b + c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx import register_intrin_lowering

from gensyn_tvm.operators import exact, narrow
from gensyn_tvm.operators.elementary import BINARY_BODIES, BODIES
from gensyn_tvm.targets.body import Body, call_body, has_fma, lowering_for
from gensyn_tvm.targets.gpu.prelude import lower as gpu_lower
from gensyn_tvm.targets.integers import INT_BITS
from gensyn_tvm.targets.integers import LOWERINGS as INTEGER_LOWERINGS

Expr = Any
Lowering = Callable[[Any], Expr]

__all__ = ["COMMON", "LOWERINGS", "lowering_for"]

_PRIORITY = 99
_INT = {"float32": "int32", "float64": "int64"}
#: Smallest power of two from which every float is an integer.
_INTEGRAL_FROM = {"float32": 2.0**23, "float64": 2.0**52}
_MAGNITUDE = {"float32": 0x7FFFFFFF, "float64": 0x7FFFFFFFFFFFFFFF}
_INFINITY = {"float32": 0x7F800000, "float64": 0x7FF0000000000000}
_QUIET_NAN = {"float32": 0x7FC00000, "float64": 0x7FF8000000000000}


def _fence(expr: Expr) -> Expr:
    return tirx.call_llvm_pure_intrin(exact.dtype_of(expr), "llvm.arithmetic.fence", expr)


# ---- rows that are the same everywhere ------------------------------------------------------------------------------


def _bits(call: Any) -> Expr:
    low = call.args[0].value
    if all(a.value == 0 for a in call.args):  # TVM reads a reinterpreted zero as a null pointer
        return tirx.FloatImm(exact.dtype_of(call), 0.0)
    if exact.dtype_of(call) == "float32":
        return tirx.reinterpret("float32", tirx.IntImm("uint32", low))
    pattern = call.args[1].value * 2**32 + low
    return tirx.reinterpret("float64", tirx.IntImm("int64", pattern - 2**64 if pattern >= 2**63 else pattern))


def _signed_mask(body: Body, element: str) -> Expr:
    """The sign bit as a signed integer constant."""
    return body.int_const(-_MAGNITUDE[element] - 1, _INT[element])


def _neg(call: Any) -> Expr:
    body, element, (x,) = call_body(call)
    flipped = tirx.bitwise_xor(body.reinterpret(_INT[element], x), _signed_mask(body, element))
    return body.finish(body.reinterpret(element, flipped))


def _magnitude(body: Body, element: str, x: Expr) -> Expr:
    mask = body.int_const(_MAGNITUDE[element], _INT[element])
    return body.reinterpret(element, tirx.bitwise_and(body.reinterpret(_INT[element], x), mask))


def _abs(call: Any) -> Expr:
    body, element, (x,) = call_body(call)
    return body.finish(_magnitude(body, element, x))


def _pattern(x: Expr) -> int | None:
    """The bits of a float constant in all lanes; None of anything else."""
    scalar = x.value if isinstance(x, tirx.Broadcast) else x
    if str(getattr(getattr(scalar, "op", None), "name", "")) != exact.PREFIX + "bits":
        return None
    low, *high = (int(bits.value) for bits in scalar.args)
    return low + (high[0] << 32 if high else 0)


def _extremum(*, largest: bool) -> Lowering:
    """maximum and minimum by compare and select: a NaN wins, and of two zeros +0 (maximum) or -0 (minimum)."""

    def lower(call: Any) -> Expr:
        body, element, (x, y) = call_body(call)
        bx, by = body.reinterpret(_INT[element], x), body.reinterpret(_INT[element], y)
        zeros = body.reinterpret(element, tirx.bitwise_and(bx, by) if largest else tirx.bitwise_or(bx, by))
        nan = body.bits_const(element, _QUIET_NAN[element])
        first, second = (exact.gt(x, y), exact.gt(y, x)) if largest else (exact.lt(x, y), exact.lt(y, x))
        return body.finish(exact.select(first, x, exact.select(second, y, exact.select(exact.eq(x, y), zeros, nan))))

    return lower


def _llvm_extremum(*, largest: bool) -> Lowering:
    """The same in the shape in which LLVM recognises the processor's own instruction, whose result for NaNs and zeros is x.

    In a reduction x is the accumulator: what is asked of y alone does not wait for it. A NaN keeps its payload, which nobody
    sees.
    """

    def bounded(body: Body, element: str, x: Expr, bound: Expr, pattern: int) -> Expr:
        """With a bound that is no NaN: x unless it lies beyond, which a NaN does not. Equal ones are zeros or the same bits."""
        wins = pattern == (0 if largest else _MAGNITUDE[element] + 1)  # a zero above (below) the other one
        if largest:
            beyond = exact.le(x, bound) if wins else exact.lt(x, bound)
        else:
            beyond = exact.ge(x, bound) if wins else exact.gt(x, bound)
        return body.finish(exact.select(beyond, bound, x))

    def lower(call: Any) -> Expr:
        patterns = [_pattern(a) for a in call.args]
        body, element, (x, y) = call_body(call)
        for operand, bound, pattern in ((x, y, patterns[1]), (y, x, patterns[0])):
            if pattern is not None and pattern & _MAGNITUDE[element] <= _INFINITY[element]:
                return bounded(body, element, operand, bound, pattern)
        bx, by = body.reinterpret(_INT[element], x), body.reinterpret(_INT[element], y)
        equal = body.reinterpret(element, tirx.bitwise_and(bx, by) if largest else tirx.bitwise_or(bx, by))
        found = exact.select(exact.gt(y, x) if largest else exact.lt(y, x), y, x)
        ordered = exact.select(exact.eq(x, y), equal, found)
        return body.finish(exact.select(exact.eq(y, y), ordered, y))

    return lower


def _rounded(body: Body, element: str, x: Expr) -> Expr:
    """Nearest integral value, ties to even, without the sign: adding 2^23 (2^52) leaves no fraction bits."""
    magic = body.const(_INTEGRAL_FROM[element], element)
    return exact.sub(exact.add(_magnitude(body, element, x), magic), magic)


def _to_integral(kind: str) -> Lowering:
    def lower(call: Any) -> Expr:
        body, element, (x,) = call_body(call)
        sign = body.let(tirx.bitwise_and(body.reinterpret(_INT[element], x), _signed_mask(body, element)))

        def signed(value: Expr) -> Expr:
            return body.reinterpret(element, tirx.bitwise_or(body.reinterpret(_INT[element], value), sign))

        result = body.let(signed(_rounded(body, element, x)))
        one = body.const(1.0, element)
        if kind == "floor":
            result = signed(exact.select(exact.gt(result, x), exact.sub(result, one), result))
        elif kind == "ceil":
            result = signed(exact.select(exact.lt(result, x), exact.add(result, one), result))
        small = exact.lt(_magnitude(body, element, x), body.const(_INTEGRAL_FROM[element], element))
        return body.finish(exact.select(small, result, x))

    return lower


def _canonical_nan(call: Any) -> Expr:
    """On integers: to LLVM all NaNs are alike, so it may drop a float selection of one NaN over another."""
    body, element, (x,) = call_body(call)
    integer = _INT[element]
    bits = body.let(body.reinterpret(integer, x))
    magnitude = tirx.bitwise_and(bits, body.int_const(_MAGNITUDE[element], integer))
    nan = tirx.GT(magnitude, body.int_const(_INFINITY[element], integer))
    return body.finish(body.reinterpret(element, exact.select(nan, body.int_const(_QUIET_NAN[element], integer), bits)))


def _convert(call: Any) -> Expr:
    """``cast`` of docs/numerics.md."""
    body, source, (x,) = call_body(call)
    target = exact.element_of(exact.dtype_of(call))
    if target == "bool":
        zero = body.const(0.0, source) if source in _INT else body.int_const(0, source)
        return body.finish(exact.ne(x, zero) if source in _INT else tirx.NE(x, zero))
    if source in _INT and target in INT_BITS:
        return body.finish(_float_to_int(body, source, target, x))
    if source in ("uint8", "uint16", "uint32") and target in _INT:
        x = tirx.Cast(body.dtype("int64"), x)
    return body.finish(tirx.Cast(body.dtype(target), x))


def _float_to_int(body: Body, source: str, target: str, x: Expr) -> Expr:
    """Truncation that saturates; NaN gives 0. Out-of-range values never reach the conversion instruction."""
    bits = INT_BITS[target]
    low, limit = (0, 2**bits) if target.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    too_large = exact.ge(x, body.const(float(limit), source))
    # The truncation of anything above low - 1 is at least low; low - 1 itself is a float only for the narrow types.
    below = float(low - 1)
    exact_below = below == low - 1 and (source == "float64" or abs(low - 1) < 2**24)
    too_small = exact.le(x, body.const(below, source)) if exact_below else exact.lt(x, body.const(float(low), source))
    inside = exact.select(too_large, body.const(0.0, source), exact.select(too_small, body.const(0.0, source), x))
    finite = exact.select(exact.ne(x, x), body.const(0.0, source), inside)
    wide = "int64" if bits < 64 else target
    converted = tirx.Cast(body.dtype(target), tirx.Cast(body.dtype(wide), finite))
    high = body.int_const(limit - 1, target)
    return exact.select(too_large, high, exact.select(too_small, body.int_const(low, target), converted))


# ---- narrow dtypes and elementary functions ------------------------------------------------------------------------


def _narrow_to_odd(call: Any) -> Expr:
    """The nearest float32, moved one step toward zero if it lies farther out than x, with the last bit set if inexact."""
    body, _, (x,) = call_body(call)
    nearest = body.let(tirx.Cast(body.dtype("float32"), x))
    back = body.let(tirx.Cast(body.dtype("float64"), nearest))
    bits = body.let(body.reinterpret("uint32", nearest))
    outside = exact.gt(body.let(_magnitude(body, "float64", back)), body.let(_magnitude(body, "float64", x)))
    toward_zero = body.let(exact.select(outside, tirx.Sub(bits, body.int_const(1, "uint32")), bits))
    odd = tirx.bitwise_or(toward_zero, body.int_const(1, "uint32"))
    inexact = tirx.Or(exact.lt(back, x), exact.gt(back, x))
    return body.finish(body.reinterpret("float32", body.let(exact.select(inexact, odd, bits))))


def _narrow(name: str) -> Lowering:
    def lower(call: Any) -> Expr:
        body, _, (x,) = call_body(call)
        return body.finish(narrow.BODIES[name](body, x))

    return lower


def _elementary(name: str) -> Lowering:
    def lower(call: Any) -> Expr:
        body, _, (x,) = call_body(call)
        return body.finish(BODIES[name](body, x))

    return lower


def _elementary_binary(name: str) -> Lowering:
    def lower(call: Any) -> Expr:
        body, _, (x, y) = call_body(call)
        return body.finish(BINARY_BODIES[name](body, x, y))

    return lower


# ---- LLVM -----------------------------------------------------------------------------------------------------------


def _llvm_fma(call: Any) -> Expr:
    """One rounding. Without fma instructions float32 goes through binary64, rounded to odd; float64 calls libm's fma.

    Under a fence too: LLVM turns an fma with the addend -0.0 into a multiplication, which it would contract with an addition
    that follows.
    """
    dtype = exact.dtype_of(call)
    if has_fma() or exact.element_of(dtype) == "float64":
        return _fence(tirx.call_llvm_pure_intrin(dtype, "llvm.fma", *call.args))
    body, _, (a, b, c) = call_body(call)
    wide_c = body.let(exact.convert(c, "float64"))
    product = body.let(exact.mul(exact.convert(a, "float64"), exact.convert(b, "float64")))
    total = body.let(exact.add(product, wide_c))
    # Knuth's two-sum: product + wide_c = total + error exactly.
    back = body.let(exact.sub(total, product))
    error = body.let(exact.add(exact.sub(product, exact.sub(total, back)), exact.sub(wide_c, back)))
    # Rounding to odd: truncate toward zero and set the last bit if anything was cut off; a NaN error (total infinite)
    # compares false. The conversion to float32 is then the only rounding.
    inexact = tirx.Or(exact.lt(error, body.const(0.0, "float64")), exact.gt(error, body.const(0.0, "float64")))
    bits = body.let(body.reinterpret("int64", total))
    opposite = tirx.shift_right(tirx.bitwise_xor(bits, body.reinterpret("int64", error)), body.int_const(63, "int64"))
    odd = tirx.bitwise_or(tirx.Add(bits, opposite), body.int_const(1, "int64"))
    return body.finish(exact.convert(body.reinterpret("float64", exact.select(inexact, odd, bits)), "float32"))


def _fenced(operation: Callable[[Expr, Expr], Expr]) -> Lowering:
    return lambda call: _fence(operation(*call.args))


def _llvm_div(call: Any) -> Expr:
    """TVM refuses to divide by what it sees to be zero."""
    a, b = call.args
    return _fence(tirx.Div(a, _fence(b) if _pattern(b) == 0 else b))


def _plain(operation: Callable[[Expr, Expr], Expr]) -> Lowering:
    return lambda call: operation(*call.args)


def _libm(name: str) -> Lowering:
    """A libm function that IEEE-754 requires to be correctly rounded (sqrt, fma); the C target only."""

    def lower(call: Any) -> Expr:
        dtype = exact.dtype_of(call)
        return tirx.call_pure_extern(dtype, name + "f" if dtype == "float32" else name, *call.args)

    return lower


#: Rows that are the same everywhere; the bodies of GPU functions too.
COMMON: dict[str, Lowering] = {
    "index": lambda call: tirx.Cast(exact.dtype_of(call), call.args[0]),
    "bits": _bits,
    "neg": _neg,
    "abs": _abs,
    "maximum": _extremum(largest=True),
    "minimum": _extremum(largest=False),
    "floor": _to_integral("floor"),
    "ceil": _to_integral("ceil"),
    "round": _to_integral("round"),
    "canonical_nan": _canonical_nan,
    "convert": _convert,
    "eq": _plain(tirx.EQ),
    "ne": _plain(tirx.NE),
    "lt": _plain(tirx.LT),
    "le": _plain(tirx.LE),
    **INTEGER_LOWERINGS,
    "narrow_to_odd": _narrow_to_odd,
    **{name: _narrow(name) for name in exact.NARROW_ROWS},
    **{name: _elementary(name) for name in exact.ELEMENTARY},
    **{name: _elementary_binary(name) for name in exact.ELEMENTARY_BINARY},
}

LOWERINGS: dict[str, dict[str, Lowering]] = {
    "llvm": {
        **COMMON,
        "add": _fenced(tirx.Add),
        "sub": _fenced(tirx.Sub),
        "mul": _fenced(tirx.Mul),
        "div": _llvm_div,
        "sqrt": lambda call: _fence(tirx.call_llvm_pure_intrin(exact.dtype_of(call), "llvm.sqrt", call.args[0])),
        "fma": _llvm_fma,
        # TVM emits LLVM's ordered "one" for !=, which is false for NaN.
        "ne": lambda call: tirx.Not(tirx.EQ(*call.args)),
        "maximum": _llvm_extremum(largest=True),
        "minimum": _llvm_extremum(largest=False),
    },
    # Compiled by gcc with -ffp-contract=off: plain operators are single IEEE operations.
    "c": {
        **COMMON,
        "add": _plain(tirx.Add),
        "sub": _plain(tirx.Sub),
        "mul": _plain(tirx.Mul),
        "div": _plain(tirx.Div),
        "sqrt": _libm("sqrt"),
        "fma": _libm("fma"),
    },
    # Every operator is a function of the source's prelude, see there.
    **{kind: {name: gpu_lower(name) for name in exact.NAMES} for kind in ("cuda", "opencl")},
}

for _kind, _table in LOWERINGS.items():
    for _name, _lower in _table.items():
        register_intrin_lowering(exact.PREFIX + _name, target=_kind, f=_lower, level=_PRIORITY)
