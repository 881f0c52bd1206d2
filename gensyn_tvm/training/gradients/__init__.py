"""Gradient rules: one for every differentiable canonical operator, and for Relax operators with a better formula of their own.

``differentiate`` expands every other Relax operator into its canonical operators first. The tables are literals; the rules
are made of operators that the freeze converts, so a backward pass is as reproducible as a forward pass.
"""

from __future__ import annotations

from typing import Any

from gensyn_tvm.canonical.relax_ops import PREFIX
from gensyn_tvm.training.emit import Emitter, Expr, op
from gensyn_tvm.training.gradients.activations import ACTIVATIONS
from gensyn_tvm.training.gradients.basics import Gradient
from gensyn_tvm.training.gradients.elementwise import ELEMENTWISE
from gensyn_tvm.training.gradients.indexing import INDEXING
from gensyn_tvm.training.gradients.movement import MOVEMENT
from gensyn_tvm.training.gradients.norms import NORMS
from gensyn_tvm.training.gradients.reductions import REDUCTIONS
from gensyn_tvm.training.gradients.windows import WINDOWS


def _split(var: Any, call: Any, g: Expr, e: Emitter) -> list[Expr | None]:
    return [op.concat(g, int(call.attrs.axis))]


#: By canonical operator.
CANONICAL: dict[str, Gradient] = {**ELEMENTWISE, **REDUCTIONS, **WINDOWS, **MOVEMENT, **INDEXING}

#: By Relax operator.
RELAX: dict[str, Gradient] = {**ACTIVATIONS, **NORMS, "relax.split": _split}

#: Canonical operators whose result does not change with their inputs, or only in jumps: no gradient passes through them.
CONSTANT: tuple[str, ...] = (
    *("floor", "ceil", "round", "sign", "is_nan", "logical_not", "logical_and", "logical_or"),
    *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal"),
    *("bitcast", "rem", "bit_and", "bit_or", "bit_xor", "bit_not", "shift_left", "shift_right"),
    *("argmax", "argmin", "argsort", "max_pool_indices", "suppress", "constant", "iota", "random_bits"),
)

#: The same for Relax operators.
RELAX_CONSTANT: tuple[str, ...] = (
    *("relax.equal", "relax.not_equal", "relax.less", "relax.less_equal", "relax.greater", "relax.greater_equal"),
    *("relax.logical_and", "relax.logical_or", "relax.logical_not", "relax.logical_xor"),
    *("relax.isnan", "relax.isinf", "relax.isfinite", "relax.floor", "relax.ceil", "relax.round", "relax.trunc", "relax.sign"),
    *("relax.argmax", "relax.argmin", "relax.argsort", "relax.one_hot", "relax.arange", "relax.eye"),
    *("relax.zeros", "relax.ones", "relax.full", "relax.zeros_like", "relax.ones_like", "relax.full_like"),
    *("gensyn.random_bits", "gensyn.stop_gradient"),
)

_CONSTANT = {*RELAX_CONSTANT, *(PREFIX + name for name in CONSTANT)}


def is_constant(name: str) -> bool:
    """Whether no gradient passes through the operator of that Relax name."""
    return name in _CONSTANT


def gradient_of(name: str) -> Gradient | None:
    """The rule of a Relax operator, None if it has none (and must be expanded)."""
    return CANONICAL.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else RELAX.get(name)
