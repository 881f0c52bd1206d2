"""Which values of the forward part a training step computes again for its gradients instead of keeping them.

A choice is a set of nodes of the step's graph. It is no part of the graph: the compiler writes the nodes twice
(``gensyn_tvm.passes.recompute``), which changes memory and time but no digest and no bit. Segments of the forward part are
recomputed inside; what one segment hands to another is kept, and so is everything outside of segments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.passes.recompute import backward_nodes, estimated_peak, first_values, recompute, value_bytes

#: ``"sqrt"``, or patterns over places in the model.
Checkpoint = str | Sequence[str]

_SEPARATORS = ".:/"


def nodes_to_recompute(graph: Graph, checkpoint: Checkpoint | None) -> frozenset[int]:
    """Indices of the nodes that a training step's graph recomputes for its gradients.

    Args:
        graph: the graph of a training step; its first output is the loss.
        checkpoint: None for nothing. ``"sqrt"``: segments of about equal activations, cut where little passes from one to the
            next, as many as need the least memory; the last one is not recomputed (Chen et al. 2016, arXiv:1604.06174).
            Otherwise patterns over places (``"encoder.layers.*"``), in which ``*`` stands for one component of a place: all
            operators at or under the same expansion of a pattern are one segment.

    Raises:
        InvalidProgramError: a value of another kind, or a pattern that no place matches.
    """
    if checkpoint is None:
        return frozenset()
    if checkpoint == "sqrt":
        return _automatic(graph)
    patterns = isinstance(checkpoint, tuple | list) and checkpoint and all(isinstance(p, str) and p for p in checkpoint)
    if isinstance(checkpoint, str) or not patterns:
        raise InvalidProgramError(
            describe(
                f"unknown checkpoint {checkpoint!r}",
                expected='"sqrt", None, or a tuple of patterns over places in the model such as ("encoder.layers.*",)',
            )
        )
    return _matching(graph, checkpoint)


def forward_nodes(graph: Graph) -> list[int]:
    """Indices of the nodes that the loss depends on, in order."""
    firsts = first_values(graph)
    needed = {graph.outputs[0].value}
    found = []
    for k in reversed(range(len(graph.nodes))):
        if any(firsts[k] + i in needed for i in range(len(graph.nodes[k].types))):
            needed.update(graph.nodes[k].inputs)
            found.append(k)
    return found[::-1]


def _inner(graph: Graph, forward: Sequence[int], segments: Iterable[Iterable[int]]) -> frozenset[int]:
    """The nodes of segments whose values stay in their segment."""
    segment = {k: s for s, nodes in enumerate(segments) for k in nodes}
    firsts = first_values(graph)
    producer = {firsts[k] + i: k for k in forward for i in range(len(graph.nodes[k].types))}
    outer = {producer[o.value] for o in graph.outputs if o.value in producer}
    for k in forward:
        for v in graph.nodes[k].inputs:
            if v in producer and segment.get(producer[v]) != segment.get(k):
                outer.add(producer[v])
    return frozenset(k for k in segment if k not in outer)


# ---- patterns -------------------------------------------------------------------------------------------------------


def _matching(graph: Graph, patterns: Sequence[str]) -> frozenset[int]:
    forward = forward_nodes(graph)
    segments: dict[tuple[str, str], list[int]] = {}
    for k in forward:
        for pattern in patterns:
            match = _expression(pattern).match(graph.nodes[k].source)
            if match:
                segments.setdefault((pattern, match[1]), []).append(k)
                break
    unused = [p for p in patterns if all(p != pattern for pattern, _ in segments)]
    if unused:
        places = list(dict.fromkeys(graph.nodes[k].source for k in forward))
        shown = ", ".join(places[:8]) + (f" and {len(places) - 8} more" if len(places) > 8 else "")
        raise InvalidProgramError(
            describe(
                f"checkpoint patterns that no operator of their own matches: {', '.join(unused)}",
                found=f"the places {shown}",
                expected="the beginning of a place, with * for one of its components",
                remedy='give patterns of the model\'s modules, or checkpoint="sqrt"',
            )
        )
    return _inner(graph, forward, segments.values())


def _expression(pattern: str) -> re.Pattern[str]:
    """A place at or under an expansion of the pattern; the first group is the expansion."""
    text = f"[^{_SEPARATORS}]*".join(re.escape(part) for part in pattern.split("*"))
    return re.compile(f"({text})(?:[{_SEPARATORS}]|$)")


# ---- automatic segments ---------------------------------------------------------------------------------------------


def _automatic(graph: Graph) -> frozenset[int]:
    """The best of segmentations into 2, 3, 4, 6, 8, 12, … segments by estimated peak memory, the fewest on a tie."""
    forward, backward = forward_nodes(graph), backward_nodes(graph)
    firsts, sizes = first_values(graph), value_bytes(graph)
    read = {v for k in backward for v in graph.nodes[k].inputs}
    saved = [sum(sizes[v] for v in _values(graph, firsts, k) if v in read) for k in forward]
    crossing = _crossing_bytes(graph, forward)
    best, least = frozenset[int](), estimated_peak(graph)
    for count in _counts(sum(1 for s in saved if s)):
        chosen = _inner(graph, forward, _cut(forward, saved, crossing, count)[:-1])
        peak = estimated_peak(recompute(graph, chosen))
        if peak < least:
            best, least = chosen, peak
    return best


def _counts(most: int) -> list[int]:
    powers = [2**k for k in range(1, max(most, 2).bit_length())]
    return [n for p in powers for n in (p, p * 3 // 2) if n <= most and n <= 4 * math.isqrt(most) + 1]


def _values(graph: Graph, firsts: Sequence[int], k: int) -> range:
    return range(firsts[k], firsts[k] + len(graph.nodes[k].types))


def _crossing_bytes(graph: Graph, forward: Sequence[int]) -> list[int]:
    """For each forward node the bytes of forward values up to it that later forward nodes read."""
    firsts, sizes = first_values(graph), value_bytes(graph)
    last = {v: position for position, k in enumerate(forward) for v in graph.nodes[k].inputs}
    change = [0] * (len(forward) + 1)
    for position, k in enumerate(forward):
        for v in _values(graph, firsts, k):
            if last.get(v, position) > position:
                change[position] += sizes[v]
                change[last[v]] -= sizes[v]
    total, crossing = 0, []
    for position in range(len(forward)):
        total += change[position]
        crossing.append(total)
    return crossing


def _cut(forward: Sequence[int], saved: Sequence[int], crossing: Sequence[int], count: int) -> list[Sequence[int]]:
    """``count`` or fewer runs of forward nodes with about equal saved bytes, each cut where the least passes nearby."""
    total = sum(saved)
    gathered, sums = 0, []
    for s in saved:
        gathered += s
        sums.append(gathered)
    cuts = [0]
    for j in range(1, count):
        target, reach = total * j / count, total / (2 * count)
        near = [p for p in range(cuts[-1], len(forward) - 1) if abs(sums[p] - target) <= reach]
        if near:
            cuts.append(min(near, key=lambda p: (crossing[p], abs(sums[p] - target), p)) + 1)
    return [forward[a:b] for a, b in zip(cuts, [*cuts[1:], len(forward)], strict=True) if a < b]
