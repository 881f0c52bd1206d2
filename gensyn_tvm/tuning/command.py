"""``gensyn-tvm tune``: from parsed options to records and what is said about them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.passes.layout import product_tasks
from gensyn_tvm.runtime.cpu import core_count, supported_levels
from gensyn_tvm.runtime.file import check_destination
from gensyn_tvm.schedules import records
from gensyn_tvm.targets.cpu import resolve_target
from gensyn_tvm.tuning.search import Report, Settings, tune


def run(options: argparse.Namespace, source: Any, *, quiet: bool) -> dict[str, Any]:
    """Tune the products of a program.

    Raises:
        InputError: options that do not apply, files that cannot be used, optuna missing.
        OSError: the library cannot be written; ``GENSYN_TVM_TUNED`` names another folder.
        TargetError: no such target.
        VerificationError: a candidate's bits are not the default's.
        KeyboardInterrupt: interrupted; the message says how to go on.
    """
    settings = _settings(options)
    found = product_tasks(source.graph, settings.target)
    tasks = {key: task for key, task in found.items() if (options.only or "") in key}
    if not tasks:
        expected = f"a program with products{' whose key contains the text of --only' if options.only else ''}"
        raise InputError(describe("there is nothing to tune", found=f"{len(found)} products", expected=expected))
    try:
        with _progress(len(tasks), quiet) as report:
            outcome = tune(tasks, settings, report)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; the same command goes on from {settings.journal}") from None
    result: dict[str, Any] = {"library": str(settings.library), "journal": str(settings.journal), "products": len(tasks)}
    result |= {"trials": outcome.trials, "unfinished": len(outcome.unfinished), "records": len(outcome.records)}
    return result | {key: f"{r.ratio:.3f} {r.parameters.given()}" for key, r in outcome.records.items()}


def _settings(options: argparse.Namespace) -> Settings:
    target = resolve_target(options.target)
    if target.kind == "c" or target.name not in supported_levels():
        expected = f"a target that this machine runs: {', '.join(supported_levels()) or 'there is none'}"
        raise InputError(describe("this target cannot be tuned here", found=target.name, expected=expected))
    threads = tuple(sorted(set(options.threads or (1, core_count()))))
    for name, value in (("--trials", options.trials), ("--time", options.time), ("--threads", threads[0])):
        if value is not None and not value > 0:
            raise InputError(f"{name} {value}; expected more than 0")
    place = records.folder()
    if place is None:
        raise InputError(f"{records.FOLDER} is off, so there is no library to write; set it to a folder, or unset it")
    journal, library = Path(options.journal), records.library(place, target.name, target.maker)
    place.mkdir(parents=True, exist_ok=True)
    check_destination(library)
    records.read(library, target.name)
    return Settings(target, options.trials, options.time, threads, journal, library)


@contextmanager
def _progress(tasks: int, quiet: bool) -> Iterator[Report]:
    """Two bars on standard error: products, and the trials of the present one with the best ratio."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(*columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True, disable=quiet)
    with bars:
        overall = bars.add_task("products", total=tasks, note="")
        present = bars.add_task("trials", total=None, note="")
        seen: list[str] = []

        def report(key: str, done: int, total: int, best: float | None) -> None:
            if key not in seen:
                seen.append(key)
            bars.update(overall, completed=len(seen) - 1, note=key[:60])
            bars.update(present, completed=done, total=total, note="" if best is None else f"best {best:.3f}")

        yield report
