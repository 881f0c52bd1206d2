"""Rows as text, their geometric means, and comparison of their digests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.cpu.cases import KERNEL_GROUPS

Row = dict[str, Any]

#: Names of the figures for whole networks: group, peer.
AGAINST: dict[str, tuple[str, str]] = {
    "inference_vs_torch": ("inference", "torch"),
    "inference_vs_onnxruntime": ("inference", "onnxruntime"),
    "inference_vs_torch_compile": ("inference", "torch.compile"),
    "training_vs_torch": ("training", "torch"),
    "training_vs_torch_compile": ("training", "torch.compile"),
}

#: Cases with a ratio below this are profiled.
SLOWER = 0.95


def geometric_mean(values: Iterable[float]) -> float | None:
    """None without values."""
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """For each group that was measured the mean over its cases and numbers of threads."""
    means: dict[str, float | None] = {}
    for group in KERNEL_GROUPS:
        means[group] = geometric_mean(t["ratio"] for r in rows if r["group"] == group for t in r.get("times", []) if t["ratio"])
    for name, (group, peer) in AGAINST.items():
        times = [t["ratios"] for r in rows if r["group"] == group for t in r.get("times", [])]
        means[name] = geometric_mean(t[peer] for t in times if peer in t)
    return {name: round(value, 3) for name, value in means.items() if value is not None}


def milliseconds(seconds: float) -> str:
    """Three significant digits."""
    return f"{1e3 * seconds:.3g}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"


def line(row: Row) -> str:
    """A row as text."""
    parts = [f"{row['group']:11} {row['case']:28}"]
    for t in row.get("times", []):
        times = ", ".join(f"{name} {milliseconds(s)}" for name, s in t["seconds"].items())
        parts.append(f"| {t['threads']} thr: {times} ms, ratio {t['ratio']:.2f}" if t["ratio"] else f"| {times} ms")
    if "agrees" in row and not row["agrees"]:
        parts.append(f"| OUTPUTS DIFFER: {row['differences']}")
    parts += [f"| {name} FAILED: {' '.join(why.split())}" for name, why in row["failed"].items()]
    return " ".join(parts)


def changed_digests(rows: Sequence[Row], committed: Sequence[Row]) -> list[str]:
    """What to say of each row whose digest is not the committed one, or that has none there."""
    expected = {(r["group"], r["case"]): r.get("digest") for r in committed}
    texts = []
    for r in rows:
        known = expected.get((r["group"], r["case"]))
        if known is None:
            texts.append(f"{r['group']}, {r['case']}: no digest is committed; make bench records it")
        elif r.get("digest") != known:
            texts.append(f"{r['group']}, {r['case']}: digest {r.get('digest')}, committed {known}: the bits have changed")
    return texts
