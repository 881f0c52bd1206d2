"""The files of results, one for each processor."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.cpu.roofline import Roof
from gensyn_tvm.runtime.cpu import core_count, processor_name, supported_levels

RESULT = Path(__file__).resolve().parents[1] / "results" / "cpu.json"


def machine() -> dict[str, Any]:
    """Processor and versions."""
    libraries = ("torch", "onnxruntime", "numpy", "apache-tvm", "transformers")
    return {
        "machine": platform.machine(),
        "processor": processor_name(),
        "level": supported_levels()[-1] if supported_levels() else "",
        "cores": core_count(),
        "versions": {name: metadata.version(name) for name in libraries},
    }


def file_of_this_machine(first: Path = RESULT) -> Path:
    """The ``first`` file if it is of this machine or of none, else one beside it that is named by the processor."""
    if not first.exists() or json.loads(first.read_text(encoding="utf-8"))["machine"]["processor"] == processor_name():
        return first
    return first.with_name(f"{first.stem}-{re.sub('[^a-z0-9]+', '-', processor_name().lower()).strip('-')}.json")


def measured_here(path: Path) -> dict[str, Any]:
    """What a file of results holds; nothing if another processor was measured: ratios of two machines are not comparable."""
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    here = machine()
    same = all(data.get("machine", here)[key] == here[key] for key in ("processor", "cores"))
    return data if same else {"rows": []}


class Results:
    """Rows by group and case, kept in a file if there is a path; a row with the same key replaces the earlier one.

    A file of another machine is begun anew.
    """

    def __init__(self, path: Path | None, roofs: Sequence[Roof] = ()) -> None:
        self.path = path
        data = measured_here(path) if path else {"rows": []}
        self.roofs = [asdict(r) for r in roofs] or data.get("roofs", [])
        self._rows = {(r["group"], r["case"]): r for r in data["rows"]}

    def rows(self) -> list[dict[str, Any]]:
        """All rows."""
        return list(self._rows.values())

    def done(self) -> set[tuple[str, str]]:
        """Keys of the rows that need not be measured again."""
        return {key for key, row in self._rows.items() if row.get("agrees")}

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row; the file is replaced as a whole, so that it is never half written."""
        self._rows[row["group"], row["case"]] = row
        if self.path:
            text = json.dumps({"machine": machine(), "roofs": self.roofs, "rows": self.rows()}, indent=1)
            part = self.path.with_suffix(".part")
            part.write_text(text + "\n", encoding="utf-8")
            os.replace(part, self.path)
