"""A Relax module whose one function has other bindings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax

_ENTRY = "main"


def with_bindings(module: Any, bindings: Sequence[Any]) -> Any:
    """The module with these bindings in ``main``'s dataflow block, normalised and without what nothing reads."""
    function = module[_ENTRY]
    body = relax.SeqExpr([relax.DataflowBlock(bindings)], function.body.body)
    result = tvm.IRModule(module.functions, attrs=module.attrs)
    new = relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)
    result.update_func(module.get_global_var(_ENTRY), new)
    return relax.transform.DeadCodeElimination()(relax.transform.Normalize()(result))
