"""What ``gensyn.batch_norm`` and ``gensyn.dropout`` become in inference and in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import relax

from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.program import Program
from gensyn_tvm.training import ops
from gensyn_tvm.training.emit import Emitter, Expr, build_function, dtype_of, inline, number, op, shape_of


def for_inference(program: Program) -> Program:
    """The program as it runs in inference.

    Batch normalisation uses the running statistics: ((x - mean) / sqrt(var + epsilon)) * gamma + beta. Dropout is the
    identity. ``main`` returns the outputs only; ``state_updates`` is empty.
    """
    main = program.module["main"]
    parameters = [relax.Var(p.name, p.ty) for p in main.params]

    def body(e: Emitter) -> Sequence[Expr]:
        results = inline(e, main, parameters, _inference)
        first = len(program.outputs) + len(program.state_updates)
        return [*results[: len(program.outputs)], *results[first:]]

    return replace(program, module=build_function(parameters, body), state_updates=())


def without_dropout(program: Program) -> Program:
    """The program with nothing dropped in training either; the rest behaves as it did."""
    main = program.module["main"]
    parameters = [relax.Var(p.name, p.ty) for p in main.params]
    body = lambda e: inline(e, main, parameters, lambda _, call, args: args[0] if call.op.name == "gensyn.dropout" else None)  # noqa: E731
    return replace(program, module=build_function(parameters, body))


def for_training(program: Program) -> Program:
    """The program as it runs in a training step.

    ``main`` has two more parameters at the end, ``seed`` and ``step`` (int64 scalars). Batch normalisation uses the batch's
    statistics (two-pass) unless it is frozen; its running statistics become (1 - momentum) * old + momentum * statistic.
    Dropout keeps an element if its random bits (Philox; operator ids count the dropouts from 0) are below
    round((1 - p) * 2^32), and multiplies it by 1 / (1 - p). With shared axes the bits have extent 1 along these.

    Raises:
        UnsupportedOperatorError: a dropout probability outside [0, 1], shared axes that do not exist, a batch norm over one
            element.
    """
    main = program.module["main"]
    scalar = relax.TensorType([], "int64")
    parameters = [relax.Var(p.name, p.ty) for p in main.params]
    clock = [relax.Var("seed", scalar), relax.Var("step", scalar)]

    def body(e: Emitter) -> Sequence[Expr]:
        return inline(e, main, parameters, _Training(*clock))

    return replace(program, module=build_function([*parameters, *clock], body))


def _inference(e: Emitter, call: Any, args: Sequence[Expr]) -> Any:
    if call.op.name == "gensyn.dropout":
        return args[0]
    return _normalise_running(e, call, args) if call.op.name == "gensyn.batch_norm" else None


class _Training:
    def __init__(self, seed: Expr, step: Expr) -> None:
        self.seed = seed
        self.step = step
        self.dropouts = 0

    def __call__(self, e: Emitter, call: Any, args: Sequence[Expr]) -> Any:
        if call.op.name == "gensyn.dropout":
            attrs = ops.attrs_of(call)
            return self._dropout(e, args[0], float(attrs["p"]), attrs["shared_axes"])
        if call.op.name != "gensyn.batch_norm":
            return None
        frozen = ops.attrs_of(call)["frozen"]
        return _normalise_running(e, call, args) if frozen else _normalise_batch(e, call, args)

    def _dropout(self, e: Emitter, x: Expr, p: float, shared_axes: Sequence[int]) -> Expr:
        if not 0.0 <= p <= 1.0:
            raise UnsupportedOperatorError("dropout", where=e.place, found=f"p={p}", expected="a probability from 0 to 1")
        drawn = _shared_shape(e, shape_of(x), shared_axes)
        op_id = self.dropouts
        self.dropouts += 1
        if p == 0.0:
            return x
        zero = number(0, dtype_of(x))
        if p == 1.0:
            return e(op.broadcast_to(zero, shape_of(x)))
        scaled = e.mul(x, 1.0 / (1.0 - p))
        threshold = round((1.0 - p) * 2**32)
        if threshold == 2**32:
            return scaled
        bits = e(ops.random_bits(self.seed, self.step, op_id=op_id, shape=drawn))
        keep = e(op.less(bits, relax.const(np.uint32(threshold), "uint32")))
        return e(op.where(keep, scaled, zero))


def _shared_shape(e: Emitter, shape: Sequence[int], shared_axes: Sequence[int]) -> tuple[int, ...]:
    """The shape with extent 1 along axes whose elements share one decision of a dropout."""
    rank = len(shape)
    if any(not -rank <= a < rank for a in shared_axes):
        raise UnsupportedOperatorError(
            "dropout", where=e.place, found=f"shared_axes={tuple(shared_axes)}", expected=f"axes of a tensor of rank {rank}"
        )
    shared = {a % rank for a in shared_axes}
    return tuple(1 if a in shared else n for a, n in enumerate(shape))


def _per_channel(e: Emitter, values: Expr, rank: int) -> Expr:
    return e(op.reshape(values, [1, shape_of(values)[0], *[1] * (rank - 2)]))


def _normalise_running(e: Emitter, call: Any, args: Sequence[Expr]) -> tuple[Expr, Expr, Expr]:
    """((x - mean) / sqrt(var + epsilon)) * gamma + beta"""
    x, gamma, beta, mean, var = args
    rank = len(shape_of(x))
    centred = e.sub(x, _per_channel(e, mean, rank))
    s = e(op.sqrt(e.add(_per_channel(e, var, rank), float(ops.attrs_of(call)["epsilon"]))))
    y = e.add(e.mul(e.div(centred, s), _per_channel(e, gamma, rank)), _per_channel(e, beta, rank))
    return y, mean, var


def _normalise_batch(e: Emitter, call: Any, args: Sequence[Expr]) -> tuple[Expr, Expr, Expr]:
    """The statistics are written again for the running ones; the freeze shares them with ``gensyn.batch_normalise``."""
    x, gamma, beta, mean, var = args
    attrs = ops.attrs_of(call)
    shape = shape_of(x)
    axes = [0, *range(2, len(shape))]
    count = math.prod(shape[a] for a in axes)
    divisor = count - 1 if attrs["unbiased"] else count
    if divisor < 1:
        raise UnsupportedOperatorError(
            "batch_norm",
            where=e.place,
            found=f"{count} values per channel in training",
            expected="at least 2" if attrs["unbiased"] else "at least 1",
            remedy="use a larger batch, or freeze the batch normalisation",
        )
    batch_mean = e(op.mean(x, axes, True))
    centred = e.sub(x, batch_mean)
    squares = e(op.sum(e.mul(centred, centred), axes, True))
    y = e(ops.batch_normalise(x, gamma, beta, epsilon=float(attrs["epsilon"])))
    momentum = float(attrs["momentum"])
    return y, _running(e, mean, batch_mean, momentum), _running(e, var, e.div(squares, divisor), momentum)


def _running(e: Emitter, old: Expr, statistic: Expr, momentum: float) -> Expr:
    """(1 - momentum) * old + momentum * statistic"""
    flat = e(op.reshape(statistic, shape_of(old)))
    return e.add(e.mul(old, 1.0 - momentum), e.mul(flat, momentum))
