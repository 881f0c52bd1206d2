"""Operators of ai.onnx.ml on numbers as compositions; those on strings are refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, nn, number, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_shortest


def convert_array_feature_extractor(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """The columns of x that the second input names; of a vector a matrix with one row."""
    data = x[0] if rank_of(x[0]) > 1 else e.reshape(x[0], [1, *shape_of(x[0])])
    columns = e.reshape(x[1], [math.prod(shape_of(x[1]))])
    return blocks.take(e, data, columns, rank_of(data) - 1)


def convert_binarizer(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """x > threshold ? 1 : 0"""
    threshold = convert_shortest(a.get("threshold", 0.0))
    if dtype_of(x[0]) not in FLOATS:
        threshold = math.floor(threshold)
    return e.cast(e(op.greater(x[0], number(threshold, dtype_of(x[0])))), dtype_of(x[0]))


# ---- LabelEncoder ---------------------------------------------------------------------------------------------------


def convert_label_encoder(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """The value beside the key that x equals, or a default. Exactly one summand of each sum is no zero."""
    keys, values = _listed(e, a, "keys"), _listed(e, a, "values")
    if keys.size != values.size:
        raise e.refuse(f"{keys.size} keys with {values.size} values", expected="as many of each")
    table = dict(zip(keys.tolist(), values.tolist(), strict=True))
    named = "default_float" if values.dtype.kind == "f" else "default_int64"
    default = a["default_tensor"].item() if "default_tensor" in a else a.get(named, -0.0 if values.dtype.kind == "f" else -1)
    dtype = values.dtype.name
    if not table:
        return e.full(shape_of(x[0]), default, dtype)
    wanted = np.array(list(table), dtype=keys.dtype)
    given = e.reshape(x[0], [*shape_of(x[0]), 1])
    hit = e(op.equal(given, constant(wanted)))
    if wanted.dtype.kind == "f" and np.isnan(wanted).any():
        hit = e(op.logical_or(hit, e(op.logical_and(e(op.isnan(given)), constant(np.isnan(wanted))))))
    filler = -0.0 if values.dtype.kind == "f" else 0
    picked = e(op.sum(e(op.where(hit, constant(np.array(list(table.values()), dtype=dtype)), number(filler, dtype))), [-1]))
    known = e(op.greater(e(op.max(e.cast(hit, "int32"), [-1])), number(0, "int32")))
    return e(op.where(known, picked, number(default, dtype)))


def _listed(e: Emitter, a: Attributes, what: str) -> np.ndarray:
    """The keys or values, of the dtype that their attribute's name says."""
    for kind, dtype in (("int64s", np.int64), ("floats", np.float32)):
        if f"{what}_{kind}" in a:
            return np.array(a[f"{what}_{kind}"], dtype=dtype)
    if f"{what}_tensor" in a:
        return np.asarray(a[f"{what}_tensor"]).reshape(-1)
    raise e.refuse(f"{what} that are strings", expected="numbers")


# ---- TreeEnsemble ---------------------------------------------------------------------------------------------------

_LEQ, _LT, _GTE, _GT, _EQ, _NEQ, _MEMBER = range(7)
_COMPARE = {
    _LEQ: op.less_equal,
    _LT: op.less,
    _GTE: op.greater_equal,
    _GT: op.greater,
    _EQ: op.equal,
    _NEQ: op.not_equal,
}


@dataclass
class _Forest:
    """Nodes and leaves in one numbering, leaves last; both branches of a leaf lead to itself.

    Attributes:
        feature, split, mode, missing: what a node compares, and whether NaN takes its true branch.
        branches: node → (true, false).
        leaves: number of the first leaf.
        roots: of the trees.
    """

    feature: list[int]
    split: list[float]
    mode: list[int]
    missing: list[int]
    branches: list[tuple[int, int]]
    leaves: int
    roots: list[int]

    def depth(self) -> int:
        """Comparisons on the longest path; more than there are nodes if the branches run in a circle."""
        level, seen = {k for k in self.roots if k < self.leaves}, 0
        while level and seen <= self.leaves:
            level = {b for k in level for b in self.branches[k] if b < self.leaves}
            seen += 1
        return seen


def _forest(e: Emitter, a: Attributes) -> _Forest:
    """The trees of the attributes; a test of membership becomes a chain of comparisons, one for each member."""
    names = ("featureids", "splits", "modes", "truenodeids", "trueleafs", "falsenodeids", "falseleafs")
    columns = [[v.item() if isinstance(v, np.generic) else v for v in a[f"nodes_{n}"]] for n in names]
    count = len(columns[0])
    missing = a.get("nodes_missing_value_tracks_true") or [0] * count
    members = _members(a)
    extra = sum(max(len(m) - 1, 0) for m in members)
    leaves, added = count + extra, count
    forest = _Forest(
        [0] * leaves, [0.0] * leaves, [_EQ] * leaves, [0] * leaves, [(0, 0)] * leaves, leaves, list(a["tree_roots"])
    )
    for k, (feature, split, mode, true, true_leaf, false, false_leaf) in enumerate(zip(*columns, strict=True)):
        yes, no = true + leaves * bool(true_leaf), false + leaves * bool(false_leaf)
        values = [split] if mode != _MEMBER else (members.pop(0) or [math.nan])
        chain = [k, *range(added, added + len(values) - 1)]
        added += len(values) - 1
        for place, value, after in zip(chain, values, [*chain[1:], no], strict=True):
            forest.feature[place], forest.split[place], forest.missing[place] = feature, value, missing[k]
            forest.mode[place], forest.branches[place] = (_EQ if mode == _MEMBER else mode), (yes, after)
    total = leaves + len(a["leaf_targetids"])
    targets = [*forest.roots, *(b for pair in forest.branches for b in pair)]
    if not forest.roots or any(not 0 <= b < total for b in targets) or any(m not in _COMPARE for m in forest.mode):
        raise e.refuse("a root, a branch or a mode that does not exist", expected="nodes and leaves, modes 0 to 6")
    forest.branches += [(k, k) for k in range(leaves, total)]
    rest = [0] * (total - leaves)
    forest.feature += rest
    forest.mode += rest
    forest.missing += rest
    forest.split += [0.0] * len(rest)
    return forest


