"""Matrix products and convolutions: chunks of the reduction index, one fma chain in each, chunk results added in order.

All four are one shape of computation, a *chunked product*: for each batch index, row and column

    chunk[q] = fma chain over the terms of chunk q, from -0.0        total = chunk[0] + chunk[1] + …

Convolutions first copy their input into columns (``pack`` stages move bits and nothing else), so that the product itself reads
two plain matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import exact
from gensyn_tvm.operators.elementwise import broadcast_index
from gensyn_tvm.operators.nest import Buffer, Kernel, all_of, any_of, guarded, i64, kernel, load, unravel

Expr = Any
Attrs = Mapping[str, Any]
Operand = Callable[[Sequence[Expr], Expr, Expr], Expr]

#: Terms in a chunk of a matrix product.
MATMUL_CHUNK = 512
#: Upper bound of the terms in a convolution's chunk, which is a whole number of channels (or rows).
CONV_CHUNK = 768


def units_per_chunk(unit: int) -> int:
    """The largest power of two p with p * unit <= 768, at least 1."""
    p = 1
    while 2 * p * unit <= CONV_CHUNK:
        p *= 2
    return p


def chunked_product(
    k: Kernel,
    batch: Sequence[int],
    rows: int,
    columns: int,
    terms: int,
    chunk: int,
    dtype: str,
    left: Operand,
    right: Operand,
    at: Callable[..., Sequence[Expr]],
    takes_part: Operand | None = None,
    store: Buffer | None = None,
) -> None:
    """Store the product of ``left(batch, row, term)`` and ``right(batch, term, column)``.

    Args:
        k: kernel under construction.
        batch: extents of leading axes.
        rows, columns, terms: extents of the product; ``terms`` is the reduction.
        chunk: terms in a chunk.
        dtype: of operands and result.
        left, right: operands; the first index list is the batch index.
        at: output position of (batch…, row, column).
        takes_part: whether a term exists, for (batch, term, column); all do by default.
        store: the buffer to write, the kernel's output by default.
    """
    store = k.output if store is None else store
    spatial = [*batch, rows, columns]
    if terms == 0:
        k.stage("map", store, spatial, lambda index: exact.const(0.0, dtype), at=at)
        return
    zero = exact.const(-0.0, dtype)
    chunks = math.ceil(terms / chunk)

    def step(b: Sequence[Expr], row: Expr, column: Expr, term: Expr, accumulator: Expr) -> Expr:
        result = exact.fma(left(b, row, term), right(b, term, column), accumulator)
        if takes_part is None:
            return result
        return exact.select(takes_part(b, term, column), result, accumulator)

    if chunks == 1:
        k.stage(
            "chunk",
            store,
            spatial,
            lambda s, r, acc: step(s[:-2], s[-2], s[-1], r[0], acc),
            reduce=[terms],
            init=zero,
            at=at,
        )
        return
    partial = k.scratch([*batch, chunks, rows, columns], dtype)

    def in_chunk(s: Sequence[Expr], r: Sequence[Expr], acc: Expr) -> Expr:
        term = s[-3] * i64(chunk) + r[0]
        result = step(s[:-3], s[-2], s[-1], term, acc)
        return result if terms % chunk == 0 else guarded(tirx.LT(term, i64(terms)), result, acc)

    k.stage("chunk", partial, [*batch, chunks, rows, columns], in_chunk, reduce=[chunk], init=zero)
    k.stage(
        "total",
        store,
        spatial,
        lambda s, r, acc: exact.add(acc, load(partial, [*s[:-2], r[0], s[-2], s[-1]])),
        reduce=[chunks],
        init=zero,
        at=at,
    )


def matmul(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """(…, M, K) x (…, K, N) -> (…, M, N); leading axes broadcast."""
    a, b = inputs
    with kernel(name, inputs, output) as k:

        def left(batch: Sequence[Expr], row: Expr, term: Expr) -> Expr:
            return load(k.inputs[0], [*broadcast_index(batch, a.shape[:-2]), row, term])

        def right(batch: Sequence[Expr], term: Expr, column: Expr) -> Expr:
            return load(k.inputs[1], [*broadcast_index(batch, b.shape[:-2]), term, column])

        chunked_product(
            k,
            output.shape[:-2],
            output.shape[-2],
            output.shape[-1],
            a.shape[-1],
            MATMUL_CHUNK,
            output.dtype,
            left,
            right,
            lambda *index: list(index),
        )
    return k.result()


def _padded(k: Kernel, x: Buffer, shape: Sequence[int], padding: Sequence[tuple[int, int]], dtype: str) -> Buffer:
    """A copy of x (N, C, spatial…) with +0.0 around the spatial axes; x itself if there is no padding."""
    if not any(lo or hi for lo, hi in padding):
        return x
    padded_shape = [*shape[:2], *(lo + e + hi for e, (lo, hi) in zip(shape[2:], padding, strict=True))]
    buffer = k.scratch(padded_shape, dtype)

    def value(index: Sequence[Expr]) -> Expr:
        position = [*index[:2], *(i - i64(lo) for i, (lo, _) in zip(index[2:], padding, strict=True))]
        inside = [
            tirx.And(tirx.GE(p, i64(0)), tirx.LT(p, i64(e)))
            for p, e, pads in zip(position[2:], shape[2:], padding, strict=True)
            if any(pads)
        ]
        return guarded(all_of(inside), load(x, position), exact.const(0.0, dtype))

    k.stage("pack", buffer, padded_shape, value)
    return buffer


def conv(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """x (N, C, spatial…), w (O, C / groups, kernel…) -> (N, O, spatial…): rows are output channels, columns positions."""
    x, w = inputs
    groups, strides, dilations = attrs["groups"], attrs["strides"], attrs["dilations"]
    n, channels, window, spatial = x.shape[0], w.shape[1], w.shape[2:], output.shape[2:]
    terms, positions, rows = channels * math.prod(window), math.prod(spatial), w.shape[0] // groups
    with kernel(name, inputs, output) as k:
        source = _padded(k, k.inputs[0], x.shape, attrs["padding"], x.dtype)
        columns = k.scratch([n, groups, max(terms, 1), positions], x.dtype)

        def column(index: Sequence[Expr]) -> Expr:
            image, group, term, position = index
            channel, *offset = unravel(term, [channels, *window])
            place = [
                p * i64(s) + o * i64(d)
                for p, o, s, d in zip(unravel(position, spatial), offset, strides, dilations, strict=True)
            ]
            return load(source, [image, group * i64(channels) + channel, *place])

        if terms:
            k.stage("pack", columns, [n, groups, terms, positions], column)

        def weight(batch: Sequence[Expr], row: Expr, term: Expr) -> Expr:
            return load(k.inputs[1], [batch[1] * i64(rows) + row, *unravel(term, [channels, *window])])

        chunked_product(
            k,
            [n, groups],
            rows,
            positions,
            terms,
            units_per_chunk(math.prod(window)) * math.prod(window),
            x.dtype,
            weight,
            lambda batch, term, position: load(columns, [*batch, term, position]),
            lambda image, group, row, position: [image, group * i64(rows) + row, *unravel(position, spatial)],
        )
    return k.result()


def conv_backward_weight(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """x (N, C, spatial…), dy (N, O, spatial…) -> dw (O, C / groups, kernel…): terms are (n, output position…)."""
    x, dy = inputs
    groups, strides, dilations = attrs["groups"], attrs["strides"], attrs["dilations"]
    n, spatial, window = x.shape[0], dy.shape[2:], output.shape[2:]
    channels, rows, positions = output.shape[1], dy.shape[1] // groups, math.prod(spatial)
    with kernel(name, inputs, output) as k:
        source = _padded(k, k.inputs[0], x.shape, attrs["padding"], x.dtype)
        elements = channels * math.prod(window)
        columns = k.scratch([groups, n * positions, elements], x.dtype)

        def column(index: Sequence[Expr]) -> Expr:
            group, term, element = index
            channel, *offset = unravel(element, [channels, *window])
            image, *position = unravel(term, [n, *spatial])
            place = [p * i64(s) + o * i64(d) for p, o, s, d in zip(position, offset, strides, dilations, strict=True)]
            return load(source, [image, group * i64(channels) + channel, *place])

        k.stage("pack", columns, [groups, n * positions, elements], column)

        def gradient(batch: Sequence[Expr], row: Expr, term: Expr) -> Expr:
            image, position = unravel(term, [n, positions])
            return load(k.inputs[1], [image, batch[0] * i64(rows) + row, *unravel(position, spatial)])

        chunked_product(
            k,
            [groups],
            rows,
            elements,
            n * positions,
            units_per_chunk(spatial[-1]) * spatial[-1],
            x.dtype,
            gradient,
            lambda batch, term, element: load(columns, [*batch, term, element]),
            lambda group, row, element: [group * i64(rows) + row, *unravel(element, [channels, *window])],
        )
    return k.result()


def conv_backward_data(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Attrs) -> Any:
    """dy (N, O, spatial…), w (O, C / groups, kernel…) -> dx (N, C, spatial…): terms are (output channel, kernel position…)."""
    dy, w = inputs
    groups, strides, dilations = attrs["groups"], attrs["strides"], attrs["dilations"]
    n, spatial, window = dy.shape[0], output.shape[2:], w.shape[2:]
    channels, outputs = w.shape[1], w.shape[0] // groups
    terms, positions = outputs * math.prod(window), math.prod(spatial)

    def numerators(term: Expr, position: Expr) -> list[Expr]:
        """i + pad_low - j * dilation on every spatial axis."""
        _, *offset = unravel(term, [outputs, *window])
        return [
            i + i64(lo) - j * i64(d)
            for i, (lo, _), j, d in zip(unravel(position, spatial), attrs["padding"], offset, dilations, strict=True)
        ]

    with kernel(name, inputs, output) as k:
        columns = k.scratch([n, groups, max(terms, 1), positions], dy.dtype)

        def column(index: Sequence[Expr]) -> Expr:
            image, group, term, position = index
            channel, *_ = unravel(term, [outputs, *window])
            quotients, inside = [], []
            for top, s, extent in zip(numerators(term, position), strides, dy.shape[2:], strict=True):
                quotients.append(tirx.floordiv(top, i64(s)))
                inside.append(tirx.And(tirx.GE(top, i64(0)), tirx.LT(quotients[-1], i64(extent))))
            value = load(k.inputs[0], [image, group * i64(outputs) + channel, *quotients])
            return guarded(all_of(inside), value, exact.const(0.0, dy.dtype))

        if terms:
            k.stage("pack", columns, [n, groups, terms, positions], column)

        def weight(batch: Sequence[Expr], row: Expr, term: Expr) -> Expr:
            channel, *offset = unravel(term, [outputs, *window])
            return load(k.inputs[1], [batch[1] * i64(outputs) + channel, row, *offset])

        def divisible(batch: Sequence[Expr], term: Expr, position: Expr) -> Expr:
            tops = zip(numerators(term, position), strides, strict=True)
            return all_of([tirx.EQ(tirx.floormod(top, i64(s)), i64(0)) for top, s in tops if s > 1])

        def place(*index: Expr) -> list[Expr]:
            image, group, row, position = index
            return [image, group * i64(channels) + row, *unravel(position, spatial)]

        strided = any(s > 1 for s in strides)
        # With a stride larger than the kernel some positions receive nothing at all, and the sum of nothing is +0.0.
        gaps = any(len({j * d % s for j in range(e)}) < s for e, d, s in zip(window, dilations, strides, strict=True))
        partial = k.scratch([n, groups, channels, positions], dy.dtype) if gaps else None
        chunked_product(
            k,
            [n, groups],
            channels,
            positions,
            terms,
            units_per_chunk(math.prod(window)) * math.prod(window),
            dy.dtype,
            weight,
            lambda batch, term, position: load(columns, [*batch, term, position]),
            (lambda *index: list(index)) if gaps else place,
            divisible if strided else None,
            partial,
        )
        if gaps:

            def covered(position: Expr) -> Expr:
                axes = zip(unravel(position, spatial), attrs["padding"], window, dilations, strides, strict=True)
                return all_of(
                    [
                        any_of([tirx.EQ(tirx.floormod(i + i64(lo - j * d), i64(s)), i64(0)) for j in range(e)])
                        for i, (lo, _), e, d, s in axes
                    ]
                )

            def filled(index: Sequence[Expr]) -> Expr:
                return exact.select(covered(index[-1]), load(partial, index), exact.const(0.0, dy.dtype))

            k.stage("map", k.output, [n, groups, channels, positions], filled, at=place)
    return k.result()
