"""Integer products, and pooling beyond floats."""

from __future__ import annotations

from typing import Any

from gensyn_tvm.canonical.window_rules import PRODUCTS

from .case import Case

F = "float32"


def _integer_products() -> list[Case]:
    cases = []
    for d in PRODUCTS[2:]:
        cases.append(Case(f"matmul-{d}", "matmul", (((5, 1, 9, 523), d), ((2, 523, 17), d)), {}))
        cases.append(Case(f"matmul-narrow-{d}", "matmul", (((37, 21), d), ((21, 2), d)), {}))
        cases.append(Case(f"matmul-empty-{d}", "matmul", (((3, 0), d), ((0, 2), d)), {}))
        conv: dict[str, Any] = {"strides": (2, 1), "padding": ((1, 0), (2, 1)), "dilations": (1, 2), "groups": 2}
        cases.append(Case(f"conv-{d}", "conv", (((2, 200, 7, 9), d), ((6, 100, 3, 3), d)), conv))
    return cases


def _pools() -> list[Case]:
    cases = []
    pools: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((1, 2, 9, 7), {"kernel": (3, 3), "strides": (2, 1), "padding": ((1, 1), (1, 0)), "dilations": (1, 1)}),
        ((1, 2, 7, 8), {"kernel": (2, 3), "strides": (3, 2), "padding": ((0, 0), (0, 1)), "dilations": (2, 1)}),
        ((2, 5, 6), {"kernel": (3,), "strides": (1,), "padding": ((1, 1),), "dilations": (1,)}),
        ((0, 2, 6), {"kernel": (3,), "strides": (1,), "padding": ((1, 1),), "dilations": (1,)}),
        ((1, 2, 4, 5, 6), {"kernel": (2, 2, 2), "strides": (1, 2, 3), "padding": ((1, 0),) * 3, "dilations": (1, 1, 1)}),
    ]
    for x, attrs in pools:
        for d in (F, "float64", "int8", "uint8", "int32"):
            if not d.startswith("float"):
                cases.append(Case(f"max_pool-{x}-{d}", "max_pool", ((x, d),), attrs))
            order = {**attrs, "column_major": d in (F, "int8")}
            cases.append(Case(f"max_pool_indices-{x}-{d}", "max_pool_indices", ((x, d),), order))
    return cases


FAMILIES = {"integer products": _integer_products(), "integer pools": _pools()}
