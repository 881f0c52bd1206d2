"""Scaled dot-product attention for every frontend, on tensors (batch, heads, sequence, features).

Query heads may be a multiple of the key and value heads; each of those then serves a run of neighbouring query heads. Their
rows are stacked for the products, so no key or value is copied.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gensyn_tvm.frontends.emit import MAX_CONSTANT, Emitter, Expr, constant, dtype_of, nn, number, op, shape_of

Step = Callable[[Expr], Expr]


def split_heads(e: Emitter, x: Expr, heads: int) -> Expr:
    """(batch, sequence, heads * features) → (batch, heads, sequence, features)"""
    batch, sequence, width = shape_of(x)
    if heads < 1 or width % heads:
        raise e.refuse(f"{width} features for {heads} heads", expected="a multiple of the number of heads")
    return e.transpose(e.reshape(x, [batch, sequence, heads, width // heads]), [0, 2, 1, 3])


def merge_heads(e: Emitter, x: Expr) -> Expr:
    """(batch, heads, sequence, features) → (batch, sequence, heads * features)"""
    batch, heads, sequence, width = shape_of(x)
    return e.reshape(e.transpose(x, [0, 2, 1, 3]), [batch, sequence, heads * width])


def check_heads(e: Emitter, q: Expr, k: Expr, v: Expr) -> None:
    """Refuse shapes that do not fit each other."""
    shapes = [shape_of(t) for t in (q, k, v)]
    (bq, hq, _, dq), (bk, hk, tk, dk), (bv, hv, tv, _) = shapes
    if bq != bk or bq != bv or hk != hv or tk != tv or dq != dk or hk < 1 or hq % hk:
        raise e.refuse(
            f"query, key and value of {', '.join(str(tuple(s)) for s in shapes)}",
            expected="(batch, heads, sequence, features), one batch and key length, query heads a multiple of the others",
        )


def grouped_matmul(e: Emitter, left: Expr, right: Expr) -> Expr:
    """left (B, H, S, K) times right (B, G, K, N), H a multiple of G: head h of the left meets h // (H / G) of the right."""
    (batch, heads, rows, inner), (_, groups, _, columns) = shape_of(left), shape_of(right)
    stacked = e.reshape(left, [batch, groups, heads // groups * rows, inner])
    return e.reshape(e(op.matmul(stacked, right)), [batch, heads, rows, columns])


def scores(e: Emitter, q: Expr, k: Expr, scale: float) -> Expr:
    """(q * sqrt(scale)) (k * sqrt(scale))^T; the root keeps both operands small."""
    if scale < 0:
        raise e.refuse(f"scale {scale}", expected="a scale that is not negative", remedy="negate the query")
    root = math.sqrt(scale)
    return grouped_matmul(e, e.mul(q, root), e.transpose(e.mul(k, root), [0, 1, 3, 2]))


def soft_cap(e: Emitter, x: Expr, cap: float) -> Expr:
    """cap * tanh(x / cap)"""
    return e.mul(e(op.tanh(e.div(x, cap))), cap)


@dataclass
class Mask:
    """Which keys a query sees, and what is added to its scores.

    Attributes:
        queries, keys: lengths of the two sequences.
        allowed: conditions that broadcast to (batch, heads, queries, keys); a key is seen where all of them hold.
        bias: added to the scores, or None.
        empty_rows: whether a query may see no key at all; its result is then zero.
    """

    queries: int
    keys: int
    allowed: list[Expr] = field(default_factory=list)
    bias: Expr | None = None
    empty_rows: bool = False

    def add_given(self, e: Emitter, mask: Expr, dtype: str) -> None:
        """A bool mask as a condition, any other as a bias; along a shorter last axis the missing keys are not seen."""
        self.empty_rows = True
        missing = self.keys - (shape_of(mask)[-1] if shape_of(mask) else 1)
        is_bool = dtype_of(mask) == "bool"
        mask = mask if is_bool else e.cast(mask, dtype)
        if missing > 0:
            fill = e.full([*shape_of(mask)[:-1], missing], False if is_bool else -math.inf, dtype_of(mask))
            mask = e.concat([mask, fill], len(shape_of(mask)) - 1)
        if is_bool:
            self.allowed.append(mask)
        else:
            self.bias = mask

    def add_lengths(self, e: Emitter, lengths: Expr) -> None:
        """Only the first ``lengths[b]`` keys of a sample are seen."""
        self.empty_rows = True
        self.allowed.append(e(op.less(_keys(self), e.reshape(lengths, [shape_of(lengths)[0], 1, 1, 1]))))

    def add_window(self, e: Emitter, offset: int | Expr, left: int | None, right: int | None) -> None:
        """Query i, at position p = i + offset, sees the keys from p - left to p + right; None is no bound.

        The offset is a number, or a vector (batch,) computed at run time.
        """
        if self.queries > MAX_CONSTANT:
            raise e.refuse(f"{self.queries:,} queries", expected=f"at most {MAX_CONSTANT:,}")
        rows = np.arange(self.queries, dtype=np.int64)
        if isinstance(offset, int):
            positions = rows + offset
            first = np.zeros_like(rows) if left is None else np.maximum(positions - left, 0)
            last = np.full_like(rows, self.keys - 1) if right is None else np.minimum(positions + right, self.keys - 1)
            self.empty_rows |= bool((first > last).any())
            place = constant(positions.reshape(-1, 1))
        else:
            self.empty_rows = True
            place = e.add(e.reshape(offset, [shape_of(offset)[0], 1, 1, 1]), constant(rows.reshape(-1, 1)))
        if right is not None:
            self.allowed.append(e(op.less_equal(_keys(self), e.add(place, right) if right else place)))
        if left is not None:
            self.allowed.append(e(op.greater_equal(_keys(self), e.sub(place, left) if left else place)))

    def apply(self, e: Emitter, x: Expr) -> tuple[Expr, Expr | None]:
        """The masked scores, and where a row sees no key (None if that cannot be)."""
        dtype = dtype_of(x)
        condition = None
        for other in self.allowed:
            condition = other if condition is None else e(op.logical_and(condition, other))
        if self.bias is not None:
            x = e.add(x, self.bias)
        if condition is not None:
            x = e.where(condition, x, -math.inf)
        if not self.empty_rows:
            return x, None
        seen = self.bias if self.bias is not None else number(0.0, dtype)
        seen = seen if condition is None else e(op.where(condition, seen, number(-math.inf, dtype)))
        highest = e(op.max(seen, [-1], True))
        return x, e(op.equal(highest, number(-math.inf, dtype)))


def _keys(mask: Mask) -> Expr:
    return op.arange(0, mask.keys, 1, "int64")


def weights(e: Emitter, x: Expr, empty: Expr | None, dtype: str | None = None) -> Expr:
    """softmax over the keys, in ``dtype`` if that is given; 0 in rows marked ``empty``, also backwards."""
    own = dtype_of(x)
    x = e.cast(x, dtype or own)
    if empty is None:
        return e.cast(e(nn.softmax(x, -1)), own)
    safe = e.where(empty, 0.0, x)
    return e.cast(e.where(empty, 0.0, e(nn.softmax(safe, -1))), own)


def joined(e: Emitter, past: Expr | None, new: Expr) -> Expr:
    """A cache followed by what is new, along the sequence."""
    return new if past is None else e.concat([past, new], 2)


def broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether ``shape`` broadcasts to ``target`` without changing it."""
    return len(shape) <= len(target) and all(s in (1, t) for s, t in zip(shape[::-1], target[::-1], strict=False))
