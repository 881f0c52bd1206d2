"""Gradients of canonical elementwise operators.

At kinks PyTorch's conventions hold: abs: 0 at 0; maximum and minimum share equally between equal operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gensyn_tvm.canonical.relax_ops import canonical
from gensyn_tvm.canonical.types import FLOATS, NARROW_FLOATS
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, op
from gensyn_tvm.training.gradients.basics import Gradient, like, unbroadcast

#: Emits the gradient of a function of one variable: (emitter, x, y = f(x), g) → expression.
_Slope = Callable[[Emitter, Expr, Expr, Expr], Expr]


def _unary(slope: _Slope) -> Gradient:
    def gradient(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
        return [slope(e, call.args[0], var, g)]

    return gradient


def _sqrt(e: Emitter, x: Expr, y: Expr, g: Expr) -> Expr:
    """(g * 0.5) / y"""
    return e.div(e.mul(0.5, g), y)


def _tanh(e: Emitter, x: Expr, y: Expr, g: Expr) -> Expr:
    """g * (1 - y * y)"""
    return e.mul(g, e.sub(1.0, e.mul(y, y)))


def _sigmoid(e: Emitter, x: Expr, y: Expr, g: Expr) -> Expr:
    """(g * y) * (1 - y)"""
    return e.mul(e.mul(g, y), e.sub(1.0, y))


def _bell(factor: float) -> _Slope:
    """g * (factor * exp(-(x * x)))"""

    def slope(e: Emitter, x: Expr, y: Expr, g: Expr) -> Expr:
        return e.mul(g, e.mul(factor, e(op.exp(e(op.negative(e.mul(x, x)))))))

    return slope


def _scaled_log(factor: float) -> _Slope:
    """g / (x * factor)"""

    def slope(e: Emitter, x: Expr, y: Expr, g: Expr) -> Expr:
        return e.div(g, e.mul(x, factor))

    return slope


def _root(a: int, b: int, sign: int) -> _Slope:
    """g / sqrt((x + a) * (b + sign * x)), which keeps its accuracy where x is close to 1"""

    def slope(e: Emitter, x: Expr, y: Expr, g: Expr) -> Expr:
        second = e.add(float(b), x) if sign > 0 else e.sub(float(b), x)
        return e.div(g, e(op.sqrt(e.mul(e.add(x, float(a)), second))))

    return slope


def _negated(slope: _Slope) -> _Slope:
    return lambda e, x, y, g: e(op.negative(slope(e, x, y, g)))


def _atanh(e: Emitter, x: Expr, y: Expr, g: Expr) -> Expr:
    """g / ((1 + x) * (1 - x))"""
    return e.div(g, e.mul(e.add(1.0, x), e.sub(1.0, x)))


def _asinh(e: Emitter, x: Expr, y: Expr, g: Expr) -> Expr:
    """g / sqrt(x * x + 1)"""
    return e.div(g, e(op.sqrt(e.add(e.mul(x, x), 1.0))))


def _rsqrt(e: Emitter, x: Expr, y: Expr, g: Expr) -> Expr:
    """g * (-0.5 * (y * (y * y)))"""
    return e.mul(g, e.mul(-0.5, e.mul(y, e.mul(y, y))))


def _cbrt(e: Emitter, x: Expr, y: Expr, g: Expr) -> Expr:
    """g / (3 * (y * y))"""
    return e.div(g, e.mul(3.0, e.mul(y, y)))


# ---- several operands -----------------------------------------------------------------------------------------------


def _add(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    a, b = call.args
    return [unbroadcast(e, g, a), unbroadcast(e, g, b)]


def _sub(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    a, b = call.args
    return [unbroadcast(e, g, a), unbroadcast(e, op.negative(g), b)]


def _mul(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    a, b = call.args
    return [unbroadcast(e, op.multiply(g, b), a), unbroadcast(e, op.multiply(g, a), b)]


def _div(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """g / b and ((-g) * y) / b"""
    a, b = call.args
    along = e.div(e.mul(e(op.negative(g)), var), b)
    return [unbroadcast(e, op.divide(g, b), a), unbroadcast(e, along, b)]


def _pow(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    """g * (b * a^(b - 1)), 0 where b is 0; g * (y * log(a)), 0 where a is 0 and b is not negative"""
    a, b = call.args
    zero = like(0.0, a)
    slope = e.mul(b, e(canonical("pow", a, e.sub(b, 1.0))))
    da = e(op.where(e(op.equal(b, zero)), zero, e.mul(g, slope)))
    flat = e(op.logical_and(e(op.equal(a, zero)), e(op.greater_equal(b, zero))))
    db = e(op.where(flat, zero, e.mul(g, e.mul(var, e(op.log(a))))))
    return [unbroadcast(e, da, a), unbroadcast(e, db, b)]


def _extremum(losing: Callable[[Expr, Expr], Expr]) -> Gradient:
    def gradient(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
        a, b = call.args
        zero = like(0.0, g)
        shared = e(op.where(e(op.equal(a, b)), e.mul(g, 0.5), g))
        da, db = op.where(e(losing(a, b)), zero, shared), op.where(e(losing(b, a)), zero, shared)
        return [unbroadcast(e, da, a), unbroadcast(e, db, b)]

    return gradient


def _where(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    condition, a, b = call.args
    zero = like(0.0, g)
    return [None, unbroadcast(e, op.where(condition, g, zero), a), unbroadcast(e, op.where(condition, zero, g), b)]


def _cast(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    (x,) = call.args
    differentiable = {dtype_of(x), dtype_of(var)} <= {*FLOATS, *NARROW_FLOATS}
    return [e.cast(g, dtype_of(x)) if differentiable else None]


ELEMENTWISE: dict[str, Gradient] = {
    "neg": _unary(lambda e, x, y, g: e(op.negative(g))),
    "abs": _unary(lambda e, x, y, g: e.mul(g, e(op.sign(x)))),
    "sqrt": _unary(_sqrt),
    "exp": _unary(lambda e, x, y, g: e.mul(g, y)),
    "expm1": _unary(lambda e, x, y, g: e.mul(g, e.add(y, 1.0))),
    "exp2": _unary(lambda e, x, y, g: e.mul(g, e.mul(y, math.log(2)))),
    "log": _unary(lambda e, x, y, g: e.div(g, x)),
    "log1p": _unary(lambda e, x, y, g: e.div(g, e.add(1.0, x))),
    "log2": _unary(_scaled_log(math.log(2))),
    "log10": _unary(_scaled_log(math.log(10))),
    "tanh": _unary(_tanh),
    "sigmoid": _unary(_sigmoid),
    "erf": _unary(_bell(2 / math.sqrt(math.pi))),
    "erfc": _unary(_bell(-2 / math.sqrt(math.pi))),
    "sin": _unary(lambda e, x, y, g: e.mul(g, e(op.cos(x)))),
    "cos": _unary(lambda e, x, y, g: e.mul(e(op.negative(g)), e(op.sin(x)))),
    "tan": _unary(lambda e, x, y, g: e.mul(g, e.add(1.0, e.mul(y, y)))),
    "asin": _unary(_root(1, 1, -1)),
    "acos": _unary(_negated(_root(1, 1, -1))),
    "atan": _unary(lambda e, x, y, g: e.div(g, e.add(1.0, e.mul(x, x)))),
    "sinh": _unary(lambda e, x, y, g: e.mul(g, e(op.cosh(x)))),
    "cosh": _unary(lambda e, x, y, g: e.mul(g, e(op.sinh(x)))),
    "asinh": _unary(_asinh),
    "acosh": _unary(_root(1, -1, 1)),
    "atanh": _unary(_atanh),
    "rsqrt": _unary(_rsqrt),
    "cbrt": _unary(_cbrt),
    "pow": _pow,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "maximum": _extremum(op.less),
    "minimum": _extremum(op.greater),
    "where": _where,
    "cast": _cast,
    "cast_saturating": _cast,
}
