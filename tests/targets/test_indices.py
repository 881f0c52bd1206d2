"""Random index expressions through TVM's iterator maps, with and without what hides divisions from them."""

from __future__ import annotations

import random
import re
from typing import Any

import tvm
from tvm import tirx
from tvm.sym.iter_affine_map import IterMapLevel

from gensyn_tvm.targets.indices import hide

_Sample = tuple[list[int], Any, dict[Any, Any], tuple[int, int]]


def constant(value: int) -> Any:
    return tirx.IntImm("int64", value)


class _Printed:
    """What TVM prints in an index."""

    min, max = staticmethod(min), staticmethod(max)

    @staticmethod
    def exact_index(value: int) -> int:
        return value


def values(expr: Any, extents: tuple[int, int]) -> list[int]:
    """The values of a printed expression for all v and w."""
    text = re.sub(r"T\.int64\((-?\d+)\)", r"\1", str(expr)).replace('T.exact_index("int64", ', "T.exact_index(")
    code = compile(text, "index", "eval")
    return [eval(code, {"v": v, "w": w, "T": _Printed}) for v in range(extents[0]) for w in range(extents[1])]


def sample(rng: random.Random, *, hidden: bool) -> _Sample:
    """A chain of steps on v and w, split into three axes and flattened again: its values by Python, and TVM's expression."""
    v, w = tirx.Var("v", "int64"), tirx.Var("w", "int64")
    extents = rng.choice((4, 6, 8, 16, 24)), rng.choice((1, 2, 3, 4))
    ranges = {x: tvm.ir.Range.from_min_extent(constant(0), constant(e)) for x, e in zip((v, w), extents, strict=True)}
    analyzer = tvm.sym.Analyzer()
    for x, r in ranges.items():
        analyzer.bind(x, r)
    expr, text = v, "v"
    for _ in range(rng.randrange(2, 7)):
        c, a = rng.choice((2, 3, 4, 5, 8, 16)), rng.randrange(1, 300)
        ways: list[tuple[Any, str]] = [
            (expr // constant(c), f"({text}) // {c}"),
            (expr % constant(c), f"({text}) % {c}"),
            (expr + constant(a), f"({text}) + {a}"),
            (expr * constant(c), f"({text}) * {c}"),
            (expr * constant(extents[1]) + w, f"({text}) * {extents[1]} + w"),
            (expr + w, f"({text}) + w"),
        ]
        expr, text = rng.choice(ways)
    inner, outer = rng.choice((2, 3, 4, 8, 16)), rng.choice((2, 4, 5, 8))
    axes = (expr // constant(inner) // constant(outer), expr // constant(inner) % constant(outer), expr % constant(inner))
    axes = tuple(analyzer.simplify(x) for x in axes)
    if hidden:
        axes = tuple(hide(x) for x in axes)
    flat = (axes[0] * constant(outer) + axes[1]) * constant(inner) + axes[2]
    code = compile(text, "index", "eval")
    wanted = [eval(code, {"v": p, "w": q}) for p in range(extents[0]) for q in range(extents[1])]
    return wanted, flat, ranges, extents


def wrong(seed: int, count: int, *, hidden: bool) -> int:
    rng, found = random.Random(seed), 0
    for _ in range(count):
        wanted, flat, ranges, extents = sample(rng, hidden=hidden)
        (simplified,) = tvm.sym.iter_map_simplify([flat], ranges, True, IterMapLevel.NoCheck, False)
        found += values(simplified, extents) != wanted
    return found


def test_iterator_maps_are_right_about_what_is_not_hidden() -> None:
    assert wrong(7, 2500, hidden=True) == 0


def test_the_trap_is_still_there() -> None:
    """If this fails, TVM is repaired and gensyn_tvm.targets.indices can go."""
    assert wrong(7, 2500, hidden=False) > 0
