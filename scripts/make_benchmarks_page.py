"""Write docs/benchmarks.md and its plot from benchmarks/results/cpu.json, and what the files of other processors have.

python scripts/make_benchmarks_page.py [--check]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "cpu.json"
COMPILE_TIME = RESULT.with_name("compile_time.json")
PAGE, PLOT = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks.svg"
#: Script and package are run from a checkout, which need not be installed.
sys.path.insert(0, str(ROOT))

from benchmarks.cpu.report import AGAINST, milliseconds, summary  # noqa: E402
from benchmarks.cpu.roofline import Roof, bound  # noqa: E402
from scripts.generated_page import write_or_check  # noqa: E402

OURS = "gensyn_tvm"
LIMITS = """\
## What is slower, and what is known of why

* Elementary functions and what consists of them (softmax, GELU, SiLU, attention over short sequences): ours are correctly
  rounded for all inputs, in binary64 with half as many lanes; the peers' are approximations in binary32.
* Calls of small kernels: what each call costs beside its kernel ([cpu-limits.md](cpu-limits.md)). A product with an odd
  number of columns (31x77x129) also packs them first: vectors of its last columns would read beyond the rows.
* A product of one row with a transposed matrix: a chain of multiply-adds for each result reads the matrix in squares that are
  turned in registers ([cpu-limits.md](cpu-limits.md) has their bound).
* Causal attention over long sequences: PyTorch leaves out what the mask hides. Ours multiplies it, as the program says: a NaN
  or an infinity among the hidden values makes the product with a zero NaN.
* Convolutions of kernels of one position over large images, on Intel's processors: each channel of a tile lies in a page of
  its own, more than the first-level buffer of addresses has room for. Records choose the best layout that is known.
* Everything else kernel by kernel, beside the machine's bounds: [profiles.md](profiles.md).
"""


def _fraction(row: dict[str, Any], time: dict[str, Any], roofs: dict[int, Roof]) -> str:
    """Which part of the machine's rate our code reaches, or nothing where that was not measured."""
    roof = roofs.get(time["threads"])
    if roof is None or "work" not in row:
        return ""
    return f"{bound(roof, row['work']['flops'], row['work']['bytes']) / time['seconds'][OURS]:.0%}"


