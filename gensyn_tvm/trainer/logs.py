"""Logs of a run: a CSV file and TensorBoard events. Numbers are the program's own, written so that they read back exactly."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.trainer.files import replace_file


class Log(Protocol):
    """Receives the numbers of a run; an object with these methods can be handed to ``Trainer``."""

    def begin(self, step: int) -> None:
        """The run begins, or is continued after ``step`` steps: what was logged for later steps is void."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers after ``step`` steps, by name: epoch, learning_rate, loss, metrics, ``evaluation/…``, seconds."""

    def close(self) -> None:
        """The run has ended, however it ended."""


class CsvLog:
    """A CSV file with a line for each logged step; a column is empty where a step has no such number.

    Args:
        path: the file; its folder must exist.

    Raises:
        InputError: the file that is there has other columns.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._columns: list[str] = []
        self._stream: Any = None

    def begin(self, step: int) -> None:
        """See ``Log``. A new run begins a new file."""
        self._columns, rows = self._read() if step and self.path.exists() else ([], [])
        self._rewrite([row for row in rows if row["step"].isdecimal() and int(row["step"]) <= step])

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """See ``Log``."""
        row = {"step": str(step), **{name: str(value) for name, value in values.items()}}
        added = [name for name in row if name not in self._columns]
        if added:
            _, rows = self._read()
            self._columns += added
            self._rewrite(rows)
        csv.DictWriter(self._stream, self._columns, restval="", lineterminator="\n").writerow(row)
        self._stream.flush()

    def close(self) -> None:
        """See ``Log``."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        with open(self.path, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or [])
            # A line that a killed run did not finish has too few columns.
            rows = [row for row in reader if None not in row.values() and None not in row]
        if columns and columns[0] != "step":
            raise InputError(
                describe("this is no log", where=str(self.path), found=f"columns {columns}", expected="step and others")
            )
        return columns, rows

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        self.close()
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", lineterminator="\n")
        if self._columns:
            writer.writeheader()
        writer.writerows(rows)
        replace_file(self.path, text.getvalue().encode("utf-8"))
        self._stream = open(self.path, "a", newline="", encoding="utf-8")  # noqa: SIM115 (closed by close)


class TensorBoardLog:
    """TensorBoard events, through the package tensorboardX.

    Args:
        folder: where the event files go.

    Raises:
        InputError: tensorboardX is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._writer: Any = None
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            remedy = 'pip install "gensyn_tvm[train]", or leave the TensorBoard log out'
            raise InputError(
                describe("a TensorBoard log needs the package tensorboardX", found=str(error), remedy=remedy)
            ) from error

    def begin(self, step: int) -> None:
        """See ``Log``."""
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """See ``Log``."""
        for name, value in values.items():
            self._writer.add_scalar(name, float(value), step)

    def close(self) -> None:
        """See ``Log``."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
