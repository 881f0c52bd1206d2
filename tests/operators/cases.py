"""One small graph for each operator and attribute combination, with inputs that contain every kind of special value."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from gensyn_tvm.canonical.graph import Graph, GraphBuilder

from . import cases_elementary, cases_index, cases_numbers, cases_windows
from .case import SPECIAL32, Case

F, D = "float32", "float64"


def _simple() -> list[Case]:
    cases = []
    for op in ("neg", "abs", "sqrt", "floor", "ceil", "round", "sign", "is_nan"):
        cases += [Case(f"{op}-{d}", op, (((3, 37), d),), {}) for d in (F, D)]
    cases += [Case(f"{op}-{d}", op, (((41,), d),), {}) for op in ("neg", "abs") for d in ("int32", "int64")]
    for op in ("add", "sub", "mul", "div", "maximum", "minimum"):
        cases += [Case(f"{op}-{d}", op, (((9, 1, 33), d), ((5, 33), d)), {}) for d in (F, D)]
    for op in ("add", "sub", "mul"):
        cases += [Case(f"{op}-{d}", op, (((129,), d), ((129,), d)), {}) for d in ("int32", "int64", "uint32")]
    for op in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"):
        cases += [Case(f"{op}-{d}", op, (((17, 16), d), ((17, 16), d)), {}) for d in (F, D, "int64")]
    cases += [Case(f"maximum-{d}", "maximum", (((30,), d), ((30,), d)), {}) for d in ("int8", "uint8", "int64")]
    cases += [Case(op, op, (((33,), "bool"), ((33,), "bool")), {}) for op in ("logical_and", "logical_or")]
    cases.append(Case("logical_not", "logical_not", (((33,), "bool"),), {}))
    cases.append(Case("where", "where", (((5, 1), "bool"), ((5, 19), F), ((19,), F)), {}))
    for source in (F, D, "int8", "int32", "int64", "uint8", "uint32", "bool"):
        for target in (F, D, "int8", "int32", "int64", "uint8", "uint32", "bool"):
            if source != target:
                cases.append(Case(f"cast-{source}-{target}", "cast", (((211,), source),), {"dtype": target}))
    return cases


def _reductions() -> list[Case]:
    cases = []
    shapes = [((10,), (0,)), ((3, 33), (1,)), ((33, 3), (0,)), ((5, 1024), (1,)), ((2, 1025), (1,)), ((64, 4, 8, 8), (0, 2, 3))]
    shapes += [((2, 3000, 5), (1,)), ((7, 6), (0, 1)), ((4, 5), ()), ((0, 3), (0,)), ((35000,), (0,))]
    for shape, axes in shapes:
        for op in ("sum", "prod"):
            attrs = {"axes": axes, "keepdims": shape[0] % 2 == 0}
            cases.append(Case(f"{op}-{shape}-{axes}", op, ((shape, F),), attrs, special=False))
    cases.append(Case("sum-special", "sum", (((40, 70), F),), {"axes": (1,), "keepdims": False}))
    cases.append(Case("sum-f64", "sum", (((9, 1100), D),), {"axes": (1,), "keepdims": False}, special=False))
    for d in ("int32", "int64", "uint32"):
        cases.append(Case(f"sum-{d}", "sum", (((9, 110), d),), {"axes": (0,), "keepdims": False}))
    for op in ("reduce_max", "reduce_min", "argmax", "argmin"):
        for d in (F, D, "int32", "uint8"):
            cases.append(Case(f"{op}-{d}", op, (((13, 10), d),), {"axes": (1,), "keepdims": False}))
        cases.append(Case(f"{op}-outer", op, (((10, 19), F),), {"axes": (0,), "keepdims": True}))
    return cases


def _products() -> list[Case]:
    cases = []
    matmuls = [((3, 5), (5, 7)), ((64, 512), (512, 10)), ((33, 513), (513, 47)), ((2, 1, 8, 16), (3, 16, 32))]
    matmuls += [((16, 1500), (1500, 64)), ((1, 700), (700, 96)), ((4, 0), (0, 3)), ((128, 64), (64, 128))]
    # few rows and odd columns; rows that no tile divides; a result so narrow that it is computed transposed
    matmuls += [((3, 100), (100, 37)), ((17, 30), (30, 50)), ((2, 29, 520), (520, 20)), ((31, 64), (64, 3))]
    for a, b in matmuls:
        cases.append(Case(f"matmul-{a}-{b}", "matmul", ((a, F), (b, F)), {}, special=False))
    cases.append(Case("matmul-special", "matmul", (((9, 21), F), ((21, 17), F)), {}))
    cases.append(Case("matmul-f64", "matmul", (((5, 21), D), ((21, 6), D)), {}, special=False))
    convs: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
        ((2, 3, 8, 8), (16, 3, 3, 3), {"padding": ((1, 1), (1, 1))}),
        ((2, 1, 9, 7), (5, 1, 3, 3), {"strides": (2, 2), "padding": ((1, 0), (2, 1))}),
        ((1, 100, 5, 5), (6, 100, 3, 3), {"padding": ((1, 1), (1, 1))}),
        ((2, 8, 7, 7), (8, 1, 3, 3), {"padding": ((1, 1), (1, 1)), "groups": 8}),
        ((1, 6, 10, 11), (4, 3, 2, 3), {"dilations": (2, 1), "groups": 2, "strides": (1, 2)}),
        ((3, 20, 6, 6), (7, 20, 1, 1), {}),
        ((1, 2, 9, 9), (3, 2, 1, 1), {"strides": (3, 3)}),
        ((2, 4, 30), (6, 4, 5), {"strides": (2,), "padding": ((2, 2),), "dilations": (1,)}),
        ((1, 2, 4, 5, 6), (3, 2, 2, 2, 2), {"strides": (1, 1, 1), "padding": ((0, 1),) * 3, "dilations": (1, 1, 1)}),
        ((1, 2, 3, 800), (2, 2, 1, 3), {}),
    ]
    for x, w, given in convs:
        n = len(x) - 2
        attrs = {"strides": (1,) * n, "padding": ((0, 0),) * n, "dilations": (1,) * n, "groups": 1, **given}
        y = _conv_shape(x, w, attrs)
        for special in (False, True) if x[1] == 3 else (False,):
            label = f"{x}-{w}-{given}{'-special' if special else ''}"
            cases.append(Case(f"conv-{label}", "conv", ((x, F), (w, F)), attrs, special))
            data = {**attrs, "input_spatial": x[2:]}
            cases.append(Case(f"conv_backward_data-{label}", "conv_backward_data", ((y, F), (w, F)), data, special))
            weight = {**attrs, "kernel": w[2:]}
            cases.append(Case(f"conv_backward_weight-{label}", "conv_backward_weight", ((x, F), (y, F)), weight, special))
    return cases


def _conv_shape(x: tuple[int, ...], w: tuple[int, ...], attrs: dict[str, Any]) -> tuple[int, ...]:
    from gensyn_tvm.canonical.window_rules import conv_output_shape

    return conv_output_shape(x, w, attrs)


def _pools() -> list[Case]:
    from gensyn_tvm.canonical.window_rules import pool_output_shape

    cases = []
    pools: list[tuple[tuple[int, ...], dict[str, Any]]] = [
        ((2, 3, 8, 8), {"kernel": (2, 2), "strides": (2, 2)}),
        ((1, 2, 9, 7), {"kernel": (3, 3), "strides": (2, 1), "padding": ((1, 1), (1, 0))}),
        ((1, 2, 7, 8), {"kernel": (2, 3), "strides": (3, 2), "dilations": (2, 1)}),
        ((2, 5, 6), {"kernel": (3,), "strides": (1,), "padding": ((1, 1),), "dilations": (1,)}),
    ]
    for x, given in pools:
        n = len(x) - 2
        attrs = {"padding": ((0, 0),) * n, "dilations": (1,) * n, **given}
        y = pool_output_shape(x, attrs)
        for special in (False, True):
            label = f"{x}-{given}-{special}"
            cases.append(Case(f"max_pool-{label}", "max_pool", ((x, F),), attrs, special))
            cases.append(Case(f"max_pool_backward-{label}", "max_pool_backward", ((y, F), (x, F)), attrs, special))
            for include in (False, True):
                avg = {**attrs, "count_include_pad": include}
                cases.append(Case(f"avg_pool-{label}-{include}", "avg_pool", ((x, F),), avg, special))
                back = {**avg, "input_spatial": x[2:]}
                cases.append(Case(f"avg_pool_backward-{label}-{include}", "avg_pool_backward", ((y, F),), back, special))
    return cases


def _movement() -> list[Case]:
    data = base64.b64encode(SPECIAL32.tobytes()).decode()
    one = base64.b64encode(np.float32(-0.0).tobytes() * 6).decode()
    return [
        Case("reshape", "reshape", (((4, 6, 5), F),), {"shape": (8, 15)}),
        Case("reshape-scalar", "reshape", (((1, 1), F),), {"shape": ()}),
        Case("transpose", "transpose", (((4, 6, 5), F),), {"perm": (2, 0, 1)}),
        Case("broadcast_to", "broadcast_to", (((6, 1), F),), {"shape": (3, 6, 5)}),
        Case("concat", "concat", (((3, 4), F), ((3, 1), F), ((3, 9), F)), {"axis": 1}),
        Case("concat-empty", "concat", (((3, 0), F), ((3, 2), F)), {"axis": 1}),
        Case("slice", "slice", (((9, 10), F),), {"starts": (1, 0), "limits": (8, 10), "strides": (2, 3)}),
        Case("pad", "pad", (((3, 4), F), ((), F)), {"padding": ((1, 2), (0, 3))}),
        Case("constant", "constant", (), {"dtype": F, "shape": (len(SPECIAL32),), "data": data}),
        Case("constant-uniform", "constant", (), {"dtype": F, "shape": (2, 3), "data": one}),
        Case("iota", "iota", (), {"dtype": "int64", "shape": (3, 5), "axis": 1}),
        Case("random_bits", "random_bits", (((), "int64"), ((), "int64")), {"op_id": 7, "shape": (5, 7)}),
    ]


def _large() -> list[Case]:
    """Enough work for every kind of schedule to use threads."""
    conv = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 1}
    pool = {"kernel": (3, 3), "strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilations": (1, 1)}
    image = ((4, 6, 30, 31), F)
    return [
        Case("large-tanh", "tanh", (((61, 499), F),), {}),
        Case("large-add", "add", (((131, 499), F), ((131, 1), F)), {}),
        Case("large-sum-inner", "sum", (((129, 1040), F),), {"axes": (1,), "keepdims": False}, special=False),
        Case("large-sum-outer", "sum", (((1040, 136), F),), {"axes": (0,), "keepdims": True}, special=False),
        Case("large-sum-all", "sum", (((70001,), F),), {"axes": (0,), "keepdims": False}, special=False),
        Case("large-reduce_max", "reduce_max", (((97, 700), F),), {"axes": (1,), "keepdims": False}),
        Case("large-argmin", "argmin", (((97, 700), F),), {"axes": (1,), "keepdims": False}),
        Case("large-matmul", "matmul", (((70, 1100), F), ((1100, 90), F)), {}, special=False),
        Case("large-conv", "conv", (image, ((20, 6, 3, 3), F)), conv, special=False),
        Case("large-max_pool", "max_pool", (image,), pool),
        Case("large-avg_pool", "avg_pool", (image,), {**pool, "count_include_pad": False}, special=False),
        Case("large-transpose", "transpose", (((40, 50, 33), F),), {"perm": (2, 1, 0)}),
        Case("large-random_bits", "random_bits", (((), "int64"), ((), "int64")), {"op_id": 2**32 - 1, "shape": (3, 7001)}),
    ]


#: By family, so that tests can share the work of compiling.
FAMILIES: dict[str, list[Case]] = {
    "elementwise": [c for c in _simple() if c.op != "cast"],
    "casts": [c for c in _simple() if c.op == "cast"],
    "reductions": _reductions(),
    "products": _products(),
    "pools": _pools(),
    "movement": _movement(),
    "large": _large(),
    **cases_numbers.FAMILIES,
    **cases_windows.FAMILIES,
    **cases_index.FAMILIES,
    **cases_elementary.FAMILIES,
}

CASES: list[Case] = [case for family in FAMILIES.values() for case in family]


def bundle(cases: list[Case]) -> tuple[Graph, dict[str, np.ndarray]]:
    """One graph that holds the cases side by side (so that each target compiles once), and its inputs."""
    builder = GraphBuilder("cases")
    given: dict[str, np.ndarray] = {}
    inputs: list[list[int]] = []
    for k, case in enumerate(cases):
        inputs.append([])
        for j, (t, value) in enumerate(zip(case.types(), case.arrays(), strict=True)):
            name = f"x{k}_{j}"
            given[name] = value
            inputs[-1].append(builder.add_input(name, "input", t))
    for k, (case, values) in enumerate(zip(cases, inputs, strict=True)):
        builder.source = case.name
        builder.add_output(f"y{k}", builder.emit(case.op, *values, **case.attrs))
    return builder.finish(), given
