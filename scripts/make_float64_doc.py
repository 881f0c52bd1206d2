"""Write the tables of coefficients of docs/numerics-float64.md: ``python scripts/make_float64_doc.py [--check]``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: The script is run from a checkout, which need not be installed.
sys.path.insert(0, str(ROOT))

from gensyn_tvm.operators.elementary import coefficients  # noqa: E402
from scripts.generated_page import write_or_check  # noqa: E402

PAGE = ROOT / "docs" / "numerics-float64.md"
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
    """Write or check the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    write_or_check(__doc__, PAGE, before + section() + rest.split(END)[1])


if __name__ == "__main__":
    main()
