"""Digests distinguish exactly what must be distinguished."""

from __future__ import annotations

import numpy as np
import pytest

from gensyn_tvm.errors import InputError
from gensyn_tvm.evidence.digests import array_digest, state_digest


def test_golden_digests_do_not_change() -> None:
    assert array_digest(np.zeros((), np.float32)) == "06431eca13bd9b72cc071f50a8c585a3c0962da72a53c5601b40f197879569f1"
    state: dict[str, np.ndarray] = {"b": np.array([1.5, -0.0], np.float32), "a": np.arange(6, dtype=np.int64).reshape(2, 3)}
    assert state_digest(state) == "ce9f274b51c08319b707a31a43dd2cd7763c4d19fa1881de191bb2af058a8d20"


def test_memory_layout_and_byte_order_do_not_matter() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = array_digest(x)
    assert array_digest(np.asfortranarray(x)) == expected
    assert array_digest(x.astype(">f4")) == expected
    assert array_digest(np.repeat(x, 2, axis=1)[:, ::2]) == expected


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros(4, np.float32), -np.zeros(4, np.float32)),
        (np.zeros(4, np.float32), np.zeros((2, 2), np.float32)),
        (np.zeros(4, np.float32), np.zeros(4, np.int32)),
        (np.zeros(4, np.float32), np.zeros(5, np.float32)),
        (np.zeros((0, 3), np.float32), np.zeros((3, 0), np.float32)),
        (np.array([0x7FC00000], np.uint32).view(np.float32), np.array([0x7FC00001], np.uint32).view(np.float32)),
        (np.array([1], np.uint32).view(np.float32), np.zeros(1, np.float32)),
    ],
)
def test_different_arrays_differ(a: np.ndarray, b: np.ndarray) -> None:
    assert array_digest(a) != array_digest(b)
    assert state_digest({"x": a}) != state_digest({"x": b})


def test_order_of_insertion_does_not_matter_but_names_do() -> None:
    one, two = np.ones(1, np.float32), np.zeros(1, np.float32)
    assert state_digest({"a": one, "b": two}) == state_digest({"b": two, "a": one})
    assert state_digest({"a": one, "b": two}) != state_digest({"a": two, "b": one})
    assert state_digest({"ab": one}) != state_digest({"a": one})
    assert state_digest({}) != state_digest({"": one})


def test_foreign_dtypes_are_refused() -> None:
    with pytest.raises(InputError, match="'w' has no digest"):
        state_digest({"w": np.zeros(1, np.complex64)})
    with pytest.raises(InputError, match="dtype object"):
        array_digest(np.array([{}], object))
    with pytest.raises(InputError, match="found: list"):
        array_digest([1.0])  # type: ignore[arg-type]
