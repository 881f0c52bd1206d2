"""Operators that several frameworks have, written as plain Relax operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, nn, number, op, rank_of, shape_of
from gensyn_tvm.training import ops as gensyn

_CONV = {1: nn.conv1d, 2: nn.conv2d, 3: nn.conv3d}
_CONV_TRANSPOSE = {1: nn.conv1d_transpose, 2: nn.conv2d_transpose, 3: nn.conv3d_transpose}
_MAX_POOL = {1: nn.max_pool1d, 2: nn.max_pool2d, 3: nn.max_pool3d}
_AVG_POOL = {1: nn.avg_pool1d, 2: nn.avg_pool2d, 3: nn.avg_pool3d}


def spatial(e: Emitter, x: Expr) -> int:
    """Number of spatial axes of x (N, C, spatial…); refuses what is not one to three."""
    n = rank_of(x) - 2
    if n not in _CONV:
        raise e.refuse(f"an input of shape {tuple(shape_of(x))}", expected="(N, C, one to three spatial axes)")
    return n


def per_channel(e: Emitter, vector: Expr, rank: int) -> Expr:
    """A vector (C,) as (1, C, 1, …) of the given rank."""
    return e.reshape(vector, [1, shape_of(vector)[0], *[1] * (rank - 2)])


def conv(
    e: Emitter,
    x: Expr,
    w: Expr,
    b: Expr | None,
    *,
    strides: Sequence[int],
    lows: Sequence[int],
    highs: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Expr:
    """Convolution of x (N, C, spatial…) with w (O, C / groups, kernel…), padding given low and high for each axis."""
    n = spatial(e, x)
    if min([*lows, *highs]) < 0:
        raise e.refuse(f"padding {[*lows, *highs]}", expected="no negative padding", remedy="slice the input first")
    y = e(_CONV[n](x, w, list(strides), [*lows, *highs], list(dilation), groups))
    return y if b is None else e.add(y, per_channel(e, b, n + 2))


def same_padding(extents: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Total padding for each axis with which the output has ceil(extent / stride) elements."""
    axes = zip(extents, kernel, strides, dilation, strict=True)
    return [max(0, (-(-i // s) - 1) * s + (k - 1) * d + 1 - i) for i, k, s, d in axes]


def ceil_extra(
    extents: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    lows: Sequence[int],
    highs: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """What ceil mode adds to the high padding of each axis; the last window starts inside the input or its low padding."""
    extra = []
    for extent, size, stride, low, high, step in zip(extents, kernel, strides, lows, highs, dilation, strict=True):
        room = extent + low + high - step * (size - 1) - 1
        count = -(-room // stride) + 1
        count -= (count - 1) * stride >= extent + low
        extra.append(max(0, (count - 1) * stride - room))
    return extra


def pool(
    e: Emitter,
    kind: str,
    x: Expr,
    *,
    kernel: Sequence[int],
    strides: Sequence[int],
    lows: Sequence[int],
    highs: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Expr:
    """``max`` or ``avg`` pooling; ceil mode as ``ceil_extra``."""
    n = spatial(e, x)
    extra = ceil_extra(shape_of(x)[2:], kernel, strides, lows, highs, dilation) if ceil_mode else [0] * n
    if kind == "avg":
        check_count(e, extra, count_include_pad)
    padding = [*lows, *(h + x_ for h, x_ in zip(highs, extra, strict=True))]
    if kind == "max":
        return e(_MAX_POOL[n](x, list(kernel), list(strides), padding, list(dilation)))
    if set(dilation) != {1}:
        raise e.refuse(f"dilation {list(dilation)} of an average pooling", expected="1")
    return e(_AVG_POOL[n](x, list(kernel), list(strides), padding, count_include_pad=count_include_pad))


def check_count(e: Emitter, extra: Sequence[int], count_include_pad: bool) -> None:
    """Refuse an average whose windows count padding, but not what ceil mode adds beyond it."""
    if count_include_pad and any(extra):
        found = "ceil_mode with count_include_pad and a last window that leaves the padded input"
        raise e.refuse(found, remedy="use ceil_mode=False")


def adaptive_avg_pool(e: Emitter, x: Expr, sizes: Sequence[int | None]) -> Expr:
    """Average pooling to given extents; to 1 everywhere it is a mean, to extents that divide the input's a pooling."""
    n = spatial(e, x)
    extents = shape_of(x)[2:]
    wanted = [i if s is None else s for i, s in zip(extents, sizes, strict=True)]
    if 0 in [*extents, *wanted]:
        raise e.refuse(f"adaptive pooling from {tuple(extents)} to {tuple(wanted)}", expected="no empty axis")
    if any(i % s for i, s in zip(extents, wanted, strict=True)):
        return _adaptive_windows(e, x, extents, wanted)
    if set(wanted) == {1}:
        return e(op.mean(x, list(range(2, n + 2)), True))
    kernel = [i // s for i, s in zip(extents, wanted, strict=True)]
    return pool(e, "avg", x, kernel=kernel, strides=kernel, lows=[0] * n, highs=[0] * n, dilation=[1] * n)


def _adaptive_windows(e: Emitter, x: Expr, extents: Sequence[int], wanted: Sequence[int]) -> Expr:
    """Window k of s on an axis of i elements: floor(k i / s) to ceil((k + 1) i / s); sum over the windows by their counts."""
    n, counts = len(extents), np.ones([1] * len(extents), np.int64)
    inside: Expr | None = None
    for axis, (i, s) in enumerate(zip(extents, wanted, strict=True)):
        starts, stops = np.arange(s) * i // s, -(-(np.arange(s) + 1) * i // s)
        places = starts[:, None] + np.arange((stops - starts).max())
        x = take(e, x, constant(places.clip(0, i - 1).astype(np.int64)), 2 + 2 * axis)
        shape = [places.shape[k - 2 * axis] if k // 2 == axis else 1 for k in range(2 * n)]
        mask = constant((places < stops[:, None]).reshape(shape))
        inside = mask if inside is None else e(op.logical_and(inside, mask))
        counts = counts * (stops - starts).reshape([-1 if k == axis else 1 for k in range(n)])
    total = e(op.sum(e.where(inside, x, 0.0), [3 + 2 * axis for axis in range(n)], False))
    return e.div(total, e.cast(constant(counts), dtype_of(x)))


def linear(e: Emitter, x: Expr, w: Expr, b: Expr | None) -> Expr:
    """x (…, K) times the transpose of w (O, K), plus b."""
    y = e(op.matmul(x, e.transpose(w, [1, 0])))
    return y if b is None else e.add(y, b)


def deviation(e: Emitter, x: Expr, axes: Sequence[int], epsilon: float) -> tuple[Expr, Expr, Expr]:
    """mean, x - mean and sqrt(variance + epsilon) over the axes, the variance two-pass and divided by the count."""
    mean = e(op.mean(x, list(axes), True))
    centred = e.sub(x, mean)
    variance = e(op.mean(e.mul(centred, centred), list(axes), True))
    return mean, centred, e(op.sqrt(e.add(variance, epsilon)))


def normalise(e: Emitter, x: Expr, axes: Sequence[int], epsilon: float) -> Expr:
    """(x - mean) / sqrt(variance + epsilon) over the axes."""
    _, centred, divisor = deviation(e, x, axes, epsilon)
    return e.div(centred, divisor)


def rms_normalise(e: Emitter, x: Expr, axes: Sequence[int], epsilon: float) -> Expr:
    """x / sqrt(mean(x * x) + epsilon) over the axes."""
    return e.div(x, e(op.sqrt(e.add(e(op.mean(e.mul(x, x), list(axes), True)), epsilon))))


def layer_norm(e: Emitter, x: Expr, axes: Sequence[int], scale: Expr | None, shift: Expr | None, epsilon: float) -> Expr:
    """``normalise`` over the last axes, then ``affine``; where shapes allow one operator, which has a gradient of its own."""
    extents = [shape_of(x)[a] for a in axes]
    if any(v is not None and shape_of(v) != extents for v in (scale, shift)):
        return affine(e, normalise(e, x, axes, epsilon), scale, shift)
    gamma = e.full(extents, 1, dtype_of(x)) if scale is None else scale
    beta = e.full(extents, 0, dtype_of(x)) if shift is None else shift
    return e(nn.layer_norm(x, gamma, beta, list(axes), epsilon, shift is not None, scale is not None))


def affine(e: Emitter, x: Expr, scale: Expr | None, shift: Expr | None) -> Expr:
    """x * scale + shift, either of which may be missing."""
    if scale is not None:
        x = e.mul(x, scale)
    return x if shift is None else e.add(x, shift)


def group_norm(e: Emitter, x: Expr, groups: int, scale: Expr | None, shift: Expr | None, epsilon: float) -> Expr:
    """Group normalisation of x (N, C, …); scale and shift are (C,)."""
    shape = shape_of(x)
    if groups < 1 or shape[1] % groups:
        raise e.refuse(f"{shape[1]} channels in {groups} groups", expected="a number of groups that divides the channels")
    grouped = e.reshape(x, [shape[0], groups, math.prod(shape[1:]) // groups])
    y = e.reshape(normalise(e, grouped, [2], epsilon), shape)
    vectors = [None if v is None else per_channel(e, v, len(shape)) for v in (scale, shift)]
    return affine(e, y, *vectors)


def batch_norm_along(
    e: Emitter, values: Sequence[Expr], axis: int, *, epsilon: float, momentum: float, frozen: bool
) -> list[Expr]:
    """``gensyn.batch_norm`` of x, gamma, beta, mean and variance with x's channels along any axis but 0; Keras' variance."""
    rank = rank_of(values[0])
    order = [0, axis, *(k for k in range(1, rank) if k != axis)]
    x = e.transpose(values[0], order)
    value = e(gensyn.batch_norm(x, *values[1:], epsilon=epsilon, momentum=momentum, unbiased=False, frozen=frozen))
    y = e.transpose(e(relax.TupleGetItem(value, 0)), [order.index(k) for k in range(rank)])
    return [y, e(relax.TupleGetItem(value, 1)), e(relax.TupleGetItem(value, 2))]


def standard_deviation(e: Emitter, x: Expr, axes: Sequence[int], keepdims: bool, correction: float, *, root: bool) -> Expr:
    """Variance (or its root) over the axes, the sum of squares divided by count - correction."""
    count = math.prod(shape_of(x)[a] for a in axes)
    centred = e.sub(x, e(op.mean(x, list(axes), True)))
    total = e(op.sum(e.mul(centred, centred), list(axes), keepdims))
    variance = e.div(total, float(max(0.0, count - correction)))
    return e(op.sqrt(variance)) if root else variance


def log_sum_exp(e: Emitter, x: Expr, axes: Sequence[int]) -> Expr:
    """log(sum(exp(x - m))) + m over the axes, which stay as 1; m is the maximum where it is finite and 0 elsewhere."""
    largest = e(op.max(x, list(axes), True))
    offset = e.where(e(op.less(e(op.abs(largest)), number(math.inf, dtype_of(x)))), largest, 0.0)
    return e.add(e(op.log(e(op.sum(e(op.exp(e.sub(x, offset))), list(axes), True)))), offset)


def power(e: Emitter, x: Expr, exponent: float) -> Expr:
    """x to a constant power: a chain of products (binary method), their reciprocal, or square roots."""
    if exponent == 0.5:
        return e(op.sqrt(x))
    if exponent == -0.5:
        return e.div(1.0, e(op.sqrt(x)))
    whole = int(exponent) if float(exponent).is_integer() and abs(exponent) <= 64 else None
    if whole is None:
        raise e.refuse(
            f"a power with exponent {exponent}", expected="an integer from -64 to 64, or 0.5, -0.5", remedy="use exp and log"
        )
    if whole == 0:
        return e.full(shape_of(x), 1, dtype_of(x))
    result, base, left = None, x, abs(whole)
    while left:
        if left & 1:
            result = base if result is None else e.mul(result, base)
        left >>= 1
        if left:
            base = e.mul(base, base)
    return result if whole > 0 else e.div(1.0, result)


def elu(e: Emitter, x: Expr, alpha: float, *, scale: float = 1.0, input_scale: float = 1.0) -> Expr:
    """scale * (max(x, 0) + alpha * (exp(input_scale * min(x, 0)) - 1))"""
    low = e.minimum(x, 0.0)
    low = low if input_scale == 1.0 else e.mul(low, input_scale)
    negative = e.mul(e.sub(e(op.exp(low)), 1.0), alpha)
    y = e.add(e(nn.relu(x)), negative)
    return y if scale == 1.0 else e.mul(y, scale)


def softplus(e: Emitter, x: Expr, beta: float = 1.0, threshold: float = 20.0) -> Expr:
    """log(1 + exp(beta * x)) / beta; x where beta * x > threshold, which in float32 changes nothing from 20 on."""
    return e(nn.softplus(x, beta, threshold))


def hard_sigmoid(e: Emitter, x: Expr) -> Expr:
    """clip(x + 3, 0, 6) / 6"""
    return e.div(e.clip(e.add(x, 3.0), 0.0, 6.0), 6.0)


def take(e: Emitter, x: Expr, indices: Expr, axis: int) -> Expr:
    """x at integer indices along an axis; negative ones count from the end. Computed indices outside are moved inside."""
    if not isinstance(indices, GenericConst):
        return e(op.take(x, indices, axis))
    array = indices.value.numpy()
    extent = shape_of(x)[axis]
    if array.size and (array.min() < -extent or array.max() >= extent):
        raise e.refuse(f"index {array.min()} … {array.max()}", expected=f"indices into an axis of {extent} elements")
    positive = (array % max(extent, 1)).astype("int64")
    if positive.ndim == 0:
        index = int(positive)
        return e.reshape(e.slice(x, axis, index, index + 1), [d for a, d in enumerate(shape_of(x)) if a != axis])
    return e(op.take(x, constant(positive), axis))


def pad(e: Emitter, x: Expr, lows: Sequence[int], highs: Sequence[int], value: float) -> Expr:
    """Constant padding for each axis; a negative count crops."""
    for axis, (low, high) in enumerate(zip(lows, highs, strict=True)):
        extent = shape_of(x)[axis]
        x = e.slice(x, axis, max(0, -low), extent - max(0, -high))
    widths = [width for low, high in zip(lows, highs, strict=True) for width in (max(0, low), max(0, high))]
    return e(nn.pad(x, widths, "constant", float(value))) if any(widths) else x


def pad_by_elements(e: Emitter, x: Expr, axis: int, low: int, high: int, mode: str) -> Expr:
    """Padding of an axis by its own elements: ``reflect``, ``edge`` or ``wrap``; a negative count crops."""
    extent = shape_of(x)[axis]
    if (low, high) == (0, 0):
        return x
    if extent == 0:
        raise e.refuse(f"padding of an empty axis by {mode}", expected="at least one element")
    places = np.arange(-low, extent + high, dtype=np.int64)
    if mode == "edge":
        places = places.clip(0, extent - 1)
    elif mode == "wrap":
        places = places % extent
    else:
        inside = places % max(2 * (extent - 1), 1)
        places = np.minimum(inside, 2 * (extent - 1) - inside)
    return take(e, x, constant(places), axis)


def conv_transpose(
    e: Emitter,
    x: Expr,
    w: Expr,
    b: Expr | None,
    *,
    strides: Sequence[int],
    padding: Sequence[int],
    more: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Expr:
    """Transposed convolution of x (N, I, spatial…) with w (I, O / groups, kernel…), ``more`` elements at the high ends."""
    n = spatial(e, x)
    y = e(_CONV_TRANSPOSE[n](x, w, list(strides), [*padding, *padding], list(more), list(dilation), groups))
    return y if b is None else e.add(y, per_channel(e, b, n + 2))
