"""Reshapes that no kernel took into itself are views of memory, not kernels."""

from __future__ import annotations

from typing import Any

from tvm import relax

from gensyn_tvm.passes.rebuild import with_bindings

#: Attribute of a kernel that is nothing but a reshape.
VIEW = "gensyn.view"
_ENTRY = "main"
_CALL_TIR = "relax.call_tir"


def reshape_by_views(module: Any) -> Any:
    """``relax.reshape`` in place of calls of such kernels.

    TVM's ``RewriteDataflowReshape`` looks for kernels whose indices it can prove to be those of a reshape, which it cannot for
    many extents that are no powers of two.
    """
    (block,) = module[_ENTRY].body.blocks
    bindings = []
    for b in block.bindings:
        value = b.value
        if getattr(getattr(value, "op", None), "name", "") == _CALL_TIR and VIEW in dict(module[value.args[0]].attrs):
            (argument,) = value.args[1].fields
            b = relax.VarBinding(b.var, relax.op.reshape(argument, [int(e) for e in b.var.ty.shape]))
        bindings.append(b)
    return with_bindings(module, bindings)
