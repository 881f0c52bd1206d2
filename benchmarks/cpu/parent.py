"""Run the processes that measure, never two measurements at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cpu.suite import Job

ROOT = Path(__file__).resolve().parents[2]


def _start(job: Job, settings: dict[str, Any]) -> subprocess.Popen[str]:
    options = json.dumps({**settings, "cases": job.cases})
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.cpu.child", options]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _rows(job: Job, child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """What the child prints after the word; cases that it did not come to have failed."""
    assert child.stdin and child.stdout
    missing = list(job.cases)
    try:
        child.stdin.write("go\n")
        child.stdin.flush()
    except BrokenPipeError:
        pass  # it ended before it was ready, and its exit status says how
    for text in child.stdout:
        row = json.loads(text).get("row")
        if row:
            missing.remove((row["group"], row["case"]))
            yield row
    status = child.wait()
    for group, name in missing:
        yield {"group": group, "case": name, "failed": {"process": f"exit status {status}"}}


def run_jobs(jobs: Sequence[Job], settings: dict[str, Any], *, together: int) -> Iterator[dict[str, Any]]:
    """Rows as they are measured; ``together`` processes build at the same time, then they measure one after another."""
    for start in range(0, len(jobs), together):
        some = jobs[start : start + together]
        children = [_start(job, settings) for job in some]
        try:
            for child in children:
                assert child.stdout
                child.stdout.readline()
            for job, child in zip(some, children, strict=True):
                yield from _rows(job, child)
        finally:
            for child in children:
                child.kill()
                child.wait()
