"""Rough costs, by which schedules decide whether threads pay."""

from __future__ import annotations

from collections.abc import Sequence

from gensyn_tvm.operators import exact

#: Work (in additions, roughly) below which starting threads costs more than it saves.
PARALLEL_WORK = 100_000
_COST = {
    **{exact.PREFIX + name: 30 for name in exact.ELEMENTARY},
    **{exact.PREFIX + name: 100 for name in exact.ELEMENTARY_BINARY},
    exact.PREFIX + "div": 6,
    exact.PREFIX + "sqrt": 6,
}


def cost_of_calls(names: Sequence[str]) -> int:
    """Cost of one element of a stage that calls these operators."""
    return 2 + sum(_COST.get(name, 1) for name in names)
