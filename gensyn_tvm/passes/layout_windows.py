"""The layout of poolings: the padding is stored, so that windows are read in vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gensyn_tvm.canonical.graph import Node
from gensyn_tvm.operators.pooling import PADDED

if TYPE_CHECKING:
    from gensyn_tvm.passes.layout import Layouts


def pool(layouts: Layouts, node: Node) -> int:
    """The pooling with its input padded where that is a float of whole bytes that vectors hold."""
    (x,) = node.inputs
    if layouts.types[x].dtype not in ("float32", "float64"):
        return layouts.emit(node)
    return layouts.emit(Node(node.op, node.inputs, {**node.attrs, PADDED: True}, node.types, node.source))
