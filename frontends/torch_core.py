"""The Core ATen operator set, and what becomes of each of its operators; docs/aten.md is made of this."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gensyn_tvm.frontends.torch_operators import CONVERTERS
from gensyn_tvm.frontends.torch_refused import reason_of

#: Operators that no graph has which reaches the converters, and why.
_REPLACED = {
    "_native_batch_norm_legit.default": "functional form `_native_batch_norm_legit_functional`",
    "atan2.out": "functional form `atan2.default`",
    "col2im.default": "PyTorch's decomposition into `index_put`",
    "native_group_norm_backward.default": "PyTorch's decomposition",
    "native_layer_norm_backward.default": "PyTorch's decomposition",
    "resize_.default": "functional form `as_strided`",
    **dict.fromkeys(
        ("sym_is_contiguous.default", "sym_numel.default", "sym_size.int", "sym_storage_offset.default", "sym_stride.int"),
        "a number, because shapes are static",
    ),
}


@dataclass(frozen=True)
class Status:
    """What becomes of an operator.

    Attributes:
        kind: ``mapped`` (a converter), ``replaced`` (by other operators before the converters), ``refused`` or ``missing``.
        note: what it is replaced by, or why it is refused.
    """

    kind: str
    note: str = ""


def core_operators() -> list[str]:
    """All overloads that PyTorch tags as core, as ``name.overload``, sorted."""
    found = set()
    for schema in torch._C._jit_get_all_schemas():
        namespace, _, name = schema.name.partition("::")
        packet = getattr(torch.ops.aten, name, None) if namespace == "aten" else None
        overload = getattr(packet, schema.overload_name or "default", None)
        if overload is not None and torch.Tag.core in overload.tags:
            found.add(overload.__name__)
    return sorted(found)


def status_of(name: str) -> Status:
    """What becomes of ``name.overload``."""
    if name in CONVERTERS:
        return Status("mapped")
    if name in _REPLACED:
        return Status("replaced", _REPLACED[name])
    reason = reason_of(name)
    return Status("missing") if reason is None else Status("refused", reason)
