"""Operators with the GPU's schedules, executed as OpenCL on PoCL, against the interpreter, bit by bit."""

from __future__ import annotations

from gensyn_tvm import interpreter

from ..operators.case import Case
from ..operators.cases import CASES, bundle
from ..operators.support import assert_all_same
from .support import executed

#: One or two cases of each family; ``make gpu-rehearsal`` runs all of them.
NAMES = (
    *("add-float32", "div-float64", "sqrt-float32", "maximum-float32", "round-float64", "where", "logical_and", "mul-int64"),
    *(
        "cast-float32-int64",
        "cast-uint32-float32",
        "cast-float64-float32",
        "cast-float32-float16",
        "cast-float32-float8_e4m3fn",
    ),
    *("exp", "sin", "pow-float32", "rem-int8", "bit_not-uint8", "shift_left-int16", "random_bits", "pad", "concat"),
    *("sum-(3, 33)-(1,)", "sum-(2, 1025)-(1,)", "sum-(33, 3)-(0,)", "reduce_max-float32", "argmin-outer", "constant"),
    *("matmul-(33, 513)-(513, 47)", "matmul-special", "matmul-int32", "cumsum-special", "argsort-(3, 40)-float32-True"),
    *("take-anything", "gather_nd-anything", "scatter_elements-anything", "scatter_nd-special", "suppress-9-2"),
    "conv-(1, 6, 10, 11)-(4, 3, 2, 3)-{'dilations': (2, 1), 'groups': 2, 'strides': (1, 2)}",
    "conv_backward_data-(2, 1, 9, 7)-(5, 1, 3, 3)-{'strides': (2, 2), 'padding': ((1, 0), (2, 1))}",
    "conv_backward_weight-(2, 1, 9, 7)-(5, 1, 3, 3)-{'strides': (2, 2), 'padding': ((1, 0), (2, 1))}",
    "max_pool_backward-(1, 2, 9, 7)-{'kernel': (3, 3), 'strides': (2, 1), 'padding': ((1, 1), (1, 0))}-True",
    "avg_pool-(1, 2, 9, 7)-{'kernel': (3, 3), 'strides': (2, 1), 'padding': ((1, 1), (1, 0))}-True-False",
)


def chosen() -> list[Case]:
    cases = [case for case in CASES if case.name in NAMES]
    assert len(cases) == len(NAMES)
    return cases


def test_operators() -> None:
    cases = chosen()
    graph, given = bundle(cases)
    assert_all_same([c.name for c in cases], executed(graph, given), interpreter.run(graph, given))
