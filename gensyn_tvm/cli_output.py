"""What the command line prints: results, errors, progress."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gensyn_tvm.errors import UnsupportedOperatorError

Result = dict[str, Any]


def show(options: argparse.Namespace, result: Result) -> int:
    """Print what a command found, as lines or as JSON; returns 0."""
    if options.json:
        print(json.dumps(result))
        return 0
    width = max(map(len, result))
    for key, value in result.items():
        print(f"{key:<{width}}  {', '.join(value) if isinstance(value, list) else value}")
    return 0


def print_error(error: Exception, *, as_json: bool) -> None:
    """Print what went wrong: on standard error, or as JSON."""
    if as_json:
        found: Result = {"type": type(error).__name__, "message": str(error)}
        if isinstance(error, UnsupportedOperatorError):
            found["unsupported"] = [{"operator": name, "place": place} for name, place in error.places]
        print(json.dumps({"error": found}))
    else:
        print(f"error: {error}", file=sys.stderr)


def quiet(options: argparse.Namespace) -> bool:
    """Whether nobody watches standard error."""
    return bool(options.json) or not sys.stderr.isatty()


@contextmanager
def busy(text: str, options: argparse.Namespace) -> Iterator[None]:
    """A moving bar on standard error while the body runs; nothing if nobody is watching."""
    with progress(text, options):
        yield


@contextmanager
def progress(text: str, options: argparse.Namespace) -> Iterator[Callable[[int, int, float | None], None]]:
    """A progress bar on standard error; yields a function of (done, in all, loss)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    bar = Progress(
        *columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True, disable=quiet(options)
    )
    with bar:
        task = bar.add_task(text, total=None, note="")

        def report(done: int, total: int, loss: float | None) -> None:
            bar.update(task, completed=done, total=total, note="" if loss is None else f"loss {loss:.4f}")

        yield report
