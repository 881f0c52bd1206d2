"""Write docs/gpu-roofline.md from benchmarks/gpu/kernels.json: ``python scripts/make_gpu_roofline.py [--check]``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: Script and package are run from a checkout, which need not be installed.
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_compile import TIMED, read_record  # noqa: E402
from benchmarks.gpu_roofline import BANDWIDTH, FLOPS, NAME, bound  # noqa: E402
from scripts.generated_page import write_or_check  # noqa: E402

PAGE = ROOT / "docs" / "gpu-roofline.md"

HEAD = f"""# What an {NAME} allows

No GPU has run these kernels yet; this page says what one could do at most, and what may keep a kernel below that. It follows
from what the assembler reports for `sm_90` and from counting, by `make gpu-compile` (`benchmarks/gpu/kernels.json`);
`scripts/make_gpu_roofline.py` writes it. The roof: {FLOPS / 1e12:.0f} TFLOP/s in binary32 outside of matrix units, and
{BANDWIDTH / 1e12:.2f} TB/s; kernels of more than {FLOPS / BANDWIDTH:.0f} operations for each byte are bound by arithmetic.

- *operations* are those in the source, with all iterations of all threads, those under a condition included; one in binary64
  counts as two, a division or a root as ten. Integers (places in arrays) are not counted.
- *MB* are the arrays of a kernel, each once: the least that memory sees. Of a table all rows count, also if few are read.
- *least time* is what the roof allows; *bound* says by what.
- *grid* are blocks x threads of a block: with fewer than 132 blocks multiprocessors are idle. *warps* is the part of the warps
  that a multiprocessor has room for, and what ends it.
- *wide* counts the instructions that move 16 bytes: global loads, shared loads.

| operator | | operations | MB | per byte | bound | least time | grid | registers | spilled | shared | warps | wide |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def _row(name: str, number: int, r: Mapping[str, Any]) -> str:
    seconds, what = bound(r)
    wide = ", ".join(str(r["wide"].get(key, 0)) for key in ("global loads", "shared loads")) if r["wide"] else ""
    cells = [name if not number else "", number + 1, f"{r['flops'] / 1e9:.2f} G", f"{r['bytes'] / 1e6:.1f}"]
    cells += [f"{r['flops'] / r['bytes']:.1f}", what, f"{seconds * 1e6:.0f} µs", f"{r['blocks']} x {r['threads']}"]
    cells += [r["registers"], r["spilled"], r["shared"], f"{r['occupancy']:.0%}, {r['limit']}", wide]
    return f"| {' | '.join(map(str, cells))} |"


def _seen(rows: Mapping[str, list[Mapping[str, Any]]]) -> str:
    """What stands out, in sentences."""
    kernels = [(name, r) for name, found in rows.items() for r in found]
    spilling = [name for name, r in kernels if r["spilled"]]
    few = list(dict.fromkeys(name for name, r in kernels if r["blocks"] < 132 and bound(r)[0] > 2e-6))
    low = list(dict.fromkeys(f"{name} ({r['occupancy']:.0%}, {r['limit']})" for name, r in kernels if r["occupancy"] < 0.25))
    lines = [
        f"- Registers spilled: {', '.join(spilling) or 'none'}.",
        f"- Fewer than 132 blocks, and more than 2 µs: {', '.join(few) or 'none'}.",
        f"- Fewer than a quarter of the warps: {', '.join(low) or 'none'}.",
    ]
    return "\n## What stands out\n\n" + "\n".join(lines) + "\n"


def page() -> str:
    """The page, from the committed record."""
    rows = {name.removeprefix(TIMED): r["roofline"] for name, r in read_record().items() if name.startswith(TIMED)}
    return HEAD + "\n".join(_row(name, k, r) for name, found in rows.items() for k, r in enumerate(found)) + "\n" + _seen(rows)


def main() -> None:
    """Write or check the page."""
    write_or_check(__doc__, PAGE, page())


if __name__ == "__main__":
    main()
