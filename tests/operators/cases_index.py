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


def _scatter() -> list[Case]:
    cases = []
    elements: list[tuple[Shape, Shape, int, str, str]] = [
        ((6, 5), (9, 5), 0, F, "add"),
        ((6, 5), (9, 4), 0, F, "none"),
        ((4, 7, 5), (4, 20, 5), 1, F, "add"),
        ((4, 7), (3, 20), 1, D, "add"),
        ((4, 7), (4, 20), 1, F, "mul"),
        ((4, 7), (4, 20), 1, F, "max"),
        ((4, 7), (4, 20), 1, D, "min"),
        ((8,), (30,), 0, L, "mul"),
        ((8,), (30,), 0, "uint32", "add"),
        ((8,), (30,), 0, "uint8", "max"),
        ((8,), (30,), 0, "bool", "none"),
        ((8, 3), (0, 3), 0, F, "add"),
        ((0, 3), (4, 3), 0, F, "add"),
        ((1, 16), (5, 16), 0, F, "add"),
    ]
    for x, i, axis, dtype, reduction in elements:
        n = x[axis]
        shapes, attrs = ((x, dtype), (i, L), (i, dtype)), {"axis": axis, "reduction": reduction}
        label = f"scatter_elements-{x}-{i}-{dtype}-{reduction}"
        cases.append(Case(label, "scatter_elements", shapes, attrs, special=False, bounds=(None, (-n - 2, n + 1), None)))
    attrs = {"axis": 1, "reduction": "add"}
    cases.append(Case("scatter_elements-anything", "scatter_elements", (((5, 4), F), ((5, 9), I32), ((5, 9), F)), attrs))
    tuples: list[tuple[Shape, Shape, Shape, str, str]] = [
        ((5, 16), (12, 1), (12, 16), F, "add"),
        ((5, 33), (12, 1), (12, 33), F, "none"),
        ((4, 5, 6), (9, 2), (9, 6), D, "mul"),
        ((4, 5, 6), (3, 4, 3), (3, 4), F, "max"),
        ((4, 5, 6), (3, 4, 1), (3, 4, 5, 6), L, "add"),
        ((3, 4), (5, 0), (5, 3, 4), F, "add"),
        ((3, 4), (0, 2), (0,), F, "add"),
        ((0, 4), (5, 1), (5, 4), F, "none"),
        ((7,), (40, 1), (40,), "int8", "min"),
        ((7,), (40, 1), (40,), "uint16", "none"),
        ((7,), (1,), (), F, "add"),
    ]
    for x, i, u, dtype, reduction in tuples:
        shapes = ((x, dtype), (i, L), (u, dtype))
        label = f"scatter_nd-{x}-{i}-{dtype}-{reduction}"
        bounds = (None, (-6, 6), None)
        cases.append(Case(label, "scatter_nd", shapes, {"reduction": reduction}, special=False, bounds=bounds))
    given = (((5, 4), F), ((33, 2), L), ((33,), F))
    cases.append(Case("scatter_nd-special", "scatter_nd", given, {"reduction": "add"}, bounds=(None, (0, 3), None)))
    cases.append(Case("scatter_nd-anything", "scatter_nd", given, {"reduction": "none"}))
    large = (((300, 160), F), ((700, 1), L), ((700, 160), F))
    cases.append(Case("scatter_nd-large", "scatter_nd", large, {"reduction": "add"}, False, (None, (-300, 299), None)))
    beside = (((40, 300), F), ((40, 900), I32), ((40, 900), F))
    attrs = {"axis": 1, "reduction": "add"}
    cases.append(Case("scatter_elements-large", "scatter_elements", beside, attrs, False, (None, (-300, 299), None)))
    return cases


def _order() -> list[Case]:
    cases = []
    sorts: list[tuple[Shape, int, str]] = [
        *(((3, 40), 1, d) for d in (F, D, "int8", "uint8", "int32", "uint32", "int64", "uint64", "int16", "uint16", "bool")),
        ((37, 3), 0, F),
        ((2, 16, 3), 1, D),
        ((5,), 0, F),
        ((4, 1), 1, F),
        ((4, 0), 1, F),
        ((0, 4), 1, F),
        ((2, 64), 1, L),
        ((65,), 0, I32),
    ]
    for k, (shape, axis, dtype) in enumerate(sorts):
        for descending in (False, True) if k < 2 else (k % 2 == 0,):
            attrs = {"axis": axis, "descending": descending}
            cases.append(Case(f"argsort-{shape}-{dtype}-{descending}", "argsort", ((shape, dtype),), attrs))
    cases.append(Case("argsort-large", "argsort", (((9, 3000), F),), {"axis": 1, "descending": True}))
    runs: list[tuple[Shape, int, str]] = [
        ((3, 20), 1, F),
        ((20, 48), 0, F),
        ((2, 9, 33), 1, D),
        ((17,), 0, L),
        ((2, 9), 1, I32),
        ((9, 2), 0, "uint32"),
        ((1, 3), 0, F),
        ((0, 3), 0, F),
    ]
    ways = [(False, False), (True, False), (False, True), (True, True)]
    for op in ("cumsum", "cumprod"):
        for k, (shape, axis, dtype) in enumerate(runs):
            for exclusive, reverse in ways if k < 2 and op == "cumsum" else ways[(k + 1) % 4 :][:1]:
                attrs = {"axis": axis, "exclusive": exclusive, "reverse": reverse}
                label = f"{op}-{shape}-{axis}-{dtype}-{exclusive}-{reverse}"
                cases.append(Case(label, op, ((shape, dtype),), attrs, special=False))
        attrs = {"axis": 1, "exclusive": False, "reverse": False}
        cases.append(Case(f"{op}-special", op, (((60, 5), F),), attrs))
        cases.append(Case(f"{op}-large", op, (((90, 800), F),), {**attrs, "axis": 0}, special=False))
    for boxes, classes in ((9, 2), (1, 1), (0, 2), (40, 1)):
        shapes = (((2, boxes, 4), F), ((2, classes, boxes), L), ((2, classes, boxes), "bool"), ((), F), ((), L))
        cases.append(Case(f"suppress-{boxes}-{classes}", "suppress", shapes, {}, special=boxes == 9))
    return cases


FAMILIES: dict[str, list[Any]] = {"gather": _gather(), "scatter": _scatter(), "order": _order()}
