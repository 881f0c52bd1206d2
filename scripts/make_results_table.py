"""Put the committed results into README.md: ``python scripts/make_results_table.py [--demo REPORT] [--check]``.

``--demo`` first copies the report that ``make demo`` wrote (without the losses) to benchmarks/results/demo.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
#: Script and package are run from a checkout, which need not be installed.
sys.path.insert(0, str(ROOT))

from scripts.make_benchmarks_page import means_table, results  # noqa: E402

#: Groups of ``make bench`` that the table shows.
GROUPS = (
    *("gemm", "conv", "softmax", "norms", "elementwise"),
    *("inference_vs_torch", "inference_vs_onnxruntime", "inference_vs_torch_compile"),
    *("training_vs_torch", "training_vs_torch_compile"),
)
BEGIN, END = "<!-- results: begin -->\n", "<!-- results: end -->\n"


def record_demo(report: Path) -> None:
    """Keep what the table needs of a demonstration's report."""
    data = json.loads(report.read_text(encoding="utf-8"))
    del data["losses"]
    (RESULTS / "demo.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _digest_rows(demo: dict[str, Any]) -> list[str]:
    lines = ["| 100 training steps, same data, same seed | configurations | distinct digests of the weights |", "|---|---|---|"]
    for model in sorted(demo["accuracy"]):
        for who in ("gensyn_tvm", "PyTorch"):
            rows = [r for r in demo["rows"] if (r["model"], r["who"], r["what"]) == (model, who, "state after 100 steps")]
            lines.append(f"| {model}, {who} | {len(rows)} | **{len({r['digest'] for r in rows})}** |")
    return lines


def _time_rows(steps: dict[str, Any]) -> list[str]:
    head = f"| one training step, batch {steps['batch']} | gensyn_tvm | PyTorch eager | PyTorch's time / ours |"
    lines = [head, "|---|---|---|---|"]
    for row in steps["rows"]:
        ms = row["milliseconds"]
        threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        lines.append(f"| {row['model']}, {threads} | {ms['gensyn_tvm']:.2f} ms | {ms['torch']:.2f} ms | {row['ratio']:.2f} |")
    return lines


def table() -> str:
    """The tables, from the committed result files."""
    demo = json.loads((RESULTS / "demo.json").read_text(encoding="utf-8"))
    steps = json.loads((RESULTS / "training_step.json").read_text(encoding="utf-8"))
    machine = steps["machine"]
    accuracy = ", ".join(f"{name} {value:.2%}" for name, value in sorted(demo["accuracy"].items()))
    lines = [
        *_digest_rows(demo),
        "",
        *_time_rows(steps),
        "",
        f"Measured by `make bench-demo` on {machine['cores']} cores ({machine['levels'][-1]}), PyTorch {machine['torch']};",
        f"medians, in alternating blocks of one run. Test accuracy on the digits: {accuracy}.",
        "",
        *means_table(results(), GROUPS),
        "",
        "Above 1 we are faster; kernels are compared with the fastest peer of the same run. Measured by `make bench`.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Update or check README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, help="report.json of make demo")
    parser.add_argument("--check", action="store_true", help="exit 1 if README.md is out of date, and write nothing")
    options = parser.parse_args()
    if options.demo:
        record_demo(options.demo)
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    fresh = before + BEGIN + table() + END + rest.split(END)[1]
    if options.check:
        sys.exit(0 if fresh == text else "README.md is out of date: run python scripts/make_results_table.py")
    README.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    main()
