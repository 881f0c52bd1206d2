"""What ``gensyn-tvm trace`` finds, for people (with a table by rich) and for machines (JSON)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gensyn_tvm.evidence.compare import Comparison, Difference, compare_runs
from gensyn_tvm.evidence.hidden import Hidden, locate
from gensyn_tvm.evidence.nonfinite import Nonfinite
from gensyn_tvm.evidence.segments import INTERPRETER, SEGMENT, Way
from gensyn_tvm.evidence.trace import Trace, trace

if TYPE_CHECKING:
    from gensyn_tvm.compiler import Source

#: Differences that the table shows; the first explains the others in most cases.
ROWS = 20
_WIDTH_IN_A_FILE = 200


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        comparison: of two runs; None if only one was made.
        origins: operators that make NaN or infinity in the first run; None if nobody asked.
        changed: (way, output) of every output whose bits tracing changes.
        hidden: for every way in ``changed`` the stretch of the program that is to blame.
        drawn_from: seed of the batch; None if the caller gave it.
    """

    comparison: Comparison | None
    origins: tuple[Nonfinite, ...] | None
    changed: tuple[tuple[str, str], ...]
    hidden: tuple[tuple[str, Hidden], ...]
    drawn_from: int | None

    @property
    def clean(self) -> bool:
        """Whether nothing differs and, if asked for, no NaN and no infinity is made."""
        return not self.changed and not self.origins and (self.comparison is None or self.comparison.agree)

    def as_object(self) -> dict[str, Any]:
        """As a JSON object."""
        result: dict[str, Any] = {"clean": self.clean, "drawn_from_seed": self.drawn_from}
        c = self.comparison
        if c is not None:
            result |= {"a": str(c.a), "b": str(c.b), "tolerance": c.tolerance, "values": c.values}
            result |= {"differences": [_difference(d) for d in c.differences], "outputs": list(c.outputs)}
        result["changed_by_tracing"] = [list(pair) for pair in self.changed]
        result["hidden_by_tracing"] = [_hidden(way, found) for way, found in self.hidden]
        if self.origins is not None:
            result["nonfinite"] = [_origin(o) for o in self.origins]
        return result

    def print(self) -> None:
        """Print what was found."""
        if self.drawn_from is not None:
            print(f"the batch is drawn from seed {self.drawn_from}; --inputs reads another one")
        if self.comparison is not None:
            _print_comparison(self.comparison)
        for way, name in self.changed:
            print(
                f"tracing changes the output {name!r} of {way}: the whole program computes other bits than the segments whose "
                "values are all kept, so a fused kernel or its schedule is wrong (see gensyn-tvm inspect --diff legalise fuse)"
            )
        for way, found in self.hidden:
            print(f"{way}: {found}")
        if self.origins:
            print(f"NaNs or infinities begin at {len(self.origins)} operators, first at\n{self.origins[0]}")
        elif self.origins is not None:
            print("no operator makes NaN or infinity")


def examine(
    source: Source,
    given: Mapping[str, np.ndarray] | None,
    *,
    target: str = "native",
    against: str | None = None,
    tolerance: float | None = None,
    nonfinite: bool = False,
    seed: int = 0,
    segment: int = SEGMENT,
) -> Report:
    """Compare two runs of a program, and find where NaNs and infinities begin.

    Args:
        source, given, tolerance, seed, segment: as for ``compare_runs``.
        target, against: ways to run as ``Way.parse`` reads them; without ``against`` the reference is the interpreter, or
            nothing if only ``nonfinite`` is asked for.

    Raises:
        InputError: arrays that do not fit, texts that name no way, a tolerance or segment out of range.
        TargetError: no such target.
    """
    drawn = seed if given is None else None
    reference = against or (None if nonfinite else INTERPRETER)
    way = Way.parse(target)
    comparison: Comparison | None = None
    origins: tuple[Nonfinite, ...] | None
    if reference is None:
        run = _traced(source, given, way, seed, segment, keep=False)
        origins = run.origins
        changed = tuple((way, name) for name in run.changed)
    else:
        comparison = compare_runs(source, given, a=way, b=reference, tolerance=tolerance, seed=seed, segment=segment)
        origins = comparison.origins if nonfinite else None
        changed = tuple((comparison.a if which == "a" else comparison.b, name) for which, name in comparison.changed)
    hidden = []
    for wrong in dict.fromkeys(w for w, _ in changed):
        found = locate(_traced(source, given, wrong, seed, segment, keep=True))
        hidden += [(str(wrong), found)] if found else []
    return Report(comparison, origins, tuple((str(w), name) for w, name in changed), tuple(hidden), drawn)


def _traced(source: Source, given: Mapping[str, np.ndarray] | None, way: Way, seed: int, segment: int, *, keep: bool) -> Trace:
    return trace(
        source,
        given,
        target=way.target,
        schedule=way.schedule,
        threads=way.threads,
        seed=seed,
        segment=segment,
        keep=keep,
    )


def _hidden(way: str, found: Hidden) -> dict[str, Any]:
    operators = [{"operator": op, "place": place} for op, place in found.operators]
    return {"way": way, "values": list(found.values), "operators": operators, "differ": list(found.differ)}


def _difference(d: Difference) -> dict[str, Any]:
    result = {"value": d.number, "operator": d.op, "place": d.source, "type": str(d.type), "count": d.count}
    result |= {"index": list(d.index), "a": d.a, "b": d.b, "ulps": d.ulps, "error": d.error}
    return result | {"culprit": d.culprit, "inputs_equal": d.inputs_equal}


def _origin(o: Nonfinite) -> dict[str, Any]:
    result = {"value": o.number, "operator": o.op, "place": o.source, "type": str(o.type), "kind": o.kind}
    return result | {"count": o.count, "index": list(o.index), "operands": list(o.operands)}


def _print_comparison(c: Comparison) -> None:
    if c.differences:
        _print_table(c)
        print(f"{len(c.differences)} of {c.values} values differ between {c.a} and {c.b}; first:\n{c.first}")
    else:
        how = "in every bit" if c.tolerance is None else f"within {c.tolerance} of their largest magnitudes"
        print(f"all {c.values} values agree {how} between {c.a} and {c.b}")
    if c.outputs:
        print(f"outputs of the untraced programs that differ: {', '.join(c.outputs)}")


def _print_table(c: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_IN_A_FILE)
    table = Table()
    for column in ("value", "operator", "place", "type", "differ", "first at", str(c.a), str(c.b), "ulp", "cause"):
        table.add_column(Text(column), overflow="fold")
    for d in c.differences[:ROWS]:
        cause = "here" if d.culprit else "its inputs"
        ulps = "" if d.ulps is None else str(d.ulps)
        cells = (f"%{d.number}", d.op, d.source, str(d.type), str(d.count), str(list(d.index)), d.a, d.b, ulps, cause)
        table.add_row(*map(Text, cells))
    console.print(table)
    if len(c.differences) > ROWS:
        print(f"and {len(c.differences) - ROWS} more")
