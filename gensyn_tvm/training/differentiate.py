"""Reverse-mode differentiation through ``relax.transform.Gradient``, with errors that name the place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax
from tvm.ir import Op

from gensyn_tvm.canonical.from_relax import variables_of
from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.errors import InvalidProgramError, UnsupportedOperatorError, describe
from gensyn_tvm.training import gradients


def differentiate(module: Any, parameters: slice) -> Any:
    """The function (same arguments) → (results of ``main``, gradients of its first result for ``main.params[parameters]``)."""
    wanted = list(module["main"].params)[parameters]
    if not wanted:
        raise InvalidProgramError("the model has no trainable parameters; there is nothing to train")
    return relax.transform.Gradient("main", wanted)(module)["main_adjoint"]


def check_differentiable(function: Any, parameters: slice, names: Sequence[str]) -> None:
    """Check that the function's first result has a gradient for each of ``function.params[parameters]``.

    Raises:
        UnsupportedOperatorError: operators between them without a gradient, all in one error.
        InvalidProgramError: parameters that the result does not depend on, all in one error.
    """
    reached = {function.body.body.fields[0]}
    missing: dict[str, str] = {}
    for block in reversed(list(function.body.blocks)):
        for binding in reversed(list(block.bindings)):
            if binding.var not in reached:
                continue
            name = _operator(binding.value)
            if name in gradients.CONSTANT:
                continue
            if name is not None and Op.get(name).get_attr("FPrimalGradient") is None:
                missing.setdefault(name, str(binding.var.name))
            reached.update(v for v in variables_of(binding.value) if _carries_gradient(v))
    if missing:
        raise UnsupportedOperatorError(
            ", ".join(missing),
            where="; ".join(f"{place} ({name})" if len(missing) > 1 else place for name, place in missing.items()),
            found="no gradient",
            expected="an operator that can be trained through",
            remedy="freeze the part of the model before it, or write it with other operators",
        )
    unreached = [n for n, p in zip(names, list(function.params)[parameters], strict=True) if p not in reached]
    if unreached:
        raise InvalidProgramError(
            describe(
                "the loss does not depend on every parameter",
                found=f"no path from {', '.join(unreached)} to the loss",
                expected="parameters that are trained",
                remedy="set requires_grad=False on them before the import, or use them in the model's outputs",
            )
        )


def _operator(value: Any) -> str | None:
    return str(value.op.name) if isinstance(value, tvm.ir.Call) else None


def _carries_gradient(variable: Any) -> bool:
    fields = getattr(variable.ty, "fields", None)
    return any(str(t.dtype.dtype) in FLOATS for t in (fields if fields is not None else [variable.ty]))
