"""What a case is; the cases themselves are in ``cases`` and ``cases_*``."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

from gensyn_tvm.canonical.types import TensorType


@dataclass(frozen=True)
class Case:
    """A single-operator graph with inputs."""

    name: str
    op: str
    shapes: tuple[tuple[tuple[int, ...], str], ...]
    attrs: dict[str, Any]
    special: bool = True

    @property
    def seed(self) -> int:
        return zlib.crc32(self.name.encode())

    def types(self) -> list[TensorType]:
        return [TensorType(shape, dtype) for shape, dtype in self.shapes]
