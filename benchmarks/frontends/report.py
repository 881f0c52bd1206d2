"""Rows as text, and what is wrong with them; imports no framework."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULT = Path(__file__).resolve().parent.parent / "results" / "frontends.json"


def problems(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row; nothing if the model imports, matches, trains and has equal bits."""
    if row.get("reason"):
        return [row["reason"]]
    found = [] if row["imported"] else ["not imported"]
    difference = row.get("max_difference")
    if difference is None or not difference <= row["tolerance"]:
        found.append(f"outputs differ by {difference}")
    if not row.get("trained"):
        found.append(f"losses {row.get('losses')}")
    if not row.get("loss_difference", 0.0) <= row.get("loss_tolerance", 0.0):
        found.append(f"the losses differ by {row['loss_difference']:.2g} from the framework's")
    if not row.get("equal_bits"):
        found.append("bits differ between targets")
    return found


def failures(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The names of the rows with problems."""
    return [f"{r['framework']} {r['source']} {r['model']}" for r in rows if problems(r)]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many rows there are and how many are in order."""
    return {"rows": len(rows), "in_order": len(rows) - len(failures(rows))}


def line(row: dict[str, Any]) -> str:
    """A row for the terminal."""
    numbers = [f"{key} {row[key]:.2g}" for key in ("max_difference", "loss_difference", "seconds") if row.get(key) is not None]
    name = row["framework"] if row["framework"] == row["source"] else f"{row['framework']}/{row['source']}"
    return f"{name:18} {row['model']:22} {'; '.join(problems(row)) or 'ok'} {', '.join(numbers)}"
