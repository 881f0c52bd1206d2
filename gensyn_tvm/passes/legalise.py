"""Canonical operators → deterministic TIR variants, through ``LegalizeOps`` with our map and nothing else."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

import tvm_ffi
from tvm import relax, s_tir

from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.operators.nest import ROLE
from gensyn_tvm.operators.registry import MOVES, VARIANTS
from gensyn_tvm.passes.lift import HINTS, PREFIX, Signature, call_attrs, call_signature, call_source
from gensyn_tvm.passes.views import ALONE, PART, VIEW, part_offset

# TVM's pattern kinds (relax/op_pattern.h), which decide what FuseOps may fuse.
_ELEMENTWISE, _BROADCAST, _INJECTIVE, _REDUCE, _OUT_FUSABLE, _OPAQUE = 0, 1, 2, 3, 4, 8

_PATTERNS: dict[str, int] = {
    **dict.fromkeys(("reshape", "transpose", "concat", "slice", "pad"), _INJECTIVE),
    **dict.fromkeys(("take", "gather_elements", "gather_nd", "reverse"), _INJECTIVE),
    **dict.fromkeys(("broadcast_to",), _BROADCAST),
    **dict.fromkeys(("sum", "prod", "reduce_max", "reduce_min"), _REDUCE),
    **dict.fromkeys(("matmul", "conv", "conv_backward_data", "conv_backward_weight"), _OUT_FUSABLE),
    **dict.fromkeys(("max_pool", "max_pool_indices", "max_pool_backward", "avg_pool", "avg_pool_backward"), _OPAQUE),
    **dict.fromkeys(("scatter_elements", "scatter_nd", "argsort", "cumsum", "cumprod", "suppress"), _OPAQUE),
    **dict.fromkeys(("argmax", "argmin", "random_bits", "pack", "image", "weave"), _OPAQUE),
}

_PATTERN_ATTR = "op_pattern"
#: Arrays that a concatenation takes into its kernel, at most. Of more, say the steps of a recurrent layer, each element would
#: select one, and what computes the last of them would be part of that.
_FEW_PARTS = 4


def _pattern(op: str, signature: Signature) -> int:
    if op == "concat" and len(signature.inputs) > _FEW_PARTS:
        return _OPAQUE
    if op in _PATTERNS:
        return _PATTERNS[op]
    # With one operand of the result's shape it may follow a product in the same kernel, also if another (a bias) is broadcast.
    return _ELEMENTWISE if any(t.shape == signature.output.shape for t in signature.inputs) else _BROADCAST


def _legalize(op: str) -> Callable[[Any, Any], Any]:
    def legalize(builder: Any, call: Any) -> Any:
        signature = call_signature(call)
        attrs = call_attrs(call)
        hints = attrs.pop(HINTS, ())  # operators know nothing of tuned records
        alone = attrs.pop(ALONE, False)
        function = _hinted(_BUILDERS[op](op, signature.inputs, signature.output, attrs), dict(hints))
        function = function.with_attr(_PATTERN_ATTR, _OPAQUE if alone else _pattern(op, signature))
        if op == "reshape":
            function = function.with_attr(VIEW, ALONE if alone else "")
        if op == "slice" and (offset := part_offset(signature.inputs[0], signature.output, attrs)) is not None:
            function = function.with_attr(PART, offset)
        return relax.call_tir(builder.add_func(function, op), list(call.args), call.ty)

    return legalize


def _hinted(function: Any, hints: Mapping[str, int]) -> Any:
    """The variant with the hints as annotations of its ``chunk`` stages, where schedules look for them."""
    if not hints:
        return function
    added = {f"gensyn.{name}": value for name, value in hints.items()}

    def block(stmt: Any, mutator: Any) -> Any:
        stmt = mutator.default_mutate(stmt)
        if stmt.annotations.get(ROLE) != "chunk":
            return stmt
        parts = (stmt.iter_vars, stmt.reads, stmt.writes, stmt.name_hint, stmt.body, stmt.init)
        return s_tir.SBlock(*parts, stmt.alloc_buffers, stmt.match_buffers, {**dict(stmt.annotations), **added})

    return function.with_body(tvm_ffi.structural_mutate(function.body, [(s_tir.SBlock, block)]))


_BUILDERS = ChainMap(VARIANTS, MOVES)
_MAP = {PREFIX + op: _legalize(op) for op in _BUILDERS}


def legalise(module: Any) -> Any:
    """Replace every canonical operator by its variant.

    Raises:
        UnsupportedOperatorError: an operator has no deterministic variant. There is no fallback to TVM's own
            legalisation: the map only knows ours.
    """
    for call in _calls(module):
        name = call.op.name
        if name not in _MAP:
            raise UnsupportedOperatorError(
                name.removeprefix(PREFIX),
                where=call_source(call) if name.startswith(PREFIX) else "",
                found="no deterministic variant",
                expected="an operator of docs/operators.md",
                remedy="write the model with supported operators, or add a variant to gensyn_tvm/operators",
            )
    return relax.transform.LegalizeOps(_MAP, skip_ops=None, enable_warning=False)(module)


def _calls(module: Any) -> list[Any]:
    """Calls of operators in the program's function."""
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, relax.Call) and hasattr(node.op, "name"):
            found.append(node)

    for _, function in module.functions_items():
        if isinstance(function, relax.Function):
            relax.analysis.post_order_visit(function.body, visit)
    return found
