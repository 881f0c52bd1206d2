"""Reading images between their elements, at coordinates that are computed at run time.

A coordinate x on an axis has *taps*: positions p (integers as floats) with weights. Nearest: round(x), ties to even. Linear:
f = floor(x), t = x - f, positions f, f + 1 with weights 1 - t, t. Cubic: f - 1 … f + 2 with the weights of Keys' kernel,
written out in ``_cubic``. Over all axes, the taps in row-major order: the weights are multiplied from left to right, then with
the element; the products are added from left to right. Positions outside of an axis are resolved by the padding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, number, op, shape_of

_A = -0.75  # of Keys' kernel


@dataclass(frozen=True)
class Tap:
    """A position on one axis: the index (int64, inside of the axis), its weight (None: 1), whether it exists (None: yes)."""

    index: Expr
    weight: Expr | None = None
    exists: Expr | None = None


#: (position, extent) -> index and whether it exists.
Padding = Callable[[Emitter, Expr, int], Tap]


def inside(e: Emitter, position: Expr, extent: int) -> Expr:
    """A position as an index into the axis, moved inside; NaN is 0."""
    return e.cast(e.clip(position, 0.0, float(extent - 1)), "int64")


def zeros(e: Emitter, position: Expr, extent: int) -> Tap:
    """+0 outside."""
    within = e(op.logical_and(_compare(e, op.greater_equal, position, 0.0), _compare(e, op.less_equal, position, extent - 1.0)))
    return Tap(inside(e, position, extent), exists=within)


def border(e: Emitter, position: Expr, extent: int) -> Tap:
    """The outermost element outside."""
    return Tap(inside(e, position, extent))


def reflection(align_corners: bool) -> Padding:
    """Mirrored at the outermost elements' centres, or at their outer edges."""

    def resolve(e: Emitter, position: Expr, extent: int) -> Tap:
        low, span = (0.0, extent - 1.0) if align_corners else (-0.5, float(extent))
        if span == 0:
            return border(e, position, extent)
        distance = e(op.abs(e.sub(position, low)))
        count = e(op.floor(e.div(distance, span)))
        rest = e.sub(distance, e.mul(count, span))
        even = e(op.equal(count, e.mul(e(op.floor(e.mul(count, 0.5))), 2.0)))
        return border(e, e.where(even, e.add(rest, low), e.sub(low + span, rest)), extent)

    return resolve


def _compare(e: Emitter, function: Callable[..., Expr], x: Expr, value: float) -> Expr:
    return e(function(x, number(value, dtype_of(x))))


def nearest(e: Emitter, x: Expr) -> list[tuple[Expr, Expr | None]]:
    """Position and weight of the only tap."""
    return [(e(op.round(x)), None)]


def linear(e: Emitter, x: Expr) -> list[tuple[Expr, Expr | None]]:
    """Positions and weights of two taps."""
    low = e(op.floor(x))
    t = e.sub(x, low)
    return [(low, e.sub(1.0, t)), (e.add(low, 1.0), t)]


def cubic(e: Emitter, x: Expr) -> list[tuple[Expr, Expr | None]]:
    """Positions and weights of four taps."""
    low = e(op.floor(x))
    t = e.sub(x, low)
    u = e.sub(1.0, t)

    def far(v: Expr) -> Expr:  # ((A v - 5 A) v + 8 A) v - 4 A with v = distance, 1 to 2
        y = e.mul(e.sub(e.mul(v, _A), 5 * _A), v)
        return e.sub(e.mul(e.add(y, 8 * _A), v), 4 * _A)

    def near(v: Expr) -> Expr:  # (((A + 2) v - (A + 3)) v) v + 1
        return e.add(e.mul(e.mul(e.sub(e.mul(v, _A + 2), _A + 3), v), v), 1.0)

    weights = [far(e.add(t, 1.0)), near(t), near(u), far(e.add(u, 1.0))]
    return [(low if k == 1 else e.add(low, float(k - 1)), weight) for k, weight in enumerate(weights)]


