"""ONNX operators that index with data. Indices that are computed may be any value: ONNX leaves what is outside an axis
undefined, the canonical operators (docs/numerics.md) do not."""

from __future__ import annotations

from gensyn_tvm.canonical.index_rules import REDUCTIONS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_axis, known


def index_of(e: Emitter, indices: Expr) -> Expr:
    """Indices as canonical operators take them: int32 or int64."""
    return indices if dtype_of(indices) in ("int32", "int64") else e.cast(indices, "int64")


# ---- gathering ------------------------------------------------------------------------------------------------------


def convert_gather(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return blocks.take(e, x[0], x[1], convert_axis(a.get("axis", 0), rank_of(x[0])))


def convert_gather_elements(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    axis = convert_axis(a.get("axis", 0), rank_of(x[0]))
    return e.canonical("gather_elements", x[0], index_of(e, x[1]), axis=axis)


def convert_gather_nd(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.canonical("gather_nd", x[0], index_of(e, x[1]), batch_dims=int(a.get("batch_dims", 0)))


# ---- scattering -----------------------------------------------------------------------------------------------------


def _reduction(e: Emitter, x: Inputs, a: Attributes) -> str:
    name = str(a.get("reduction", "none"))
    if name not in REDUCTIONS:
        raise e.refuse(f"reduction {name!r}", expected=", ".join(REDUCTIONS))
    allowed = REDUCTIONS[name]
    if allowed is not None and dtype_of(x[0]) not in allowed:
        raise e.refuse(f"reduction {name!r} of {dtype_of(x[0])}", expected=", ".join(allowed), remedy="cast to float32 first")
    return name


def convert_scatter_elements(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    axis = convert_axis(a.get("axis", 0), rank_of(x[0]))
    return e.canonical("scatter_elements", x[0], index_of(e, x[1]), x[2], axis=axis, reduction=_reduction(e, x, a))


def convert_scatter_nd(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    return e.canonical("scatter_nd", x[0], index_of(e, x[1]), x[2], reduction=_reduction(e, x, a))


# ---- order ----------------------------------------------------------------------------------------------------------


def convert_top_k(e: Emitter, x: Inputs, a: Attributes) -> list[Expr]:
    """Sorted also with sorted=0, where ONNX leaves the order open."""
    axis = convert_axis(a.get("axis", -1), rank_of(x[0]))
    count = int(a["k"]) if "k" in a else int(known(e, x[1], "k").item())
    if not 0 <= count <= shape_of(x[0])[axis]:
        raise e.refuse(f"k = {count}", expected=f"at most the {shape_of(x[0])[axis]} elements of axis {axis}")
    order = e.canonical("argsort", x[0], axis=axis, descending=bool(a.get("largest", 1)))
    order = e.slice(order, axis, 0, count)
    return [e.canonical("gather_elements", x[0], order, axis=axis), order]


def convert_cumulative(name: str) -> Converter:
    def convert(e: Emitter, x: Inputs, a: Attributes) -> Expr:
        axis = convert_axis(int(known(e, x[1], "the axis").item()), rank_of(x[0]))
        return e.canonical(name, x[0], axis=axis, exclusive=bool(a.get("exclusive", 0)), reverse=bool(a.get("reverse", 0)))

    return convert


CONVERTERS: dict[str, Converter] = {
    "Gather": convert_gather,
    "GatherElements": convert_gather_elements,
    "GatherND": convert_gather_nd,
    "Scatter": convert_scatter_elements,
    "ScatterElements": convert_scatter_elements,
    "ScatterND": convert_scatter_nd,
    "TopK": convert_top_k,
    "CumSum": convert_cumulative("cumsum"),
    "CumProd": convert_cumulative("cumprod"),
}
