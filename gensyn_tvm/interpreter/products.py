"""matmul, conv and its gradients: chunks of fma chains over the reduction index, vectorised over the outputs.

Each operator yields, reduction index by reduction index, the two arrays whose elements every output multiplies. The steps
come grouped by chunk; ``_reduce_chunks`` does the arithmetic for all of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.interpreter.scalar import Array, Chain, is_float
from gensyn_tvm.interpreter.windows import kernel_window, last_axes, output_window, pad_spatial

Attrs = Mapping[str, Any]
Step = tuple[Array, Array]

MATMUL_CHUNK = 512
CONV_CHUNK = 768


def matmul(attrs: Attrs, out: TensorType, a: Array, b: Array) -> Array:
    """(…, M, K) times (…, K, N), chunks of 512; integers wrap, in any order."""
    if not is_float(a):
        return np.matmul(a, b)
    left, right = Chain.operand(a), Chain.operand(b)
    length = a.shape[-1]

    def chunk(start: int) -> Iterator[Step]:
        for k in range(start, min(start + MATMUL_CHUNK, length)):
            yield left[..., :, k, np.newaxis], right[..., np.newaxis, k, :]

    return _reduce_chunks(out.shape, out.dtype, (chunk(start) for start in range(0, length, MATMUL_CHUNK)))


def conv(attrs: Attrs, out: TensorType, x: Array, w: Array) -> Array:
    """Reduction over (c, kernel…), in chunks of whole channels; integers wrap, in any order."""
    groups, channels, kernel = attrs["groups"], w.shape[1], w.shape[2:]
    n, o, spatial = out.shape[0], out.shape[1], out.shape[2:]
    # x as (n, group, 1, c, spatial…), w as (group, o, c, kernel…); outputs as (n, group, o, spatial…)
    padded = _operand(pad_spatial(x, attrs["padding"], 0))
    padded = padded.reshape(n, groups, 1, channels, *padded.shape[2:])
    weights = _operand(w).reshape(groups, o // groups, channels, *kernel)
    per_chunk = chunk_extent(math.prod(kernel))

    def chunk(first: int) -> Iterator[Step]:
        for c in range(first, min(first + per_chunk, channels)):
            for j in np.ndindex(*kernel):
                factor = weights[:, :, c][last_axes(*j)]
                yield (
                    padded[:, :, :, c][output_window(j, spatial, attrs)],
                    factor.reshape(groups, o // groups, *[1] * len(spatial)),
                )

    shape = (n, groups, o // groups, *spatial)
    if not is_float(x):
        return _wrapping_sum(shape, out.dtype, map(chunk, range(0, channels, per_chunk))).reshape(out.shape)
    return _reduce_chunks(shape, out.dtype, (chunk(c) for c in range(0, channels, per_chunk))).reshape(out.shape)


def conv_backward_weight(attrs: Attrs, out: TensorType, x: Array, dy: Array) -> Array:
    """Reduction over (n, output spatial…), in chunks of whole rows along the last spatial axis."""
    groups, kernel = attrs["groups"], attrs["kernel"]
    n, spatial = x.shape[0], dy.shape[2:]
    o, channels = out.shape[0] // groups, out.shape[1]
    # x as (n, group, 1, c, spatial…), dy as (n, group, o, 1, spatial…); outputs as (group, o, c, kernel…)
    padded = Chain.operand(pad_spatial(x, attrs["padding"], 0.0))
    padded = padded.reshape(n, groups, 1, channels, *padded.shape[2:])
    factors = Chain.operand(dy).reshape(n, groups, o, 1, *spatial)
    rows = list(itertools.product(range(n), np.ndindex(*spatial[:-1])))
    per_chunk = chunk_extent(spatial[-1])

    def chunk(first: int) -> Iterator[Step]:
        for sample, row in rows[first : first + per_chunk]:
            for position in range(spatial[-1]):
                q = (*row, position)
                factor = factors[sample][last_axes(*q)]
                yield padded[sample][kernel_window(q, kernel, attrs)], factor.reshape(groups, o, 1, *[1] * len(kernel))

    shape = (groups, o, channels, *kernel)
    return _reduce_chunks(shape, out.dtype, (chunk(r) for r in range(0, len(rows), per_chunk))).reshape(out.shape)


def conv_backward_data(attrs: Attrs, out: TensorType, dy: Array, w: Array) -> Array:
    """Reduction over (o, kernel…), in chunks of whole output channels.

    Which kernel positions take part depends on the input position modulo the stride only, so the input positions of each
    residue class are computed together.
    """
    groups, channels, kernel = attrs["groups"], w.shape[1], w.shape[2:]
    n, o, spatial = dy.shape[0], dy.shape[1] // groups, out.shape[2:]
    gradients = Chain.operand(dy).reshape(n, groups, o, 1, *dy.shape[2:])
    weights = Chain.operand(w).reshape(groups, o, channels, *kernel)
    per_chunk = chunk_extent(math.prod(kernel))
    result = np.empty((n, groups, channels, *spatial), dy.dtype)
    for residues in np.ndindex(*attrs["strides"]):
        positions = [np.arange(r, extent, s) for r, extent, s in zip(residues, spatial, attrs["strides"], strict=True)]
        quotients = _participating(positions, kernel, attrs)

        def chunk(first: int, quotients: dict[tuple[int, ...], list[Array]] = quotients) -> Iterator[Step]:
            for k in range(first, min(first + per_chunk, o)):
                for j, q in quotients.items():
                    factor = weights[:, k][last_axes(*j)]
                    yield _gather(gradients[:, :, k], q), factor.reshape(groups, channels, *[1] * len(kernel))

        shape = (n, groups, channels, *(len(p) for p in positions))
        chunks = (chunk(k) for k in range(0, o, per_chunk)) if quotients else iter(())
        place = last_axes(*(slice(r, None, s) for r, s in zip(residues, attrs["strides"], strict=True)))
        result[place] = _reduce_chunks(shape, out.dtype, chunks)
    return result.reshape(out.shape)


def _participating(positions: list[Array], kernel: tuple[int, ...], attrs: Attrs) -> dict[tuple[int, ...], list[Array]]:
    """Kernel positions that take part for input ``positions``, row-major, each with the quotients along every axis."""
    result = {}
    for j in np.ndindex(*kernel):
        axes = zip(positions, j, attrs["padding"], attrs["dilations"], strict=True)
        shifted = [i + low - jk * dilation for i, jk, (low, _), dilation in axes]
        if all(np.all(t % s == 0) for t, s in zip(shifted, attrs["strides"], strict=True)):
            result[j] = [t // s for t, s in zip(shifted, attrs["strides"], strict=True)]
    return result


def _gather(values: Array, indices: list[Array]) -> Array:
    """values[..., indices…] along the last axes, +0.0 where an index lies outside."""
    for axis, index in enumerate(indices, start=values.ndim - len(indices)):
        inside = (index >= 0) & (index < values.shape[axis])
        taken = np.take(values, np.where(inside, index, 0), axis=axis)
        values = np.where(inside.reshape(-1, *[1] * (values.ndim - axis - 1)), taken, 0.0)
    return values


def chunk_extent(unit: int) -> int:
    """The largest power of two p with p * unit <= 768, at least 1."""
    p = 1
    while 2 * p * unit <= CONV_CHUNK:
        p *= 2
    return p


def _operand(x: Array) -> Array:
    return Chain.operand(x) if is_float(x) else x


def _wrapping_sum(shape: tuple[int, ...], dtype: str, chunks: Iterable[Iterable[Step]]) -> Array:
    total = np.zeros(shape, dtype)
    for steps in chunks:
        for a, b in steps:
            total += a * b
    return total


def _reduce_chunks(shape: tuple[int, ...], dtype: str, chunks: Iterable[Iterable[Step]]) -> Array:
    """chunk 0 + chunk 1 + …, each a chain of fma from -0.0; +0.0 if there is no chunk."""
    total: Array | None = None
    chain = Chain(shape, dtype)
    for steps in chunks:
        chain.start()
        for a, b in steps:
            chain.step(a, b)
        total = chain.value() if total is None else total + chain.value()
    return np.zeros(shape, dtype) if total is None else total
