"""Fusion: neighbours become one kernel. Every element keeps its own scalar operations, so fusing cannot change a bit."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from gensyn_tvm.passes.rebuild import with_bindings
from gensyn_tvm.passes.rows import fuse_rows

_ENTRY = "main"
_CALL_TIR = "relax.call_tir"
_PATTERN = "op_pattern"
_REDUCE = 3  # the last of TVM's patterns that takes producers into its kernel


def fuse(module: Any, *, rows: bool) -> Any:
    """Merge elementwise, broadcasting and data-moving kernels into their neighbours, then, with ``rows``, what goes through the
    same rows.
    """
    passes = tvm.transform.Sequential(
        [
            _pass("OwnConstants", own_constants),
            relax.transform.FuseOps(fuse_opt_level=2),
            *([_pass("FuseRows", fuse_rows)] if rows else []),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
        ]
    )
    with tvm.transform.PassContext(opt_level=2):
        return passes(module)


def _pass(name: str, function: Any) -> Any:
    return tvm.transform.module_pass(lambda module, _context: function(module), opt_level=0, name=name)


def own_constants(module: Any) -> Any:
    """A module in which every kernel that can take a repeated constant into itself has its own: otherwise one that several
    kernels read would be an array in memory.
    """
    (block,) = module[_ENTRY].body.blocks
    sources: dict[Any, Any] = {}
    bindings = []
    for b in block.bindings:
        value = b.value
        if getattr(getattr(value, "op", None), "name", "") == _CALL_TIR:
            arguments = list(value.args[1].fields)
            if not arguments:
                sources[b.var] = value
            elif _pattern(module[value.args[0]]) <= _REDUCE and any(a in sources for a in arguments):
                for n, a in enumerate(arguments):
                    if a in sources:
                        arguments[n] = relax.DataflowVar("own", a.ty)
                        bindings.append(relax.VarBinding(arguments[n], sources[a]))
                call = relax.Call(value.op, [value.args[0], relax.Tuple(arguments)], value.attrs, value.ty_args)
                b = relax.VarBinding(b.var, call)
        bindings.append(b)
    return with_bindings(module, bindings)


def _pattern(function: Any) -> int:
    return int(dict(function.attrs).get(_PATTERN, _REDUCE + 1))