def _members(a: Attributes) -> list[list[float]]:
    """The sets of the nodes that test membership, in the order of these nodes."""
    sets: list[list[float]] = [[]]
    for value in np.asarray(a.get("membership_values", [])).reshape(-1).tolist():
        if math.isnan(value):
            sets.append([])
        else:
            sets[-1].append(value)
    count = sum(int(m) == _MEMBER for m in np.asarray(a["nodes_modes"]).reshape(-1))
    return [*sets, *[[]] * count][:count]


def convert_tree_ensemble(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """All trees are walked at once, one level after the other; then the weights of the leaves reached are aggregated."""
    if rank_of(x[0]) != 2 or dtype_of(x[0]) not in FLOATS:
        raise e.refuse(f"an input of {dtype_of(x[0])}{tuple(shape_of(x[0]))}", expected="floats (batch, features)")
    forest, dtype = _forest(e, a), dtype_of(x[0])
    batch, features = shape_of(x[0])
    if forest.depth() > forest.leaves:
        raise e.refuse("branches that run in a circle", expected="trees")
    if any(not 0 <= f < features for f in forest.feature):
        raise e.refuse(f"features up to {max(forest.feature)}", expected=f"features below {features}")
    place = e.broadcast(constant(np.array([forest.roots], dtype=np.int64)), [batch, len(forest.roots)])
    for _ in range(forest.depth()):
        place = _walked(e, x[0], forest, place)
    leaf = e.sub(place, forest.leaves)
    weight = blocks.take(e, constant(np.asarray(a["leaf_weights"]).astype(dtype)), leaf, 0)
    target = blocks.take(e, constant(np.array(a["leaf_targetids"], dtype=np.int64)), leaf, 0)
    targets = int(a.get("n_targets") or max(a["leaf_targetids"]) + 1)
    y = _aggregated(e, weight, target, targets, int(a.get("aggregate_function", 1)))
    transforms: dict[int, Any] = {0: lambda v: v, 1: lambda v: e(nn.softmax(v, -1)), 2: lambda v: e(op.sigmoid(v))}
    if a.get("post_transform", 0) not in transforms:
        raise e.refuse(f"post_transform {a['post_transform']}", expected="0 (none), 1 (softmax) or 2 (logistic)")
    return transforms[a.get("post_transform", 0)](y)


def _walked(e: Emitter, x: Expr, forest: _Forest, place: Expr) -> Expr:
    """Where a node leads to, for ``place`` (batch, trees)."""

    def column(values: Sequence[Any], dtype: str) -> Expr:
        return blocks.take(e, constant(np.array(values, dtype=dtype)), place, 0)

    value = e.canonical("gather_elements", x, column(forest.feature, "int64"), axis=1)
    split = column(forest.split, dtype_of(x))
    modes = sorted(set(forest.mode[: forest.leaves]))
    holds = e(_COMPARE[modes[0]](value, split))
    for mode in modes[1:]:
        this = e(op.equal(column(forest.mode, "int64"), number(mode, "int64")))
        holds = e(op.where(this, e(_COMPARE[mode](value, split)), holds))
    if any(forest.missing):
        follows = e(op.logical_and(e(op.isnan(value)), column(forest.missing, "bool")))
        holds = e(op.logical_or(holds, follows))
    yes, no = (column([b[k] for b in forest.branches], "int64") for k in (0, 1))
    return e(op.where(holds, yes, no))


def _aggregated(e: Emitter, weight: Expr, target: Expr, targets: int, how: int) -> Expr:
    """Weights (batch, trees) of their targets, as (batch, targets): 0 average over the trees, 1 sum, 2 min, 3 max."""
    batch, trees = shape_of(weight)
    dtype = dtype_of(weight)
    column = [batch, trees, 1]
    hit = e(op.equal(e.reshape(target, column), op.arange(0, targets, 1, "int64")))
    largest = float(np.finfo(dtype).max)
    fillers = {0: 0.0, 1: 0.0, 2: largest, 3: -largest}
    if how not in fillers:
        raise e.refuse(f"aggregate_function {how}", expected="0 to 3")
    chosen = e.where(hit, e.reshape(weight, column), fillers[how])
    y = e({2: op.min, 3: op.max}.get(how, op.sum)(chosen, [1]))
    return e.div(y, float(trees)) if how == 0 else y


ML: dict[str, Converter] = {
    "ai.onnx.ml.ArrayFeatureExtractor": convert_array_feature_extractor,
    "ai.onnx.ml.Binarizer": convert_binarizer,
    "ai.onnx.ml.LabelEncoder": convert_label_encoder,
    "ai.onnx.ml.TreeEnsemble": convert_tree_ensemble,
}
