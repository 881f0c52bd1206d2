"""Memory of arrays and of results."""

from __future__ import annotations

import gc
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from gensyn_tvm.runtime._call import Results
from gensyn_tvm.runtime.storage import KEPT, PAGE, address_of

SHAPE = (KEPT // 4, 1)


def of_arrays() -> list[np.ndarray]:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    fixed = x.copy()
    fixed.flags.writeable = False
    narrow = x.astype(ml_dtypes.bfloat16)
    return [x, x[1:], x.T, x[:, ::2], fixed, fixed[2:], np.float64(3.0).reshape(()), np.zeros((0, 3)), x > 2, narrow, x[::-1]]


@pytest.mark.parametrize("array", of_arrays(), ids=lambda a: f"{a.dtype}{a.shape}{a.strides}")
def test_the_address_is_that_of_the_first_element(array: np.ndarray) -> None:
    assert address_of(array) == array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_results_are_writeable_arrays_of_their_type_that_begin_at_pages(dtype: str) -> None:
    for array in [Results(SHAPE, np.dtype(dtype)).new() for _ in range(3)]:
        assert (array.shape, str(array.dtype), array.flags.writeable, array.flags.c_contiguous) == (SHAPE, dtype, True, True)
        assert address_of(array) % PAGE == 0
        array[...] = 1
        assert (array == 1).all()


def test_results_need_a_shape_and_a_dtype() -> None:
    for wrong in ((), (SHAPE,), ("x", "float32"), (SHAPE, "no dtype"), (SHAPE, "float32", 1)):
        with pytest.raises((TypeError, ValueError)):
            Results(*wrong)
    assert Results(SHAPE, "float32").new().dtype == np.float32


def test_one_piece_of_memory_waits() -> None:
    results = Results(SHAPE, np.dtype("float32"))
    held = [results.new() for _ in range(3)]
    places = {address_of(a) for a in held}
    assert len(places) == 3
    held.clear()
    gc.collect()
    tracemalloc.start()
    try:
        first, before = results.new(), tracemalloc.get_traced_memory()[0]
        second = results.new()
        assert address_of(first) in places
        assert tracemalloc.get_traced_memory()[0] - before >= KEPT  # the second has memory of its own
        del first, second
        gc.collect()
        for _ in range(10):
            results.new()[0] = 1
        assert tracemalloc.get_traced_memory()[0] - before < 2 * KEPT
    finally:
        tracemalloc.stop()


def test_memory_of_a_large_result_is_used_again_once_nobody_holds_it() -> None:
    results = Results(SHAPE, np.dtype("float32"))
    first = results.new()
    place = address_of(first)
    view = first[1:3]
    del first
    gc.collect()
    view[...] = 5
    second = results.new()
    second[...] = 7
    assert address_of(second) != place and (view == 5).all()  # a view holds it
    del view
    gc.collect()
    third = results.new()
    assert address_of(third) == place
    third[...] = 9
    assert (second == 7).all()


def test_results_outlive_what_made_them() -> None:
    results = Results(SHAPE, np.dtype("float32"))
    array = results.new()
    del results
    gc.collect()
    array[...] = 3
    assert (array == 3).all()
