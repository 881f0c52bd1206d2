"""What the converters of TensorFlow's operators see of a graph; it imports no TensorFlow, so TFLite files share them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gensyn_tvm.frontends.folding import FoldingEmitter

#: A Relax expression, or what else an importer lets flow through a graph.
Value = Any
Converter = Callable[[FoldingEmitter, list[Value], "Node"], Any]


class Node(Protocol):
    """What converters may ask about an operator besides its inputs."""

    @property
    def kind(self) -> str:
        """Name of the operator."""

    @property
    def outputs(self) -> int:
        """Number of outputs."""

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute; ``default`` if the operator has none of that name."""

    def dtype(self, position: int = 0) -> str:
        """Dtype name of an output."""
