"""What surrounds a run: signals, the lock of its folder, the progress bar."""

from __future__ import annotations

import fcntl
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gensyn_tvm.errors import CheckpointError, describe


class Stop:
    """Turns the first SIGINT or SIGTERM into a wish, so that a step and a checkpoint are finished; the second one acts at once.

    Only in the main thread, where Python delivers signals.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _frame: Any) -> None:
        self.signal = number
        self.__exit__()

    def leave(self, step: int, saved: Path | None) -> None:
        """End the run as the signal asked."""
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt(f"stopped after step {step}" + (f"; saved as {saved}" if saved else ""))


@contextmanager
def folder_lock(folder: Path | None) -> Iterator[None]:
    """Nobody else writes checkpoints into ``folder``; the lock goes with the process, however it ends.

    Raises:
        CheckpointError: another run has it.
    """
    if folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            remedy = "wait for it, or use another folder"
            raise CheckpointError(
                describe("another run writes its checkpoints here", where=str(folder), remedy=remedy)
            ) from error
        yield


@contextmanager
def progress_bar(shown: bool, total: int | None, done: int) -> Iterator[Callable[[int, float], None]]:
    """A bar on standard error; yields a function of (steps done, loss)."""
    if not shown:
        yield lambda done, loss: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("training"), *columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total, completed=done, note="")
        yield lambda done, loss: bar.update(task, completed=done, note=f"loss {loss:.4f}")
