"""ONNX's optimizers (ai.onnx.preview.training), one update each; their formulas are in docs/numerics.md.

Inputs are the rate R, the count T, then all tensors, all gradients, and all of each kind of state; outputs are the new tensors
and states in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, number, op, rank_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_shortest

#: (emitter, attributes, rate, count, tensor, gradient, states) → new tensor, new states
Update = Callable[[Emitter, Attributes, Expr, Expr, Expr, Expr, Sequence[Expr]], list[Expr]]

#: Bits of a count that take part in a power.
_BITS = 31


def _number(a: Attributes, name: str, default: float) -> float:
    return convert_shortest(a.get(name, default))


def _regularised(e: Emitter, a: Attributes, x: Expr, g: Expr) -> Expr:
    """g + norm_coefficient * x"""
    factor = _number(a, "norm_coefficient", 0.0)
    return g if factor == 0.0 else e.add(e.mul(x, factor), g)


def power_of_count(e: Emitter, base: float, count: Expr) -> Expr:
    """base^count in float64 for an int64 scalar from 0 to 2^31 - 1: the product of base^(2^k) over the bits k that are set.

    The factors are made by squaring one after the other, in float64. Multiplying a count by 2^-k and halving are exact.
    """
    factors = [float(base)]
    while len(factors) < _BITS:
        factors.append(factors[-1] * factors[-1])
    scales = constant(2.0 ** -np.arange(_BITS, dtype=np.float64))
    shifted = e(op.floor(e.mul(e.cast(count, "float64"), scales)))
    odd = e(op.greater(shifted, e.mul(e(op.floor(e.mul(shifted, 0.5))), 2.0)))
    return e(op.prod(e.where(odd, constant(np.array(factors)), 1.0), [0], False))


def _adagrad(e: Emitter, a: Attributes, r: Expr, t: Expr, x: Expr, g: Expr, states: Sequence[Expr]) -> list[Expr]:
    """H = H + G * G; X - (r * G) / (sqrt(H) + epsilon) with r = R / (1 + T * decay_factor), G regularised"""
    decay = _number(a, "decay_factor", 0.0)
    if decay != 0.0:
        r = e.div(r, e.add(e.mul(e.cast(t, dtype_of(r)), decay), 1.0))
    g = _regularised(e, a, x, g)
    h = e.add(states[0], e.mul(g, g))
    step = e.mul(e.cast(r, dtype_of(x)), g)
    return [e.sub(x, e.div(step, e.add(e(op.sqrt(h)), _number(a, "epsilon", 1e-6)))), h]


def _adam(e: Emitter, a: Attributes, r: Expr, t: Expr, x: Expr, g: Expr, states: Sequence[Expr]) -> list[Expr]:
    """V = alpha * V + (1 - alpha) * G; H = beta * H + (1 - beta) * (G * G); X - r * (V / (sqrt(H) + epsilon))

    with r = R * sqrt(1 - beta^T) / (1 - alpha^T), in float64, where T > 0; times 1 - norm_coefficient_post at the end.
    """
    alpha, beta = _number(a, "alpha", 0.9), _number(a, "beta", 0.999)
    rates = [e.sub(1.0, power_of_count(e, base, t)) for base in (alpha, beta)]
    wide = e.cast(r, "float64")
    corrected = e.div(e.mul(wide, e(op.sqrt(rates[1]))), rates[0])
    wide = e.where(e(op.greater(t, number(0, dtype_of(t)))), corrected, wide)
    g = _regularised(e, a, x, g)
    v = e.add(e.mul(states[0], alpha), e.mul(g, 1.0 - alpha))
    h = e.add(e.mul(states[1], beta), e.mul(e.mul(g, g), 1.0 - beta))
    step = e.div(v, e.add(e(op.sqrt(h)), _number(a, "epsilon", 1e-6)))
    x = e.sub(x, e.mul(step, e.cast(wide, dtype_of(x))))
    post = _number(a, "norm_coefficient_post", 0.0)
    return [x if post == 0.0 else e.mul(x, 1.0 - post), v, h]


def _momentum(e: Emitter, a: Attributes, r: Expr, t: Expr, x: Expr, g: Expr, states: Sequence[Expr]) -> list[Expr]:
    """V = alpha * V + b * G, b = beta but 1 where T <= 0; X - R * V, or X - R * (G + alpha * V) for Nesterov"""
    if a.get("mode") not in ("standard", "nesterov"):
        raise e.refuse(f"mode {a.get('mode')!r}", expected="standard or nesterov")
    alpha = float(convert_shortest(a["alpha"]))
    later = e(op.greater(t, number(0, dtype_of(t))))
    factor = e(op.where(later, number(convert_shortest(a["beta"]), dtype_of(x)), number(1.0, dtype_of(x))))
    g = _regularised(e, a, x, g)
    v = e.add(e.mul(states[0], alpha), e.mul(g, factor))
    direction = v if a["mode"] == "standard" else e.add(g, e.mul(v, alpha))
    return [e.sub(x, e.mul(direction, e.cast(r, dtype_of(x)))), v]


def _converter(update: Update, kinds: int) -> Converter:
    """``kinds``: of states that each tensor has."""

    def convert(e: Emitter, x: Inputs, a: Attributes) -> list[Expr]:
        count, rest = divmod(len(x) - 2, 2 + kinds)
        if rest or count < 1 or any(t is None or dtype_of(t) not in FLOATS for t in (x[0], *x[2:])) or rank_of(x[1]) > 1:
            raise e.refuse(f"{len(x)} inputs", expected=f"R, T, and {2 + kinds} float tensors for each that is optimised")
        r, t = (e.reshape(s, []) for s in x[:2])
        groups = [list(x[2 + k * count : 2 + (k + 1) * count]) for k in range(2 + kinds)]
        updated = [update(e, a, r, t, tensor, g, states) for tensor, g, *states in zip(*groups, strict=True)]
        return [value for kind in zip(*updated, strict=True) for value in kind]

    return convert


TRAINING_OPS: dict[str, Converter] = {
    "ai.onnx.preview.training.Adagrad": _converter(_adagrad, 1),
    "ai.onnx.preview.training.Adam": _converter(_adam, 2),
    "ai.onnx.preview.training.Momentum": _converter(_momentum, 1),
}
