"""The stages of a chunked product: which belong together, and what annotations say about them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gensyn_tvm.operators.nest import INSIDE
from gensyn_tvm.schedules.blocks import role_of

REDUCTION = 2  # tirx.IterVar.CommReduce


@dataclass(frozen=True)
class Group:
    """The stages of one product: chunks, each with the sum of its results or None, and what adds those."""

    parts: tuple[tuple[Any, Any], ...]
    join: Any

    @property
    def result(self) -> Any:
        """The stage that holds the product."""
        chunk, total = self.parts[0]
        return self.join if self.join is not None else total if total is not None else chunk


def group_of(sch: Any, block: Any) -> Group:
    """The stages of the product to which a ``chunk`` stage belongs."""

    def with_role(blocks: Any, role: str) -> list[Any]:
        return [b for b in blocks if role_of(sch, b) == role]

    total = next(iter(with_role(sch.get_consumers(block), "total")), None)
    join = next(iter(with_role(sch.get_consumers(block if total is None else total), "join")), None)
    if join is None:
        return Group(((block, total),), None)
    parts = []
    for producer in sch.get_producers(join):
        chunks = with_role(sch.get_producers(producer), "chunk")
        parts.append((chunks[0], producer) if chunks else (producer, None))
    return Group(tuple(parts), join)


def hint(sch: Any, block: Any, name: str, default: int) -> int:
    """What a tuned record says (``parameters.HINTED``)."""
    return int(dict(sch.get(block).annotations).get(f"gensyn.{name}", default))


def packed_terms(sch: Any, block: Any) -> int:
    """Terms of the right operand that a product's kernel packs at a time; 0 if it packs none."""
    return int(dict(sch.get(block).annotations).get(INSIDE, 0))


def chunk_count(sch: Any, chunk: Any) -> int:
    """Chunks of a product that are full: the extent of the reduction of the total that follows, if any."""
    totals = [c for c in sch.get_consumers(chunk) if role_of(sch, c) == "total"]
    return math.prod(int(v.dom.extent) for t in totals for v in sch.get(t).iter_vars if int(v.iter_type) == REDUCTION)
