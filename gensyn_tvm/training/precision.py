"""Mixed precision: products of narrow floats with float32 parameters, and loss scaling.

Like ``torch.autocast``: operands and results of matrix products and convolutions are rounded to the narrow dtype, in the
forward pass and, because a cast's gradient is a cast, in the backward pass. Everything else (normalisations, activations,
softmax, losses, the update) is float32, and so are the parameters. Scales are powers of two, so scaling rounds nothing unless
a number leaves the dtype's range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from gensyn_tvm.canonical.relax_ops import PREFIX
from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, number, op, shape_of
from gensyn_tvm.training.settings import is_count, is_number

Arrays = dict[str, np.ndarray]
Expressions = dict[str, Expr]

#: Names of the state of ``DynamicLossScale``.
SCALE, GOOD_STEPS = "optimizer.loss_scale", "optimizer.good_steps"

_NARROW = ("bfloat16", "float16")

#: Operators whose operands and results are rounded.
PRODUCTS = {
    "relax.matmul",
    *(f"relax.nn.conv{n}d{kind}" for n in (1, 2, 3) for kind in ("", "_transpose")),
    *(PREFIX + name for name in ("matmul", "conv", "conv_backward_data", "conv_backward_weight")),
    *("gensyn.conv_backward_data", "gensyn.conv_backward_weight"),
}


def _check_power_of_two(name: str, what: str, value: Any) -> None:
    """Powers whose inverse is a normal float32 too, so that scaling and unscaling are exact."""
    if not is_number(value) or value <= 0 or math.frexp(value)[0] != 0.5 or not 2.0**-126 <= value <= 2.0**126:
        raise InvalidProgramError(
            describe(
                f"{name}: {what} cannot scale a loss exactly",
                found=repr(value),
                expected="a power of two from 2^-126 to 2^126",
            )
        )


@dataclass(frozen=True)
class StaticLossScale:
    """The loss is multiplied by ``scale`` before the backward pass and the gradients by 1 / scale after it.

    Raises:
        InvalidProgramError: ``scale`` is no power of two from 2^-126 to 2^126.
    """

    scale: float

    def __post_init__(self) -> None:
        _check_power_of_two("StaticLossScale", "scale", self.scale)

    def initial_state(self) -> Arrays:
        """A constant has no state."""
        return {}


@dataclass(frozen=True)
class DynamicLossScale:
    """``torch.amp.GradScaler``, with its defaults.

    A step with a gradient that is not finite changes neither parameters nor the optimizer's state, and scale = scale *
    backoff. After ``growth_interval`` finite steps in a row scale = scale * growth, unless that is infinite. State:
    ``optimizer.loss_scale`` (float32), ``optimizer.good_steps`` (int64).

    Raises:
        InvalidProgramError: a number that is no power of two, growth below 1, backoff not below 1, an interval below 1.
    """

    initial: float = 2.0**16
    growth_interval: int = 2000
    growth: float = 2.0
    backoff: float = 0.5

    def __post_init__(self) -> None:
        for what in ("initial", "growth", "backoff"):
            _check_power_of_two("DynamicLossScale", what, getattr(self, what))
        if not self.growth >= 1 > self.backoff or not is_count(self.growth_interval, 1):
            raise InvalidProgramError(
                describe(
                    "DynamicLossScale cannot work",
                    found=str(self),
                    expected="growth >= 1, backoff < 1, growth_interval an integer >= 1",
                )
            )

    def initial_state(self) -> Arrays:
        """The first scale and no good steps."""
        return {SCALE: np.array(self.initial, "float32"), GOOD_STEPS: np.array(0, "int64")}

    def update(self, e: Emitter, state: Mapping[str, Expr], finite: Expr) -> Expressions:
        """The next state; ``finite`` says whether all gradients are."""
        e.place = "loss scale"
        scale, zero = state[SCALE], number(0, "int64")
        counted = e.add(state[GOOD_STEPS], 1)
        full = e(op.equal(counted, number(self.growth_interval, "int64")))
        larger = e.mul(scale, self.growth)
        larger = e(op.where(e(op.less(larger, number(math.inf, "float32"))), larger, scale))
        grown = e(op.where(full, larger, scale))
        return {
            SCALE: e(op.where(finite, grown, e.mul(scale, self.backoff))),
            GOOD_STEPS: e(op.where(finite, e(op.where(full, zero, counted)), zero)),
        }


LossScale = StaticLossScale | DynamicLossScale


@dataclass(frozen=True)
class MixedPrecision:
    """Products in a narrow dtype, float32 parameters.

    Attributes:
        dtype: ``bfloat16`` or ``float16``.
        loss_scale: for gradients too small for ``float16``.

    Raises:
        InvalidProgramError: another dtype, something else as a loss scale.
    """

    dtype: str = "bfloat16"
    loss_scale: LossScale | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _NARROW:
            raise InvalidProgramError(
                describe("MixedPrecision cannot use this dtype", found=repr(self.dtype), expected=" or ".join(_NARROW))
            )
        if self.loss_scale is not None and not isinstance(self.loss_scale, StaticLossScale | DynamicLossScale):
            raise InvalidProgramError(
                describe(
                    "MixedPrecision cannot use this loss scale",
                    found=repr(self.loss_scale),
                    expected="None, StaticLossScale(scale) or DynamicLossScale()",
                )
            )

    def check(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Check that all parameters are float32."""
        other = [f"{name} is {array.dtype.name}" for name, array in parameters.items() if array.dtype != np.float32]
        if other:
            raise InvalidProgramError(
                describe(
                    "mixed precision needs float32 parameters",
                    found="; ".join(other[:4]) + (f"; and {len(other) - 4} more" if len(other) > 4 else ""),
                    remedy="convert the model to float32 before the import; its products are rounded by the step",
                )
            )

    def rewrite(self, e: Emitter, call: Any, arguments: Sequence[Expr]) -> Any:
        """A product of float32 tensors with operands and result rounded to the dtype; None for other calls.

        The rounded numbers are float32 again, which is exact: the product computes in float32 in any case. Products with a
        constant stay as they are: they are sums over windows, changes of basis and the like, not layers.
        """
        if call.op.name not in PRODUCTS or any(isinstance(a, GenericConst) or dtype_of(a) != "float32" for a in arguments):
            return None
        rounded = [self._rounded(e, a) for a in arguments]
        return self._rounded(e, e(relax.Call(call.op, rounded, call.attrs, call.ty_args, call.span)))

    def _rounded(self, e: Emitter, x: Expr) -> Expr:
        return e.cast(e.cast(x, self.dtype), dtype_of(x))


def all_finite(e: Emitter, tensors: Mapping[str, Expr]) -> Expr:
    """Whether every element of every tensor is finite: a bool scalar."""
    result = number(True, "bool")
    for tensor in tensors.values():
        if 0 in shape_of(tensor):
            continue
        largest = e(op.max(e(op.abs(tensor))))
        result = e(op.logical_and(result, e(op.less(largest, number(math.inf, dtype_of(tensor))))))
    return result
