"""Operators that move bits, constants, indices, random bits."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from gensyn_tvm.canonical.types import NATIVE
from gensyn_tvm.interpreter.movement import philox

from . import naive


def _bytes(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtype.startswith("float"):
        return naive.awkward(rng, shape, dtype, special=0.5)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", NATIVE)
def test_movement(dtype: str) -> None:
    x, y = _bytes((3, 4, 5), dtype), _bytes((3, 2, 5), dtype)
    elements = x.ravel().tolist()

    def of(shape: tuple[int, ...], source: Any) -> np.ndarray:
        return np.array([source(*index) for index in naive.every(shape)], dtype).reshape(shape)

    naive.same_bits(naive.apply("reshape", x, shape=(5, 12)), of((5, 12), lambda i, j: elements[12 * i + j]))
    naive.same_bits(naive.apply("reshape", x[:1, :1, :1], shape=()), np.array(x[0, 0, 0]))
    naive.same_bits(naive.apply("transpose", x, perm=(2, 0, 1)), of((5, 3, 4), lambda i, j, k: x[j, k, i]))
    naive.same_bits(naive.apply("broadcast_to", x[:, :1], shape=(2, 3, 4, 5)), of((2, 3, 4, 5), lambda _, i, j, k: x[i, 0, k]))
    naive.same_bits(
        naive.apply("concat", x, y, x, axis=1),
        of((3, 10, 5), lambda i, j, k: x[i, j, k] if j < 4 else (y[i, j - 4, k] if j < 6 else x[i, j - 6, k])),
    )
    found = naive.apply("slice", x, starts=(1, 0, 1), limits=(3, 4, 5), strides=(1, 3, 2))
    naive.same_bits(found, of((2, 2, 2), lambda i, j, k: x[1 + i, 3 * j, 1 + 2 * k]))
    assert naive.apply("slice", x, starts=(0, 2, 0), limits=(3, 2, 5), strides=(1, 1, 1)).shape == (3, 0, 5)
    value = np.array(y[0, 0, 0])
    padded = naive.apply("pad", x, value, padding=((0, 1), (2, 0), (0, 0)))
    naive.same_bits(padded, of((4, 6, 5), lambda i, j, k: x[i, j - 2, k] if i < 3 and j >= 2 else value.item()))


@pytest.mark.parametrize("dtype", NATIVE)
def test_constant_is_the_bytes_given(dtype: str) -> None:
    x = _bytes((3, 7), dtype)
    data = base64.b64encode(x.astype(np.dtype(dtype).newbyteorder("<")).tobytes()).decode("ascii")
    naive.same_bits(naive.apply("constant", dtype=dtype, shape=(3, 7), data=data), x)
    assert naive.apply("constant", dtype=dtype, shape=(0,), data="").shape == (0,)


def test_constant_is_little_endian() -> None:
    data = base64.b64encode(bytes([1, 2, 0, 0])).decode("ascii")
    assert naive.apply("constant", dtype="int32", shape=(), data=data) == 513


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_iota(dtype: str) -> None:
    for axis in range(3):
        found = naive.apply("iota", dtype=dtype, shape=(2, 3, 4), axis=axis)
        naive.same_bits(found, np.indices((2, 3, 4))[axis].astype(dtype))


#: counter, key, result: known answers of the Random123 distribution
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_known_answers(counter: str, key: str, expected: str) -> None:
    c0, c1, c2, c3 = (np.array([int(w, 16)], np.uint64) for w in counter.split())
    k0, k1 = (int(w, 16) for w in key.split())
    assert " ".join(f"{int(w[0]):08x}" for w in philox((c0, c1, c2, c3), (k0, k1))) == expected


def _philox(counter: list[int], key: list[int]) -> list[int]:
    """One block, as in the paper."""
    for _ in range(10):
        p0, p1 = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(p1 >> 32) ^ counter[1] ^ key[0], p1 % 2**32, (p0 >> 32) ^ counter[3] ^ key[1], p0 % 2**32]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


@pytest.mark.parametrize(
    ("seed", "step", "op_id"), [(0, 0, 0), (2**40 + 17, 5, 3), (-1, 2**33 + 9, 2**32 - 1), (-(2**63), -2, 7)]
)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (0, 2)])
def test_random_bits(seed: int, step: int, op_id: int, shape: tuple[int, ...]) -> None:
    found = naive.apply("random_bits", np.array(seed, np.int64), np.array(step, np.int64), op_id=op_id, shape=shape)
    key = [seed % 2**32, seed // 2**32 % 2**32]
    count = int(np.prod(shape))
    words = [_philox([e // 4, 0, op_id, step % 2**32], key)[e % 4] for e in range(count)]
    naive.same_bits(found, np.array(words, np.uint32).reshape(shape))
