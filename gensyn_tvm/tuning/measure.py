"""Measurements by a process of their own, which is started again if it dies or takes too long."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

from gensyn_tvm.canonical import serialise
from gensyn_tvm.errors import GensynError, VerificationError, describe
from gensyn_tvm.passes.layout_tasks import Task
from gensyn_tvm.schedules.parameters import Parameters


@dataclass(frozen=True)
class Effort:
    """How long to measure: blocks of each side, and seconds of a block."""

    rounds: int
    seconds: float


SEARCH, CONFIRM = Effort(3, 0.03), Effort(6, 0.04)


class Refused(GensynError):
    """A candidate cannot be built, crashed, or took too long."""


class Measurer:
    """Measures candidates for one target; a context manager, which ends the process.

    Attributes:
        target: name.
        threads: numbers of threads that are measured.
        limit: seconds that one candidate may take.
    """

    def __init__(self, target: str, threads: tuple[int, ...], limit: float = 120.0) -> None:
        self.target, self.threads, self.limit = target, threads, limit
        self._child: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ratios(self, task: Task, parameters: Parameters, effort: Effort) -> list[float]:
        """The default's time divided by the candidate's, for each number of threads.

        Raises:
            Refused: the candidate cannot be measured.
            VerificationError: its bits are not the default's.
        """
        request = {
            "graph": serialise.dumps(task.graph()),
            "target": self.target,
            "key": task.key(),
            "parameters": parameters.given(),
            "threads": self.threads,
            "rounds": effort.rounds,
            "seconds": effort.seconds,
        }
        answer = self._ask(json.dumps(request))
        if "differs" in answer:
            raise VerificationError(
                describe(
                    "a schedule changes bits; this is an error of the compiler",
                    where=task.key(),
                    found=f"{parameters.given()}: other bits {answer['differs']}",
                    expected="those of the default schedule",
                    remedy="report it; no record has been kept",
                )
            )
        if "refused" in answer:
            raise Refused(answer["refused"])
        return [float(r) for r in answer["ratios"]]

    def _ask(self, request: str) -> dict[str, Any]:
        child = self._running()
        assert child.stdin
        try:
            child.stdin.write(request + "\n")
            child.stdin.flush()
            line = self._lines.get(timeout=self.limit)
        except (BrokenPipeError, queue.Empty) as error:
            self._end()
            raise Refused(f"no answer in {self.limit:g} seconds") from error
        if not line:
            status = child.wait()
            self._end()
            raise Refused(f"the process ended with status {status}")
        return dict(json.loads(line))

    def _running(self) -> subprocess.Popen[str]:
        if self._child is None:
            command = [sys.executable, "-m", "gensyn_tvm.tuning.child"]
            # A session of its own: the terminal's Ctrl-C is for the tuner, which then ends it.
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
            self._lines = queue.Queue()
            threading.Thread(target=_read, args=(self._child, self._lines), daemon=True).start()
        return self._child

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            with contextlib.suppress(BrokenPipeError):  # of a request that it no longer reads
                if self._child.stdin:
                    self._child.stdin.close()
            self._child = None


def _read(child: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Pass on what the child prints, and an empty line at its end."""
    assert child.stdout
    with child.stdout:
        for line in child.stdout:
            lines.put(line)
    lines.put("")
