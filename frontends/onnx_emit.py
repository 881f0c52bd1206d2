"""Emitting Relax for ONNX: values that have to be known at import, and what to do when they are not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gensyn_tvm.errors import ImportModelError, describe
from gensyn_tvm.frontends.emit import Expr
from gensyn_tvm.frontends.folding import FoldingEmitter


class ValuesNeededError(ImportModelError):
    """Shapes or attributes depend on the values of graph inputs.

    Attributes:
        inputs: the names of these inputs; ``values=`` fixes them.
    """

    def __init__(self, message: str, inputs: Sequence[str]) -> None:
        self.inputs = tuple(inputs)
        super().__init__(message)


class StoredNeededError(ImportModelError):
    """Shapes or attributes depend on initializers that are parameters or states.

    Attributes:
        names: these initializers.
    """

    def __init__(self, message: str, names: Sequence[str]) -> None:
        self.names = tuple(names)
        super().__init__(message)


class OnnxEmitter(FoldingEmitter):
    """Knows how to ask for what has to be known at import.

    Attributes:
        run_graph: runs a subgraph of the node being converted: (GraphProto, arguments) → its outputs.
        random_operators: how many random operators there are so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.run_graph: Any = None
        self.random_operators = 0

    def known(self, value: Expr | None, what: str) -> np.ndarray:
        """The array of a value that has to be known at import.

        Raises:
            UnsupportedOperatorError: it is missing.
            ValuesNeededError: it depends on graph inputs.
            StoredNeededError: it depends on parameters or states.
        """
        if value is None:
            raise self.refuse(f"no {what}", expected="an input")
        array = self.fold(value)
        if array is None:
            raise self._unknown(value, what)
        return array

    def _unknown(self, value: Expr, what: str) -> ImportModelError:
        origins = self.origins_of(value).union(*(self.origins_of(x) for x in self.extents_of(value).values()))
        inputs = sorted(name for name, stored in origins if not stored)
        names = inputs or sorted(name for name, _ in origins)
        listed = ", ".join(f"{name!r}: …" for name in names)
        message = describe(
            f"{self.operator!r} needs {what} at import",
            where=self.place,
            found=f"a value that depends on {'the inputs' if inputs else 'the parameters'} {', '.join(names)}",
            expected="a value that depends on constants only",
            remedy=f"from_onnx(model, values={{{listed}}}) fixes inputs" if inputs else "do not name them in trainable=",
        )
        return ValuesNeededError(message, names) if inputs else StoredNeededError(message, names)
