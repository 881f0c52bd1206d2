"""What a stretch of the pipeline changed: the functions of a program after two phases, and their unified differences."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.program import Program

if TYPE_CHECKING:
    from gensyn_tvm.compiler import Source
    from gensyn_tvm.targets.cpu import CpuTarget

#: Phases before the compiler's own: the frontend's Relax, Relax of inference, the canonical graph.
IMPORT, INFERENCE, CANONICAL = "import", "inference", "canonical"
_ENTRY = "main"

#: Text of each function by name.
Functions = Mapping[str, str]


@dataclass(frozen=True)
class FunctionDiff:
    """How one function changed.

    Attributes:
        name: of the kernel, or ``main`` for the program itself.
        change: ``added``, ``removed`` or ``changed``.
        lines: a unified diff, without its two header lines.
    """

    name: str
    change: str
    lines: tuple[str, ...]


def all_phases() -> tuple[str, ...]:
    """Names of the phases in order."""
    from gensyn_tvm.passes.pipeline import PHASES

    return (IMPORT, INFERENCE, CANONICAL, *PHASES)


def phase_functions(
    program: Program | Source, wanted: Sequence[str], target: str | CpuTarget = "native"
) -> dict[str, Functions]:
    """The functions of a program after each of the ``wanted`` phases.

    Args:
        program: an imported program, or, from the canonical graph on, a source.

    Raises:
        InputError: an unknown phase, or one that this program does not have.
    """
    for phase in wanted:
        if phase not in all_phases():
            raise InputError(f"unknown phase {phase!r}; expected one of {', '.join(all_phases())}")
        if phase in (IMPORT, INFERENCE) and not isinstance(program, Program):
            raise InputError(
                describe(
                    f"this program has no phase {phase!r}",
                    found="a canonical graph, which a .gtvm file begins with",
                    expected=f"one of {', '.join(all_phases()[2:])}",
                    remedy="name the model itself: file.onnx or file.py:function",
                )
            )
    found: dict[str, Functions] = {}
    if isinstance(program, Program):
        found.update(_before_the_freeze(program, wanted))
    if set(wanted) - set(found):
        found.update(_after_the_freeze(program, wanted, target))
    return {phase: found[phase] for phase in wanted}


def _before_the_freeze(program: Program, wanted: Sequence[str]) -> dict[str, Functions]:
    from gensyn_tvm.training.modes import for_inference

    found: dict[str, Functions] = {}
    if IMPORT in wanted:
        found[IMPORT] = _texts(program.module)
    if INFERENCE in wanted:
        found[INFERENCE] = _texts(for_inference(program).module)
    return found


def _after_the_freeze(program: Program | Source, wanted: Sequence[str], target: str | CpuTarget) -> dict[str, Functions]:
    from gensyn_tvm.commands import listing
    from gensyn_tvm.compiler import source_of
    from gensyn_tvm.passes.pipeline import run_phases
    from gensyn_tvm.targets.cpu import resolve_target

    graph = source_of(program).graph
    found: dict[str, Functions] = {CANONICAL: {_ENTRY: listing(graph)}}
    if set(wanted) <= {IMPORT, INFERENCE, CANONICAL}:
        return found
    resolved = resolve_target(target)

    def observe(phase: str, module: Any) -> None:
        if phase in wanted:
            found[phase] = _texts(module)

    run_phases(graph, resolved, "none" if resolved.kind == "c" else "fast", observe)
    return found


def _texts(module: Any) -> Functions:
    return {gv.name_hint: function.script(show_meta=False) for gv, function in module.functions_items()}


def difference(before: Functions, after: Functions, kernel: str | None = None) -> list[FunctionDiff]:
    """The functions that changed: ``main`` first, then by name.

    Args:
        before, after: as ``phase_functions`` gives them.
        kernel: only the function of this name.

    Raises:
        InputError: neither side has a function of that name.
    """
    names = sorted({*before, *after}, key=lambda n: (n != _ENTRY, n))
    if kernel is not None and kernel not in names:
        raise InputError(f"no function {kernel!r} after either phase; expected one of {', '.join(names)}")
    found = []
    for name in names if kernel is None else [kernel]:
        old, new = before.get(name, ""), after.get(name, "")
        if old != new:
            lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=3))[2:]
            change = "added" if name not in before else "removed" if name not in after else "changed"
            found.append(FunctionDiff(name, change, tuple(lines)))
    return found


def as_lines(diffs: Sequence[FunctionDiff], phases: tuple[str, str]) -> list[str]:
    """The whole difference as text: a summary, then for each function its name and its lines."""
    counts = {change: [d.name for d in diffs if d.change == change] for change in ("changed", "added", "removed")}
    lines = [f"{change}: {len(names)} ({', '.join(names)})" for change, names in counts.items() if names]
    for diff in diffs:
        lines += ["", f"--- {phases[0]}: {diff.name}" + (" (absent)" if diff.change == "added" else "")]
        lines += [f"+++ {phases[1]}: {diff.name}" + (" (absent)" if diff.change == "removed" else ""), *diff.lines]
    return lines or [f"no function differs between {phases[0]} and {phases[1]}"]


_STYLES = {"+++": "bold", "---": "bold", "@@": "cyan", "+": "green", "-": "red"}


def print_lines(lines: Sequence[str]) -> None:
    """Print a difference: coloured on a terminal, plain elsewhere."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for line in lines:
        style = next((style for start, style in _STYLES.items() if line.startswith(start)), "")
        console.print(Text(line, style=style), soft_wrap=True)
