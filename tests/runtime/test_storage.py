"""Memory of arrays and of results."""

from __future__ import annotations

import gc

import ml_dtypes
import numpy as np
import pytest

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.runtime.plan import ALIGNMENT
from gensyn_tvm.runtime.storage import KEPT, Results, address_of

LARGE = TensorType((KEPT // 4, 1), "float32")


def of_arrays() -> list[np.ndarray]:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    fixed = x.copy()
    fixed.flags.writeable = False
    narrow = x.astype(ml_dtypes.bfloat16)
    return [x, x[1:], x.T, x[:, ::2], fixed, fixed[2:], np.float64(3.0).reshape(()), np.zeros((0, 3)), x > 2, narrow, x[::-1]]


@pytest.mark.parametrize("array", of_arrays(), ids=lambda a: f"{a.dtype}{a.shape}{a.strides}")
def test_the_address_is_that_of_the_first_element(array: np.ndarray) -> None:
    assert address_of(array) == array.__array_interface__["data"][0]


def test_results_are_writeable_arrays_of_their_type_at_aligned_addresses() -> None:
    array = Results(LARGE).new()
    assert (array.shape, str(array.dtype), array.flags.writeable) == (LARGE.shape, LARGE.dtype, True)
    assert address_of(array) % ALIGNMENT == 0
    array[...] = 1
    assert (array == 1).all()


def test_memory_of_a_large_result_is_used_again_once_nobody_holds_it() -> None:
    results = Results(LARGE)
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
    results = Results(LARGE)
    array = results.new()
    del results
    gc.collect()
    array[...] = 3
    assert (array == 3).all()
