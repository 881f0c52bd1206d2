"""ATen's gradients of convolutions, poolings and embeddings, which exported training graphs contain."""

from __future__ import annotations

import math
from typing import Any

from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Expr, dtype_of, number, op, rank_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.torch_converters import Arguments, Converter, each, in_float32, pool_attributes, with_batch


def convert_convolution_backward(e: FoldingEmitter, a: Arguments) -> Any:
    """Gradients of input, weight and bias, those of them that are asked for; see ``conv_backward_data`` and ``…_weight``."""
    dy, x, w, n = a.grad_output, a.input, a.weight, blocks.spatial(e, a.input)
    strides, lows, dilation = each(a.stride, n), each(a.padding, n), each(a.dilation, n)
    attributes = {
        "strides": tuple(strides),
        "padding": tuple((low, low) for low in lows),
        "dilations": tuple(dilation),
        "groups": a.groups,
    }
    results: list[Expr | None] = [None, None, None]
    if a.output_mask[0] and a.transposed:
        settings: dict[str, Any] = {"strides": strides, "lows": lows, "highs": lows, "dilation": dilation, "groups": a.groups}
        results[0] = blocks.conv(e, dy, w, None, **settings)
    elif a.output_mask[0]:
        results[0] = e.canonical("conv_backward_data", dy, w, **attributes, input_spatial=tuple(shape_of(x)[2:]))
    if a.output_mask[1]:
        # A transposed convolution is the input gradient of a convolution from its result to its input.
        pair = (dy, x) if a.transposed else (x, dy)
        results[1] = e.canonical("conv_backward_weight", *pair, **attributes, kernel=tuple(shape_of(w)[2:]))
    if a.output_mask[2]:
        results[2] = e(op.sum(dy, [k for k in range(n + 2) if k != 1], False))
    return results


def convert_avg_pool_backward(e: FoldingEmitter, a: Arguments) -> Expr:
    """The gradient of ``avg_pool2d``."""
    if a.divisor_override is not None:
        raise e.refuse(f"divisor_override={a.divisor_override}", expected="None", remedy="multiply the result instead")
    attributes = pool_attributes(e, a)
    blocks.check_count(e, [high - low for low, high in attributes["padding"]], a.count_include_pad)
    return _average_backward(e, a.grad_output, attributes, a.count_include_pad, shape_of(a.self)[2:])


def _average_backward(e: FoldingEmitter, dy: Expr, attributes: dict[str, Any], with_padding: bool, extents: list[int]) -> Expr:
    settings = {"count_include_pad": bool(with_padding), "input_spatial": tuple(extents)}
    return e.canonical("avg_pool_backward", dy, **attributes, **settings)


def convert_adaptive_backward(e: FoldingEmitter, a: Arguments) -> Expr:
    """The gradient of ``adaptive_avg_pool2d``; to extents that do not divide the input's it is not known."""
    extents, wanted = shape_of(a.self)[2:], shape_of(a.grad_output)[2:]
    if 0 in wanted or any(i % s for i, s in zip(extents, wanted, strict=True)):
        found = f"adaptive pooling from {tuple(extents)} to {tuple(wanted)}"
        raise e.refuse(found, expected="an output that divides the input", remedy="let gensyn_tvm differentiate the model")
    kernel = tuple(i // s for i, s in zip(extents, wanted, strict=True))
    none = tuple((0, 0) for _ in kernel)
    attributes = {"kernel": kernel, "strides": kernel, "padding": none, "dilations": (1,) * len(kernel)}
    return _average_backward(e, a.grad_output, attributes, True, extents)


def convert_max_pool_backward(e: FoldingEmitter, a: Arguments) -> Expr:
    """Each gradient added at its index among the spatial positions, in row-major order."""
    images, channels, *extents = shape_of(a.self)
    count = math.prod(shape_of(a.grad_output)[2:])
    dy, indices = (e.reshape(v, [images, channels, count]) for v in (a.grad_output, a.indices))
    base = e.full([images, channels, math.prod(extents)], 0, a.out_dtype)
    return e.reshape(e.canonical("scatter_elements", base, indices, dy, axis=2, reduction="add"), a.out_shape)


def convert_embedding_backward(e: FoldingEmitter, a: Arguments) -> Expr:
    """The gradients of the rows that were looked up, added in the order of the indices; none for ``padding_idx``."""
    if a.scale_grad_by_freq:
        raise e.refuse("scale_grad_by_freq=True", expected="False")
    rows, width = a.num_weights, shape_of(a.grad_output)[-1]
    count = math.prod(shape_of(a.indices))
    base = e.full([rows + 1, width], 0, dtype_of(a.grad_output))
    if not count:
        return e.slice(base, 0, 0, rows)
    indices = e.cast(e.reshape(a.indices, [count, 1]), "int64")
    if a.padding_idx >= 0:
        padding = e(op.equal(indices, number(a.padding_idx, "int64")))
        indices = e.where(padding, number(rows, "int64"), indices)  # a row more, which nobody reads
    total = e.canonical("scatter_nd", base, indices, e.reshape(a.grad_output, [count, width]), reduction="add")
    return e.slice(total, 0, 0, rows)


def _batched(convert: Converter) -> Converter:
    """For images without a batch axis, too: all tensors get one."""

    def converted(e: FoldingEmitter, a: Arguments) -> Any:
        if rank_of(a.self) == 3:
            a.grad_output = e.reshape(a.grad_output, [1, *shape_of(a.grad_output)])
            if hasattr(a, "indices"):
                a.indices = e.reshape(a.indices, [1, *shape_of(a.indices)])
        return with_batch(2, convert)(e, a)

    return in_float32(converted)


BACKWARD: dict[str, Converter] = {
    "convolution_backward.default": in_float32(convert_convolution_backward),
    "avg_pool2d_backward.default": _batched(convert_avg_pool_backward),
    "_adaptive_avg_pool2d_backward.default": _batched(convert_adaptive_backward),
    "max_pool2d_with_indices_backward.default": _batched(convert_max_pool_backward),
    "embedding_dense_backward.default": in_float32(convert_embedding_backward),
}
