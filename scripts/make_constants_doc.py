"""Put the measured constants into docs/reduction-constants.md: ``python scripts/make_constants_doc.py [--check]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: The script is run from a checkout, which need not be installed.
sys.path.insert(0, str(ROOT))

from scripts.generated_page import write_or_check  # noqa: E402

PAGE = ROOT / "docs" / "reduction-constants.md"
RESULT = ROOT / "benchmarks" / "results" / "reduction_constants.json"
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"


def _label(value: int | None) -> str:
    return "no limit" if value is None else f"{value:,}"


def _table(constant: str, rows: list[dict[str, Any]], chosen: int) -> list[str]:
    """Two tables of a constant: relative time and error."""
    values = [v["value"] for v in rows[0]["variants"]]
    head = " | ".join(f"**{_label(v)}**" if v == chosen else _label(v) for v in values)
    rule = "|---" * (len(values) + 2) + "|"
    times = [f"| {constant}: time relative to {chosen:,} | {head} | median at {chosen:,} |", rule]
    errors = [f"| {constant}: error on normal / uniform data | {head} |", "|---" * (len(values) + 1) + "|"]
    for row in rows:
        at = {v["value"]: v for v in row["variants"]}
        base = at[chosen]["microseconds"]["median"]
        ratios = " | ".join(f"{at[v]['microseconds']['median'] / base:.2f}" for v in values)
        times.append(f"| {row['case']} | {ratios} | {base:,.0f} µs |")
        pairs = " | ".join(f"{at[v]['error']['normal']:.2f} / {at[v]['error']['uniform']:.2f}" for v in values)
        errors.append(f"| {row['case']} | {pairs} |")
    return [f"### {constant.capitalize()}: {chosen:,}", "", *times, "", *errors, ""]


def tables() -> str:
    """The tables, from the committed result file."""
    data = json.loads(RESULT.read_text(encoding="utf-8"))
    machine = data["machine"]
    lines = [
        f"Measured on {machine['machine']} ({machine['level']}), {machine['threads']} thread, {machine['rounds']} rounds;",
        "the chosen value is bold.",
        "",
    ]
    for constant, chosen in data["chosen"].items():
        lines += _table(constant, [r for r in data["rows"] if r["constant"] == constant], chosen)
    return "\n".join(lines)


def main() -> None:
    """Write or check the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    write_or_check(__doc__, PAGE, before + BEGIN + tables() + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