def _table(group: str, rows: Sequence[dict[str, Any]], roofs: dict[int, Roof]) -> list[str]:
    names = sorted({name for r in rows for t in r.get("times", []) for name in t["seconds"]} - {OURS})
    lines = [f"| {group} | threads | {' | '.join([OURS, *names])} | fastest peer / ours | of the roof |"]
    lines.append("|---" * (5 + len(names)) + "|")
    for row in rows:
        for time in row.get("times", []):
            times = [milliseconds(time["seconds"][n]) if n in time["seconds"] else "" for n in (OURS, *names)]
            ratio = f"{time['ratio']:.2f}" if time["ratio"] else ""
            cells = [row["case"], str(time["threads"]), *times, ratio, _fraction(row, time, roofs)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def results() -> list[dict[str, Any]]:
    """What the files hold, cpu.json first."""
    paths = [RESULT, *sorted(RESULT.parent.glob("cpu-*.json"))]
    return [json.loads(p.read_text(encoding="utf-8")) for p in paths]


def means_table(files: Sequence[dict[str, Any]], wanted: Sequence[str] = ()) -> list[str]:
    """The geometric means of each group, or of those that are wanted, a column for each processor.

    Where another processor has more cases, the number of those that were measured stands beside the mean.
    """
    means = [summary(data["rows"]) for data in files]
    lines = [f"| geometric means: peer's time / ours | {' | '.join(d['machine']['processor'] for d in files)} |"]
    lines.append("|---" * (1 + len(files)) + "|")
    for name in wanted or dict.fromkeys(n for m in means for n in m):
        group, _ = AGAINST.get(name, (name, ""))
        counts = [sum(r["group"] == group for r in data["rows"]) for data in files]
        few = [f" ({n} of {max(counts)})" if n < max(counts) else "" for n in counts]
        lines.append(
            f"| {name} | {' | '.join(f'{m[name]:.2f}{f}' if name in m else '' for m, f in zip(means, few, strict=True))} |"
        )
    return lines


def _other(data: dict[str, Any]) -> list[str]:
    """What another processor did: roofs and, of each case, the ratios."""
    machine = data["machine"]
    rates = "; ".join(
        f"{r['threads']} thread{'s' * (r['threads'] > 1)}: {r['flops'] / 1e9:.0f} GFLOP/s, {r['bytes'] / 1e9:.1f} GB/s copied"
        for r in data["roofs"]
    )
    threads = [r["threads"] for r in data["roofs"]]
    lines = ["", f"## {machine['processor']}", "", f"{machine['cores']} cores, {machine['level']}. {rates}.", ""]
    lines.append(f"| group | case | ours, ms | {' | '.join(f'fastest peer / ours, {t}' for t in threads)} |")
    lines.append("|---" * (3 + len(threads)) + "|")
    for row in data["rows"]:
        times = {t["threads"]: t for t in row.get("times", [])}
        ours = ", ".join(milliseconds(times[t]["seconds"][OURS]) for t in threads if t in times)
        ratios = [f"{times[t]['ratio']:.2f}" if t in times and times[t]["ratio"] else "" for t in threads]
        lines.append(f"| {row['group']} | {row['case']} | {ours} | {' | '.join(ratios)} |")
    return lines


def _compiling(data: dict[str, Any]) -> list[str]:
    """What building takes, first and again."""
    lines = [
        "",
        "## What building takes",
        "",
        "Seconds, each build in a process of its own: first with an empty cache, then again",
        "(`python -m benchmarks.compile_time`). *Import*: from the PyTorch module to a program; *graph*: the training step",
        f"made of it; *compile*: from there to an executable, parameters included. {data['processor']}.",
        "",
        "| network | import | graph | compile | import, again | graph, again | compile, again |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        cells = [f"{row[run][part]:.1f}" for run in ("first", "again") for part in ("import", "graph", "compile")]
        lines.append(f"| {row['model']}, {row['mode']} | {' | '.join(cells)} |")
    return lines


def page(data: dict[str, Any], others: Sequence[dict[str, Any]] = ()) -> str:
    """The page's text."""
    machine, rows = data["machine"], data["rows"]
    roofs = {r["threads"]: Roof(**r) for r in data.get("roofs", [])}
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        "# Speed on CPUs",
        "",
        "Generated by `python scripts/make_benchmarks_page.py` from `benchmarks/results/cpu*.json`, which `make bench` writes,",
        "a file for each processor. The tables are of the first; what others did is at the end.",
        f"{machine['processor']}, {machine['cores']} cores, {machine['level']}; {versions}.",
        "Medians in milliseconds, from blocks that take turns in one process. A ratio above 1 means that we are faster.",
        "",
        "*Of the roof*: the time that products at the rate of multiply-adds in registers, or one pass over inputs and outputs",
        "at the rate of copying through memory, would take, divided by ours; what fits into a cache can exceed 100%.",
        "",
        "| threads | multiply-adds, GFLOP/s | copy, GB/s read and written |",
        "|---|---|---|",
        *(f"| {r.threads} | {r.flops / 1e9:.0f} | {r.bytes / 1e9:.1f} |" for r in roofs.values()),
        "",
        *means_table([data, *others]),
        "",
        "![Ratios of all cases](benchmarks.svg)",
        "",
        *LIMITS.splitlines(),
    ]
    for group in dict.fromkeys(r["group"] for r in rows):
        lines += ["", f"## {group}", "", *_table(group, [r for r in rows if r["group"] == group], roofs)]
    lines += _compiling(json.loads(COMPILE_TIME.read_text(encoding="utf-8")))
    for other in others:
        lines += _other(other)
    return "\n".join(lines) + "\n"


def plot(data: dict[str, Any], path: Path) -> None:
    """A point for each case and number of threads, a column for each group."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "gensyn_tvm"
    from matplotlib import pyplot

    groups = list(dict.fromkeys(r["group"] for r in data["rows"]))
    figure, axes = pyplot.subplots(figsize=(10, 4.5), layout="constrained")
    for threads, marker in ((1, "o"), (data["machine"]["cores"], "x")):
        points = [
            (groups.index(r["group"]), t["ratio"])
            for r in data["rows"]
            for t in r.get("times", [])
            if t["ratio"] and t["threads"] == threads
        ]
        label = f"{threads} thread{'s' if threads > 1 else ''}"
        axes.scatter([p[0] for p in points], [p[1] for p in points], marker=marker, alpha=0.6, label=label)
    axes.set_yscale("log")
    axes.axhline(1.0, color="grey", linewidth=1)
    axes.set_xticks(range(len(groups)), groups, rotation=30, ha="right")
    axes.set_ylabel("fastest peer's time / ours")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Write or check the page."""
    data, *others = results()
    if write_or_check(__doc__, PAGE, page(data, others)):
        plot(data, PLOT)


if __name__ == "__main__":
    main()
