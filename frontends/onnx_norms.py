"""ONNX's normalisations as compositions; their formulas are in docs/numerics.md."""

from __future__ import annotations

from typing import Any

from tvm import relax

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, number, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_axis, convert_shortest, optional
from gensyn_tvm.training import ops as gensyn

#: TensorProto.DataType of the precisions in which a first stage can run.
_STASH = {1: "float32", 11: "float64"}


def _epsilon(a: Attributes) -> float:
    return convert_shortest(a.get("epsilon", 1e-5))


def _stash(e: Emitter, a: Attributes) -> str:
    """The dtype of the first stage."""
    stash = int(a.get("stash_type", 1))
    if stash not in _STASH:
        raise e.refuse(f"stash_type {stash}", expected="1 (float32) or 11 (float64)")
    return _STASH[stash]


def _axes_from(a: Attributes, x: Expr) -> list[int]:
    rank = rank_of(x)
    return list(range(convert_axis(a.get("axis", -1), rank), rank))


def _floats(e: Emitter, x: Expr) -> None:
    if dtype_of(x) not in FLOATS:
        raise e.refuse(f"an input of {dtype_of(x)}", expected="floats")


def convert_layer_norm(e: Emitter, x: Inputs, a: Attributes) -> list[Expr]:
    """[Y, Mean, InvStdDev]; the last two only where the node names them."""
    _floats(e, x[0])
    axes, stash = _axes_from(a, x[0]), _stash(e, a)
    bias = optional(x, 2)
    if a.outputs == 1 and stash == dtype_of(x[0]):
        return [blocks.layer_norm(e, x[0], axes, x[1], bias, _epsilon(a))]
    mean, centred, deviation = blocks.deviation(e, e.cast(x[0], stash), axes, _epsilon(a))
    y = e.cast(e.div(centred, deviation), dtype_of(x[0]))
    return [blocks.affine(e, y, x[1], bias), mean, e.div(1.0, deviation)]


def convert_rms_norm(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    _floats(e, x[0])
    y = blocks.rms_normalise(e, e.cast(x[0], _stash(e, a)), _axes_from(a, x[0]), _epsilon(a))
    return e.mul(e.cast(y, dtype_of(x[0])), x[1])


def convert_instance_norm(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    _floats(e, x[0])
    return blocks.group_norm(e, x[0], shape_of(x[0])[1], x[1], x[2], _epsilon(a))


def convert_group_norm(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """Scale and bias for each channel; the deprecated form of opset 18, with one for each group, is no valid ONNX any more."""
    _floats(e, x[0])
    dtype = dtype_of(x[0])
    y = blocks.group_norm(e, e.cast(x[0], _stash(e, a)), int(a["num_groups"]), None, None, _epsilon(a))
    return blocks.affine(e, e.cast(y, dtype), *(blocks.per_channel(e, v, rank_of(y)) for v in x[1:3]))


def convert_lp_norm(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """x / norm, and 0 where the norm is 0."""
    _floats(e, x[0])
    axis, p = convert_axis(a.get("axis", -1), rank_of(x[0])), int(a.get("p", 2))
    if p not in (1, 2):
        raise e.refuse(f"p={p}", expected="1 or 2")
    powers = e(op.abs(x[0])) if p == 1 else e.mul(x[0], x[0])
    total = e(op.sum(powers, [axis], True))
    norm = total if p == 1 else e(op.sqrt(total))
    empty = e(op.equal(norm, number(0, dtype_of(norm))))
    return e.where(empty, 0.0, e.div(x[0], e.where(empty, 1.0, norm)))


def convert_mean_variance_norm(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """(x - mean) / (sqrt(variance) + 1e-9)"""
    _floats(e, x[0])
    axes = sorted({convert_axis(v, rank_of(x[0])) for v in a.get("axes", [0, 2, 3])})
    centred = e.sub(x[0], e(op.mean(x[0], axes, True)))
    deviation = e(op.sqrt(e(op.mean(e.mul(centred, centred), axes, True))))
    return e.div(centred, e.add(deviation, 1e-9))


def convert_batch_norm(e: Emitter, x: Inputs, a: Attributes) -> Any:
    """With stored statistics: an operator that normalises by them or, in training, by the batch's, and updates them.

    Statistics that are computed or given at run time are no state: then the node does what ``training_mode`` says.
    """
    _floats(e, x[0])
    if not a.get("spatial", 1):
        raise e.refuse("spatial=0", expected="statistics for each channel")
    channels = shape_of(x[0])[1] if rank_of(x[0]) > 1 else 1
    if any(shape_of(v) != [channels] for v in x[1:5]):
        found = ", ".join(str(tuple(shape_of(v))) for v in x[1:5])
        raise e.refuse(f"scale, bias, mean and variance of {found}", expected=f"({channels},), one value for each channel")
    # ONNX weights the old value with momentum, we weight the new one.
    kept = convert_shortest(a.get("momentum", 0.9))
    trains = bool(a.get("training_mode", 0)) if a.opset >= 14 else a.outputs > 1
    if not a.stateful and trains:
        return _batch_norm_of_batch(e, x, _epsilon(a), kept)
    call = gensyn.batch_norm(*x[:5], epsilon=_epsilon(a), momentum=1.0 - kept, unbiased=False, frozen=not a.stateful)
    value = e(call)
    return [e(relax.TupleGetItem(value, k)) for k in range(3)]


def _batch_norm_of_batch(e: Emitter, x: Inputs, epsilon: float, kept: float) -> list[Expr]:
    """[Y, running mean, running variance, batch mean, batch variance]; the last two are outputs before opset 14."""
    rank = rank_of(x[0])
    axes = [0, *range(2, rank)]
    y = e(gensyn.batch_normalise(*x[:3], epsilon=epsilon))
    mean = e(op.mean(x[0], axes, True))
    centred = e.sub(x[0], mean)
    variance = e(op.mean(e.mul(centred, centred), axes, False))
    batch = [e.reshape(mean, shape_of(x[3])), variance]
    running = [
        e.add(e.mul(old, kept), e.mul(e.cast(new, dtype_of(old)), 1.0 - kept)) for old, new in zip(x[3:5], batch, strict=True)
    ]
    return [y, *running, *batch]


NORMS: dict[str, Converter] = {
    "BatchNormalization": convert_batch_norm,
    "GroupNormalization": convert_group_norm,
    "InstanceNormalization": convert_instance_norm,
    "LayerNormalization": convert_layer_norm,
    "LpNormalization": convert_lp_norm,
    "MeanVarianceNormalization": convert_mean_variance_norm,
    "RMSNormalization": convert_rms_norm,
}
