"""Canonical operators in float64 with plain NumPy: what finite differences are taken of.

Nothing here knows the order of sums, and nothing is shared with the interpreter. Floats are float64, whatever the graph says.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gensyn_tvm.canonical.graph import Graph

Array = Any
Attrs = Mapping[str, Any]
#: (values of the inputs, attributes) → value.
Meaning = Callable[[Sequence[Array], Attrs], Array]


def evaluate(graph: Graph, arrays: Sequence[Array], meanings: Mapping[str, Meaning]) -> list[Array]:
    """The outputs of a graph; ``meanings`` gives each operator its function."""
    values = list(arrays)
    for node in graph.nodes:
        values.append(meanings[node.op]([values[i] for i in node.inputs], node.attrs))
    return [values[o.value] for o in graph.outputs]


def constant(attrs: Attrs) -> np.ndarray:
    """The array of a ``constant``."""
    return np.frombuffer(base64.b64decode(attrs["data"]), attrs["dtype"]).reshape(attrs["shape"])


def iota(attrs: Attrs) -> np.ndarray:
    """The array of an ``iota``."""
    return np.indices(attrs["shape"])[attrs["axis"]].astype(attrs["dtype"]) if attrs["shape"] else np.zeros((), attrs["dtype"])


# ---- windows --------------------------------------------------------------------------------------------------------


def _slices(j: tuple[int, ...], out: Sequence[int], a: Attrs) -> tuple[Any, ...]:
    """Where kernel position j meets the padded input, for all output positions."""
    axes = zip(j, out, a["strides"], a["dilations"], strict=True)
    return (..., *(slice(jk * d, jk * d + (n - 1) * s + 1, s) for jk, n, s, d in axes))


def taps(x: Array, kernel: Sequence[int], a: Attrs, fill: float = 0.0) -> Array:
    """(N, C, output…, kernel positions) of x (N, C, input…)."""
    padded = np.pad(x, [(0, 0), (0, 0), *a["padding"]], constant_values=fill)
    axes = zip(padded.shape[2:], kernel, a["strides"], a["dilations"], strict=True)
    out = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in axes]
    return np.stack([padded[_slices(j, out, a)] for j in np.ndindex(*kernel)], -1)


def untap(t: Array, kernel: Sequence[int], spatial: Sequence[int], a: Attrs) -> Array:
    """The adjoint of ``taps`` for an input of extents ``spatial``."""
    padded = np.zeros((*t.shape[:2], *(n + low + high for n, (low, high) in zip(spatial, a["padding"], strict=True))))
    for k, j in enumerate(np.ndindex(*kernel)):
        padded[_slices(j, t.shape[2:-1], a)] += t[..., k]
    inner: tuple[Any, ...] = (..., *(slice(low, low + n) for n, (low, _) in zip(spatial, a["padding"], strict=True)))
    return padded[inner]


def _grouped(x: Array, axis: int, groups: int) -> Array:
    return x.reshape(*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])


def _patches(x: Array, kernel: Sequence[int], a: Attrs) -> Array:
    """(N, groups, channels, output positions, kernel positions)"""
    t = _grouped(taps(x, kernel, a), 1, a["groups"])
    return t.reshape(*t.shape[:3], math.prod(t.shape[3:-1]), t.shape[-1])


def _flat(y: Array, axis: int, groups: int) -> Array:
    """Groups apart, and all spatial axes as one."""
    y = _grouped(y, axis, groups)
    return y.reshape(*y.shape[: axis + 2 + (axis == 0)], -1)


def _conv(v: Sequence[Array], a: Attrs) -> Array:
    x, w = v
    patches = _patches(x, w.shape[2:], a)
    y = np.einsum("ngcpk,gock->ngop", patches, _flat(w, 0, a["groups"]))
    return y.reshape(x.shape[0], w.shape[0], *taps(x[:, :1], w.shape[2:], a).shape[2:-1])


def _conv_backward_data(v: Sequence[Array], a: Attrs) -> Array:
    dy, w = v
    kernel = w.shape[2:]
    t = np.einsum("ngop,gock->ngcpk", _flat(dy, 1, a["groups"]), _flat(w, 0, a["groups"]))
    return untap(t.reshape(dy.shape[0], -1, *dy.shape[2:], math.prod(kernel)), kernel, a["input_spatial"], a)


def _conv_backward_weight(v: Sequence[Array], a: Attrs) -> Array:
    x, dy = v
    dw = np.einsum("ngcpk,ngop->gock", _patches(x, a["kernel"], a), _flat(dy, 1, a["groups"]))
    return dw.reshape(dy.shape[1], -1, *a["kernel"])


def _max_pool_backward(v: Sequence[Array], a: Attrs) -> Array:
    dy, x = v
    t = taps(x, a["kernel"], a, -np.inf)
    chosen = t.argmax(-1)[..., None] == np.arange(t.shape[-1])
    return untap(chosen * dy[..., None], a["kernel"], x.shape[2:], a)


def _count(spatial: Sequence[int], a: Attrs) -> Array:
    ones = taps(np.ones((1, 1, *spatial)), a["kernel"], a)
    return float(ones.shape[-1]) if a["count_include_pad"] else ones.sum(-1)


def _avg_pool(v: Sequence[Array], a: Attrs) -> Array:
    return taps(v[0], a["kernel"], a).sum(-1) / _count(v[0].shape[2:], a)


def _avg_pool_backward(v: Sequence[Array], a: Attrs) -> Array:
    share = (v[0] / _count(a["input_spatial"], a))[..., None]
    return untap(np.repeat(share, math.prod(a["kernel"]), -1), a["kernel"], a["input_spatial"], a)


# ---- reductions and movement ----------------------------------------------------------------------------------------


def running(accumulate: Callable[..., Array], neutral: float) -> Meaning:
    """``np.cumsum`` or ``np.cumprod`` with the attributes of ours."""

    def meaning(v: Sequence[Array], a: Attrs) -> Array:
        x = np.moveaxis(v[0], a["axis"], -1)
        x = x[..., ::-1] if a["reverse"] else x
        if a["exclusive"]:
            x = np.concatenate([np.full_like(x[..., :1], neutral), x[..., :-1]], -1)
        y = accumulate(x, axis=-1)
        return np.moveaxis(y[..., ::-1] if a["reverse"] else y, -1, a["axis"])

    return meaning


def _reduction(f: Callable[..., Array]) -> Meaning:
    return lambda v, a: f(v[0], axis=tuple(a["axes"]), keepdims=a["keepdims"])


def _slice(v: Sequence[Array], a: Attrs) -> Array:
    return v[0][tuple(map(slice, a["starts"], a["limits"], a["strides"]))]


def _pad(v: Sequence[Array], a: Attrs) -> Array:
    return np.pad(v[0], a["padding"], constant_values=v[1]) if a["padding"] else v[0]


# ---- indexing -------------------------------------------------------------------------------------------------------


def wrapped(i: int, n: int) -> int:
    """An index with a negative one counted from the end."""
    return i + n if i < 0 else i


def inside(indices: Any, n: int) -> np.ndarray:
    """Wrapped, then moved inside of an axis."""
    i = np.asarray(indices).astype(np.int64)
    return np.clip(np.where(i < 0, i + n, i), 0, n - 1)


def _gather_elements(v: Sequence[Array], a: Attrs) -> Array:
    x, i, axis = v[0], v[1], a["axis"]
    index = list(np.indices(i.shape))
    index[axis] = inside(i, x.shape[axis])
    return x[tuple(index)]


def gather_nd_index(shape: Sequence[int], i: np.ndarray, batch: int) -> tuple[np.ndarray, ...]:
    """The advanced index that ``gather_nd`` reads x with."""
    own = [np.broadcast_to(o, i.shape[:-1]) for o in np.indices(i.shape[:-1])[:batch]]
    return (*own, *(inside(i[..., k], shape[batch + k]) for k in range(i.shape[-1])))


def targets(op: str, shape: Sequence[int], i: np.ndarray, a: Attrs) -> list[tuple[Any, Any]]:
    """(where in the updates, where in the result) of everything that a scattering operator writes, in its order."""
    pairs: list[tuple[Any, Any]] = []
    if op == "scatter_elements":
        for j in np.ndindex(*i.shape):
            p = wrapped(int(i[j]), shape[a["axis"]])
            if 0 <= p < shape[a["axis"]]:
                pairs.append((j, (*j[: a["axis"]], p, *j[a["axis"] + 1 :])))
        return pairs
    for j in np.ndindex(*i.shape[:-1]):
        place = tuple(wrapped(int(k), n) for k, n in zip(i[j], shape, strict=False))
        if all(0 <= p < n for p, n in zip(place, shape, strict=False)):
            pairs += [((*j, *s), (*place, *s)) for s in np.ndindex(*shape[len(place) :])]
    return pairs


COMBINE: dict[str, Callable[[float, float], float]] = {
    "none": lambda old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "max": max,
    "min": min,
}


def _scatter(op: str) -> Meaning:
    def meaning(v: Sequence[Array], a: Attrs) -> Array:
        x, i, u = v
        y = x.copy()
        for j, p in targets(op, x.shape, i, a):
            y[p] = COMBINE[a["reduction"]](y[p], u[j])
        return y

    return meaning


# ---- tables ---------------------------------------------------------------------------------------------------------


def _cast(v: Sequence[Array], a: Attrs) -> Array:
    """Between floats a cast is the identity but for rounding, which has no derivative."""
    x, dtype = v[0], a["dtype"]
    if dtype == "bool":
        return x != 0
    if "float" in dtype:
        return np.asarray(x, np.float64)
    return np.asarray(np.trunc(x) if x.dtype.kind == "f" else x).astype(dtype)


def _order(v: Sequence[Array], a: Attrs) -> Array:
    return np.argsort(-v[0] if a["descending"] else v[0], a["axis"], kind="stable")


def _arg(f: Callable[..., Array]) -> Meaning:
    return lambda v, a: f(v[0], a["axes"][0], keepdims=a["keepdims"])


def _elementwise(f: Callable[..., Array]) -> Meaning:
    return lambda v, a: f(*v)


_SPECIAL: dict[str, Callable[..., Array]] = {
    "erf": np.vectorize(math.erf, otypes=[float]),
    "erfc": np.vectorize(math.erfc, otypes=[float]),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "cbrt": np.cbrt,
    "neg": np.negative,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "pow": np.power,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
}
#: Constant but for jumps; parts of what frontends make of larger operators.
CONSTANT: dict[str, Meaning] = {
    **{name: _elementwise(getattr(np, name)) for name in ("floor", "ceil", "sign", "logical_not", "logical_and", "logical_or")},
    **{
        name: _elementwise(getattr(np, name))
        for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
    },
    "round": _elementwise(np.rint),
    "is_nan": _elementwise(np.isnan),
    "rem": _elementwise(np.fmod),
    "argsort": _order,
    "argmax": _arg(np.argmax),
    "argmin": _arg(np.argmin),
}

_NUMPY = ("abs", "sqrt", "exp", "expm1", "exp2", "log", "log1p", "log2", "log10", "tanh", "sin", "cos", "tan", "sinh", "cosh")

#: By canonical operator.
FLOAT64: dict[str, Meaning] = {
    **CONSTANT,
    **{name: _elementwise(getattr(np, name)) for name in (*_NUMPY, "add", "maximum", "minimum", "where")},
    **{name: _elementwise(f) for name, f in _SPECIAL.items()},
    "cast": _cast,
    "cast_saturating": _cast,
    "sum": _reduction(np.sum),
    "prod": _reduction(np.prod),
    "reduce_max": _reduction(np.max),
    "reduce_min": _reduction(np.min),
    "cumsum": running(np.cumsum, 0.0),
    "cumprod": running(np.cumprod, 1.0),
    "matmul": _elementwise(np.matmul),
    "conv": _conv,
    "conv_backward_data": _conv_backward_data,
    "conv_backward_weight": _conv_backward_weight,
    "max_pool": lambda v, a: taps(v[0], a["kernel"], a, -np.inf).max(-1),
    "max_pool_backward": _max_pool_backward,
    "avg_pool": _avg_pool,
    "avg_pool_backward": _avg_pool_backward,
    "reshape": lambda v, a: v[0].reshape(a["shape"]),
    "transpose": lambda v, a: v[0].transpose(a["perm"]),
    "broadcast_to": lambda v, a: np.broadcast_to(v[0], a["shape"]),
    "concat": lambda v, a: np.concatenate(v, a["axis"]),
    "slice": _slice,
    "pad": _pad,
    "reverse": lambda v, a: np.flip(v[0], tuple(a["axes"])),
    "take": lambda v, a: np.take(v[0], inside(v[1], v[0].shape[a["axis"]]), a["axis"]),
    "gather_elements": _gather_elements,
    "gather_nd": lambda v, a: v[0][gather_nd_index(v[0].shape, v[1], a["batch_dims"])],
    "scatter_elements": _scatter("scatter_elements"),
    "scatter_nd": _scatter("scatter_nd"),
    "constant": lambda v, a: constant(a).astype(np.float64) if "float" in a["dtype"] else constant(a),
    "iota": lambda v, a: iota(a),
}


def finite_differences(
    graph: Graph, arrays: Sequence[np.ndarray], weights: np.ndarray, wanted: int, places: Any, step: float = 1e-5
) -> np.ndarray:
    """Central differences of sum(weights * output) for elements ``places`` (flat) of input ``wanted``.

    The error is about ``step``² times the third derivative / 6 and 1e-16 / ``step`` times the summands.
    """
    given = [np.asarray(a, np.float64) if a.dtype.kind == "f" else a for a in arrays]
    slopes = []
    for place in places:
        sides = []
        for sign in (1, -1):
            moved = given[wanted].copy()
            moved.reshape(-1)[place] += sign * step
            sides.append(evaluate(graph, [moved if k == wanted else x for k, x in enumerate(given)], FLOAT64)[0])
        slopes.append(math.fsum(((sides[0] - sides[1]) * weights).reshape(-1)) / (2 * step))
    return np.array(slopes)
