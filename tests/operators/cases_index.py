"""Cases of the operators that index with data: indices inside, negative, outside, repeated; empty tensors."""

from __future__ import annotations

from typing import Any

from .case import Case

F, D, I32, L = "float32", "float64", "int32", "int64"
Shape = tuple[int, ...]


def _gather() -> list[Case]:
    cases = []
    takes: list[tuple[Shape, Shape, int, str, str]] = [
        ((9, 8), (3, 5), 0, F, L),
        ((4, 7, 5), (6,), 1, F, I32),
        ((4, 7), (), 1, D, L),
        ((3, 6), (2, 0), 1, F, L),
        ((0, 6), (4,), 1, F, L),
        ((1, 17), (50,), 0, "bool", L),
        ((6, 3), (11,), 0, "uint8", I32),
    ]
    for x, i, axis, dtype, index in takes:
        n = x[axis]
        label = f"{x}-{i}-{axis}-{dtype}"
        cases.append(Case(f"take-{label}", "take", ((x, dtype), (i, index)), {"axis": axis}, bounds=(None, (-n - 2, n + 1))))
    cases.append(Case("take-anything", "take", (((5, 4), F), ((61,), L)), {"axis": 0}))
    cases.append(Case("take-anything-int32", "take", (((5, 4), F), ((61,), I32)), {"axis": 1}))
    elements: list[tuple[Shape, Shape, int, str]] = [
        ((4, 7, 5), (4, 3, 5), 1, F),
        ((4, 7), (3, 20), 1, D),
        ((8,), (8,), 0, L),
        ((6, 5), (9, 4), 0, "uint8"),
        ((6, 5), (0, 4), 0, F),
    ]
    for x, i, axis, dtype in elements:
        n = x[axis]
        shapes, bounds = ((x, dtype), (i, L)), (None, (-n - 2, n + 1))
        cases.append(Case(f"gather_elements-{x}-{i}", "gather_elements", shapes, {"axis": axis}, bounds=bounds))
    cases.append(Case("gather_elements-anything", "gather_elements", (((5, 4), F), ((5, 9), I32)), {"axis": 1}))
    tuples: list[tuple[Shape, Shape, int, str]] = [
        ((4, 5, 6), (3, 2), 0, F),
        ((4, 5, 6), (2, 3, 1), 0, F),
        ((4, 5, 6), (7, 3), 0, D),
        ((3, 5, 6), (3, 4, 1), 1, L),
        ((3, 2, 6, 5), (3, 2, 4, 2), 2, "int8"),
        ((3, 4), (2, 0), 0, F),
        ((3, 4), (0, 2), 0, F),
        ((3, 0), (5, 1), 0, F),
    ]
    for x, i, batch, dtype in tuples:
        shapes, bounds = ((x, dtype), (i, L)), (None, (-7, 7))
        cases.append(Case(f"gather_nd-{x}-{i}-{batch}", "gather_nd", shapes, {"batch_dims": batch}, bounds=bounds))
    cases.append(Case("gather_nd-anything", "gather_nd", (((5, 4), F), ((33, 2), L)), {"batch_dims": 0}))
    for x, axes in (((5, 16), (1,)), ((4, 3, 5), (0, 2)), ((3, 4), ()), ((0, 4), (1,))):
        cases.append(Case(f"reverse-{x}-{axes}", "reverse", ((x, F),), {"axes": axes}))
    return cases


FAMILIES: dict[str, list[Any]] = {"gather": _gather()}
