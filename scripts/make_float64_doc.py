"""Write the tables of coefficients of docs/numerics-float64.md: ``python scripts/make_float64_doc.py [--check]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gensyn_tvm.operators.elementary import coefficients

PAGE = Path(__file__).resolve().parent.parent / "docs" / "numerics-float64.md"
START, END = "<!-- coefficients: scripts/make_float64_doc.py -->", "<!-- end of coefficients -->"
#: Name in the document: name in the module.
TABLES = {"LOG.Q": "LOG_DOUBLE_SERIES", "EXP.T": "EXP_DOUBLE_TAIL"}


def section() -> str:
    """The generated part: one line for each table, lowest degree first."""
    lines = [START, "", "| polynomial | coefficients, lowest degree first |", "|---|---|"]
    for name, attribute in TABLES.items():
        lines.append(f"| {name} | {', '.join(f'`{c.hex()}`' for c in getattr(coefficients, attribute))} |")
    return "\n".join([*lines, "", END])


def main() -> None:
    """Write, or with --check compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    old = PAGE.read_text(encoding="utf-8")
    before, rest = old.split(START)
    new = before + section() + rest.split(END)[1]
    if check:
        sys.exit(0 if new == old else f"{PAGE.name} is out of date: run scripts/make_float64_doc.py")
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