#: By ONNX's names, with the old ones.
MODES = {
    "nearest": nearest,
    "linear": linear,
    "bilinear": linear,
    "cubic": cubic,
    "bicubic": cubic,
}


def sample(
    e: Emitter,
    x: Expr,
    taps: Sequence[Sequence[Tap]],
    *,
    batch: Expr | None = None,
    combine: Callable[[Expr, Expr], Expr] | None = None,
) -> Expr:
    """The weighted sum of x (B, C, spatial…) over the taps of each spatial axis, tensors of one shape (B, P): (B, P, C).

    With ``batch``, int64 (R,), the taps are (R, P), row r reads image ``batch[r]``, and the result is (R, P, C). ``combine``
    replaces the addition of weighted elements.
    """
    images, channels, *extents = shape_of(x)
    flat = e.transpose(e.reshape(x, [images, channels, math.prod(extents)]), [0, 2, 1])
    values = [_read(e, flat, corner, extents, batch) for corner in itertools.product(*taps)]
    total = values[0]
    for value in values[1:]:
        total = (combine or e.add)(total, value)
    return total


def _read(e: Emitter, flat: Expr, corner: Sequence[Tap], extents: Sequence[int], batch: Expr | None) -> Expr:
    """Element times weight of one tap of each axis; ``flat`` is (B, positions, C)."""
    index = corner[0].index
    for tap, extent in zip(corner[1:], extents[1:], strict=True):
        index = e.add(e.mul(index, float(extent)), tap.index)
    places = [*shape_of(index), 1]
    column = e.reshape(index, places)
    if batch is None:
        value = e.canonical("gather_nd", flat, column, batch_dims=1)
    else:
        image = e.broadcast(e.reshape(batch, [places[0], 1, 1]), places)
        value = e.canonical("gather_nd", flat, e.concat([image, column], 2), batch_dims=0)
    weights = [tap.weight for tap in corner if tap.weight is not None]
    if weights:
        weight = weights[0]
        for factor in weights[1:]:
            weight = e.mul(weight, factor)
        value = e.mul(value, e.reshape(weight, places))
    conditions = [tap.exists for tap in corner if tap.exists is not None]
    if conditions:
        exists = conditions[0]
        for condition in conditions[1:]:
            exists = e(op.logical_and(exists, condition))
        value = e.where(e.reshape(exists, places), value, 0.0)
    return value


def resolved(e: Emitter, positions: Sequence[tuple[Expr, Expr | None]], padding: Padding, extent: int) -> list[Tap]:
    """Taps with their positions inside of the axis."""
    found = [(padding(e, position, extent), weight) for position, weight in positions]
    return [Tap(tap.index, weight, tap.exists) for tap, weight in found]


def sample_grid(
    e: Emitter,
    x: Expr,
    grid: Expr,
    taps_of: Callable[[Emitter, Expr], Sequence[tuple[Expr, Expr | None]]],
    padding: Padding,
    align_corners: bool,
) -> Expr:
    """x (N, C, spatial…) at grid (N, out…, n), whose last axis is (…, y, x) backwards, from -1 to 1: (N, C, out…)."""
    images, channels, *extents = shape_of(x)
    out = shape_of(grid)[1:-1]
    points = e.reshape(grid, [images, math.prod(out), len(extents)])
    taps = []
    for axis, extent in enumerate(extents):
        last = len(extents) - 1 - axis
        g = e.reshape(e.slice(points, 2, last, last + 1), [images, math.prod(out)])
        place = e.mul(e.add(g, 1.0), float(extent - 1)) if align_corners else e.sub(e.mul(e.add(g, 1.0), float(extent)), 1.0)
        taps.append(resolved(e, taps_of(e, e.mul(place, 0.5)), padding, extent))
    return e.reshape(e.transpose(sample(e, x, taps), [0, 2, 1]), [images, channels, *out])
