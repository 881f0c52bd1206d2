"""How the normal forms of two programs differ: whether they compute the same, and which of their parameters correspond."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from gensyn_tvm.canonical.access import slice_of
from gensyn_tvm.canonical.graph import Graph, Input
from gensyn_tvm.canonical.normal import NormalForm, Part, normalise
from gensyn_tvm.compiler import Source
from gensyn_tvm.evidence.digests import array_digest
from gensyn_tvm.graph_diff import GraphDiff, diff_graphs


@dataclass(frozen=True)
class StructureDiff:
    """The normal forms of two programs, compared.

    Attributes:
        digests: structure digests of both.
        pairs: of one computation: each input of the first with its counterpart in the second, where one is called or
            arranged in another way.
        weights: of one computation: whether all weights have the same bits; None if there are none.
        difference: how the normal forms differ, if they do.
    """

    digests: tuple[str, str]
    pairs: tuple[tuple[str, str], ...]
    weights: bool | None
    difference: GraphDiff | None

    @property
    def equal(self) -> bool:
        """Whether both compute the same."""
        return self.digests[0] == self.digests[1]

    def as_lines(self, names: tuple[str, str]) -> list[str]:
        """For people."""
        lines = [f"{name}: structure {digest}" for name, digest in zip(names, self.digests, strict=True)]
        if not self.equal:
            assert self.difference is not None
            # Their own digests name graphs that nobody has seen.
            return [*lines, "the normal forms differ:", *self.difference.as_lines(names)[2:]]
        weights = {None: "", True: ", with the same weights", False: ", with other weights"}[self.weights]
        lines.append(f"the same computation{weights}")
        return [*lines, *(f"  {a} | {b}" for a, b in self.pairs)]


def diff_structures(a: Source, b: Source) -> StructureDiff:
    """Compare two programs by their normal forms; parameters correspond if their bits are equal, else in their order."""
    forms = normalise(a.graph), normalise(b.graph)
    digests = forms[0].digest(), forms[1].digest()
    states = a.state.numpy(), b.state.numpy()
    if digests[0] == digests[1]:
        texts = [[_text(part, _declared(s.graph, part)) for part in f.parts] for s, f in zip((a, b), forms, strict=True)]
        pairs = tuple((x, y) for x, y in zip(*texts, strict=True) if x != y)
        return StructureDiff(digests, pairs, _same_weights(forms, states), None)
    graphs = forms[0].graph, _renamed(forms, states)
    return StructureDiff(digests, (), None, diff_graphs(*graphs, normal=True))


def _declared(graph: Graph, part: Part) -> Input:
    return graph.input_named(part.name)


def _text(part: Part, declared: Input) -> str:
    """The name, and what the normal form takes of it: ``w[0:6, :] transposed (1, 0)``."""
    access, shape = part.access, declared.type.shape
    plan = slice_of(access, shape)
    if plan is None:
        return f"{part.name}, elements from {list(access.starts)}"
    parts = [
        ":" if (start, limit, stride) == (0, extent, 1) else f"{start}:{limit}" + (f":{stride}" if stride != 1 else "")
        for start, limit, stride, extent in zip(*plan, shape, strict=True)
    ]
    text = part.name if all(p == ":" for p in parts) else f"{part.name}[{', '.join(parts)}]"
    order = [loop.axis for loop in access.loops]
    if order == sorted(order):
        return text
    axes = tuple(dict.fromkeys(order))
    return f"{text} transposed {axes}" if len(axes) == len(order) else f"{text} rearranged to {list(access.shape)}"


def _weights(form: NormalForm, state: Mapping[str, np.ndarray]) -> dict[int, str]:
    """Digest of the array of each input of a normal form that has one."""
    return {k: array_digest(part.of(state[part.name])) for k, part in enumerate(form.parts) if part.name in state}


def _same_weights(forms: tuple[NormalForm, NormalForm], states: tuple[Mapping[str, np.ndarray], ...]) -> bool | None:
    first, second = (_weights(form, state) for form, state in zip(forms, states, strict=True))
    return first == second if first or second else None


def _renamed(forms: tuple[NormalForm, NormalForm], states: tuple[Mapping[str, np.ndarray], ...]) -> Graph:
    """The second normal form, its inputs called as those of the first that hold the same bits."""
    first, second = (_weights(form, state) for form, state in zip(forms, states, strict=True))
    names: dict[str, list[str]] = {}
    for k, digest in first.items():
        names.setdefault(digest, []).append(forms[0].graph.inputs[k].name)
    own = {i.name for i in forms[0].graph.inputs}
    inputs: list[Input] = []
    for k, declared in enumerate(forms[1].graph.inputs):
        found = names.get(second.get(k, ""), [])
        name = found.pop(0) if found else declared.name
        # A name that the first has for something else must not be taken for it.
        strange = not found and k in second and name in own and second[k] not in first.values()
        inputs.append(replace(declared, name=f"{name} ({k})" if strange or name in {i.name for i in inputs} else name))
    return replace(forms[1].graph, inputs=tuple(inputs))
