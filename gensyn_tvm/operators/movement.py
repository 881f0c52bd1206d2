"""Operators that move bits unchanged, and the sources: constants, indices, random bits."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tvm import tirx

from gensyn_tvm.canonical.types import TensorType, to_carrier
from gensyn_tvm.operators import exact
from gensyn_tvm.operators.elementwise import broadcast_index
from gensyn_tvm.operators.nest import all_of, guarded, i64, kernel, load, ravel, unravel

Expr = Any
Attrs = Mapping[str, Any]


def reshape(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """The same elements in row-major order."""
    (t,) = inputs
    with kernel(name, inputs, output) as k:

        def value(index: Sequence[Expr]) -> Expr:
            return load(k.inputs[0], unravel(ravel(index, output.shape), t.shape))

        k.stage("move", k.output, output.shape, value)
    return k.result()


def transpose(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """Axis k of the result is axis perm[k] of the input."""
    perm = attrs["perm"]
    with kernel(name, inputs, output) as k:

        def value(index: Sequence[Expr]) -> Expr:
            return load(k.inputs[0], [index[perm.index(axis)] for axis in range(len(perm))])

        k.stage("move", k.output, output.shape, value)
    return k.result()


def broadcast_to(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """NumPy broadcasting."""
    with kernel(name, inputs, output) as k:
        k.stage("move", k.output, output.shape, lambda index: load(k.inputs[0], broadcast_index(index, inputs[0].shape)))
    return k.result()


def concat(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """Inputs one after the other along an axis."""
    axis = attrs["axis"]
    present = [p for p, t in enumerate(inputs) if t.shape[axis]]
    with kernel(name, inputs, output) as k:

        def value(index: Sequence[Expr]) -> Expr:
            end = sum(inputs[p].shape[axis] for p in present)
            result = None
            for p in reversed(present):
                begin = end - inputs[p].shape[axis]
                place = [*index[:axis], index[axis] - i64(begin), *index[axis + 1 :]]
                part = load(k.inputs[p], place)
                result = part if result is None else guarded(tirx.LT(index[axis], i64(end)), part, result)
                end = begin
            return result if result is not None else load(k.inputs[0], index)

        k.stage("move", k.output, output.shape, value)
    return k.result()


def slice_(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """Elements start, start + stride, … of each axis."""
    with kernel(name, inputs, output) as k:

        def value(index: Sequence[Expr]) -> Expr:
            place = [i64(s) + i * i64(d) for i, s, d in zip(index, attrs["starts"], attrs["strides"], strict=True)]
            return load(k.inputs[0], place)

        k.stage("move", k.output, output.shape, value)
    return k.result()


def pad(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """The scalar second input around the first."""
    (t, _) = inputs
    with kernel(name, inputs, output) as k:

        def value(index: Sequence[Expr]) -> Expr:
            place = [i - i64(lo) for i, (lo, _) in zip(index, attrs["padding"], strict=True)]
            inside = all_of([tirx.And(tirx.GE(p, i64(0)), tirx.LT(p, i64(e))) for p, e in zip(place, t.shape, strict=True)])
            return guarded(inside, load(k.inputs[0], place), load(k.inputs[1], []))

        k.stage("move", k.output, output.shape, value)
    return k.result()


def constant_array(attrs: Attrs) -> np.ndarray:
    """The array that a ``constant`` node holds."""
    dtype = TensorType(attrs["shape"], attrs["dtype"]).numpy_dtype()
    return np.frombuffer(base64.b64decode(attrs["data"]), dtype).reshape(attrs["shape"])


def immediate(element: Any, dtype: str) -> Expr:
    """A NumPy scalar as a TIR constant, floats by their bits."""
    if dtype == "float32":
        return exact.from_bits(dtype, int(np.float32(element).view(np.uint32)))
    if dtype == "float64":
        return exact.from_bits(dtype, int(np.float64(element).view(np.uint64)))
    return exact.int_const(int(element), dtype)


def uniform_constant(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """A constant whose elements all have the same bits; others are handed to the program as data."""
    array = to_carrier(constant_array(attrs))
    element = array.flat[0] if array.size else 0
    with kernel(name, inputs, output) as k:
        k.stage("map", k.output, output.shape, lambda index: immediate(element, output.carrier))
    return k.result()


def iota(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """The index along an axis."""
    with kernel(name, inputs, output) as k:

        def value(index: Sequence[Expr]) -> Expr:
            # As it is, TVM would narrow it to 32 bits also where its 64 bits are looked at.
            return tirx.Cast(output.dtype, exact.call("index", "int64", index[attrs["axis"]]))

        k.stage("map", k.output, output.shape, value)
    return k.result()


_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 2**32 - 1


def _u64(value: int) -> Expr:
    return tirx.IntImm("uint64", value)


def _word(x: Expr) -> Expr:
    return tirx.bitwise_and(x, _u64(_WORD))


def random_bits(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """Philox4x32-10: element e is word e mod 4 of block e // 4. Words travel in uint64, where nothing overflows.

    The state after each round is a buffer of its own, because an expression of ten rounds would grow exponentially.
    """
    total = math.prod(output.shape)
    blocks = max(1, math.ceil(total / 4))
    with kernel(name, inputs, output) as k:
        seed, step = (tirx.reinterpret("uint64", load(b, [])) for b in k.inputs)
        counter = k.scratch([blocks, 4], "uint64")

        def start(index: Sequence[Expr]) -> Expr:
            block, word = tirx.Cast("uint64", index[0]), index[1]
            high = tirx.shift_right(block, _u64(32))
            first = exact.select(tirx.EQ(word, i64(0)), _word(block), high)
            second = exact.select(tirx.EQ(word, i64(2)), _u64(attrs["op_id"]), _word(step))
            return exact.select(tirx.LT(word, i64(2)), first, second)

        k.stage("pack", counter, [blocks, 4], start)
        for r in range(_ROUNDS):
            following = k.scratch([blocks, 4], "uint64")
            keys = [
                _word(_word(half) + _u64(r * increment & _WORD))
                for half, increment in zip((seed, tirx.shift_right(seed, _u64(32))), _INCREMENTS, strict=True)
            ]

            def philox(index: Sequence[Expr], state: Any = counter, keys: Sequence[Expr] = keys) -> Expr:
                block, word = index
                c = [load(state, [block, i64(p)]) for p in range(4)]
                products = [c[0] * _u64(_MULTIPLIERS[0]), c[2] * _u64(_MULTIPLIERS[1])]
                high = [tirx.shift_right(p, _u64(32)) for p in products]
                mixed = [tirx.bitwise_xor(tirx.bitwise_xor(high[1], c[1]), keys[0]), _word(products[1])]
                mixed += [tirx.bitwise_xor(tirx.bitwise_xor(high[0], c[3]), keys[1]), _word(products[0])]
                low_half = exact.select(tirx.EQ(word, i64(0)), mixed[0], mixed[1])
                high_half = exact.select(tirx.EQ(word, i64(2)), mixed[2], mixed[3])
                return exact.select(tirx.LT(word, i64(2)), low_half, high_half)

            k.stage("pack", following, [blocks, 4], philox)
            counter = following

        def element(index: Sequence[Expr]) -> Expr:
            flat = ravel(index, output.shape)
            return tirx.Cast("uint32", load(counter, [flat // i64(4), flat % i64(4)]))

        k.stage("map", k.output, output.shape, element)
    return k.result()
