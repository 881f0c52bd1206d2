"""Kernels without blocks may only move bits."""

from __future__ import annotations

from typing import Any

import pytest
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.operators import exact, products
from gensyn_tvm.operators.nest import i64
from gensyn_tvm.passes.moves import check_moves


def kernel(value: Any, *, from_output: bool = False) -> Any:
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("attack")
        x = T.arg("x", T.buffer([i64(8)], "float32"))
        y = T.arg("y", T.buffer([i64(8)], "float32"))
        with T.serial(i64(0), i64(8)) as k:
            T.buffer_store(y, value((y if from_output else x)[k]), [k])
    return builder.get()


def test_packing_moves_only() -> None:
    attrs = {"batch": (), "terms": ((40, 1),), "columns": (50, 40), "width": 32, "lanes": 16, "first": 0}
    function = products.pack("pack", [TensorType((2000,), "float32")], TensorType((2, 40, 32), "float32"), attrs)
    check_moves("pack", function)


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (kernel(lambda v: exact.add(v, v)), "a call of add"),
        (kernel(lambda v: tirx.call_pure_extern("float32", "expf", v)), "a call of call_pure_extern"),
        (kernel(lambda v: v, from_output=True), "a read of y"),
    ],
)
def test_computing_is_refused(function: Any, found: str) -> None:
    with pytest.raises(ScheduleError, match=found):
        check_moves("attack", function)
