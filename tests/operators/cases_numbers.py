"""Cases of narrow dtypes, of every width of integers, of bit operations and integer division."""

from __future__ import annotations

from gensyn_tvm.canonical.number_rules import bits_of
from gensyn_tvm.canonical.types import INTEGERS, NARROW, NARROW_FLOATS

from .case import Case

_WIDE = ("float32", "float64", "bool", "int8", "uint8", "int32", "uint64")
_NEW_INTEGERS = ("int16", "uint16", "uint64")


def _casts() -> list[Case]:
    cases = [Case(f"cast-{s}-{t}", "cast", (((211,), s),), {"dtype": t}) for s in _WIDE for t in NARROW]
    cases += [Case(f"cast-{s}-{t}", "cast", (((67, 3), s),), {"dtype": t}) for s in NARROW for t in _WIDE]
    pairs = [("float16", "bfloat16"), ("bfloat16", "float8_e4m3fn"), ("float8_e5m2", "float16"), ("int4", "uint2")]
    pairs += [("float4_e2m1fn", "float8_e8m0fnu"), ("float16", "int4"), ("uint4", "float8_e5m2fnuz"), ("float16", "float16")]
    cases += [Case(f"cast-{s}-{t}", "cast", (((131,), s),), {"dtype": t}) for s, t in pairs]
    for s in _WIDE:
        for t in _NEW_INTEGERS:
            if s != t:
                cases.append(Case(f"cast-{s}-{t}", "cast", (((211,), s),), {"dtype": t}))
                cases.append(Case(f"cast-{t}-{s}-back", "cast", (((67,), t),), {"dtype": s}))
    for s in ("float32", "float64", "float16", "bfloat16"):
        cases += [Case(f"cast_saturating-{s}-{t}", "cast_saturating", (((211,), s),), {"dtype": t}) for t in NARROW_FLOATS]
    dtypes = ("float32", "float64", *INTEGERS, *NARROW)
    for s in (*dtypes, "bool"):
        for t in dtypes:
            if s != t and bits_of(s) == bits_of(t):
                cases.append(Case(f"bitcast-{s}-{t}", "bitcast", (((77,), s),), {"dtype": t}))
    return cases


def _integers() -> list[Case]:
    cases = []
    for op in ("add", "sub", "mul", "maximum", "minimum", "less", "equal"):
        cases += [Case(f"{op}-{d}-vector", op, (((129,), d), ((129,), d)), {}) for d in ("int8", "uint8", *_NEW_INTEGERS)]
    for op in ("div", "rem"):
        cases += [Case(f"{op}-{d}", op, (((13, 33), d), ((33,), d)), {}) for d in INTEGERS]
    for op in ("bit_and", "bit_or", "bit_xor", "shift_left", "shift_right"):
        cases += [Case(f"{op}-{d}", op, (((129,), d), ((129,), d)), {}) for d in INTEGERS]
    for op in ("bit_not", "neg", "abs"):
        cases += [Case(f"{op}-{d}", op, (((65,), d),), {}) for d in INTEGERS]
    for op in ("sum", "prod", "reduce_max", "reduce_min", "argmax"):
        for d in ("int8", "uint8", *_NEW_INTEGERS):
            cases.append(Case(f"{op}-{d}-rows", op, (((9, 30), d),), {"axes": (1,), "keepdims": False}))
    return cases


def _moved() -> list[Case]:
    cases = []
    for d in NARROW:
        cases.append(Case(f"transpose-{d}", "transpose", (((4, 6, 5), d),), {"perm": (2, 0, 1)}))
        cases.append(Case(f"where-{d}", "where", (((33,), "bool"), ((33,), d), ((33,), d)), {}))
        cases.append(Case(f"pad-{d}", "pad", (((3, 4), d), ((), d)), {"padding": ((1, 2), (0, 3))}))
    return cases


def _unique(cases: list[Case]) -> list[Case]:
    return list({c.name: c for c in cases}.values())


FAMILIES: dict[str, list[Case]] = {
    "narrow casts": _unique(_casts()),
    "integers": [c for c in _integers() if c.name not in {"neg-int32", "neg-int64", "abs-int32", "abs-int64"}],
    "narrow movement": _moved(),
}
