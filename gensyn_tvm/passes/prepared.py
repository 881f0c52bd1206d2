"""What depends on parameters only stays apart from what runs in each call, so that it can run once (``passes/calls.py``)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tvm import relax

from gensyn_tvm.canonical.from_relax import variables_of
from gensyn_tvm.passes.calls import pays
from gensyn_tvm.passes.memory import array_bytes
from gensyn_tvm.passes.rebuild import with_bindings

_ENTRY = "main"
_CALL_TIR = "relax.call_tir"
_PATTERN = "op_pattern"
_OPAQUE = 8


def keep_prepared(module: Any, fixed: Collection[int]) -> Any:
    """A module whose fusion leaves alone the last kernels of what can be computed once for a set of parameters.

    Otherwise the square root of a variance would run, in every call, within the convolution that is normalised by it.

    Args:
        module: legalised.
        fixed: numbers of the inputs that no output updates.
    """
    function = module[_ENTRY]
    (block,) = function.body.blocks
    apart = _last_prepared(function, block.bindings, fixed)
    builder = relax.BlockBuilder(module)
    copies: dict[Any, Any] = {}
    bindings = []
    for b in block.bindings:
        if b.var in apart:
            kernel = b.value.args[0]
            if kernel not in copies:
                copies[kernel] = builder.add_func(module[kernel].with_attr(_PATTERN, _OPAQUE), f"{kernel.name_hint}_prepared")
            call = relax.Call(b.value.op, [copies[kernel], *b.value.args[1:]], b.value.attrs, b.value.ty_args)
            b = relax.VarBinding(b.var, call)
        bindings.append(b)
    return with_bindings(builder.get(), bindings)


def _last_prepared(function: Any, bindings: Any, fixed: Collection[int]) -> set[Any]:
    """The variables that depend on fixed inputs only, are worth keeping, and are read by something that depends on more."""
    known = {v for k, v in enumerate(function.params) if k in fixed}
    made, read = set(), set()
    for b in bindings:
        variables = list(variables_of(b.value))
        if getattr(getattr(b.value, "op", None), "name", "") == _CALL_TIR and known.issuperset(variables):
            known.add(b.var)
            if variables and pays(array_bytes(b.var.ty), sum(array_bytes(v.ty) for v in variables)):
                made.add(b.var)
        else:
            read.update(variables)
    return made & read
