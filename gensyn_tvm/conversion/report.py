"""What a conversion made: operators, parameters, sizes, and how it compares with the framework."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.conversion.training import TrainingVerification
from gensyn_tvm.conversion.verify import Verification
from gensyn_tvm.program import Program


@dataclass(frozen=True)
class Report:
    """A finished conversion.

    Attributes:
        model, framework: what was converted.
        kind: ``inference`` or ``training step``.
        program: digest of the canonical graph.
        inputs, outputs: types by name.
        operators: canonical operators with the number of their nodes.
        parameters, states: names of the arrays with their types.
        elements: in the parameters.
        array_bytes: of parameters and states.
        targets: for which the file has machine code.
        output, file_bytes: the file.
        verification: of inference; None if it was not asked for, or cannot be.
        training: of the training step; None likewise.
        note: what cannot be compared of a training step, and why.
    """

    model: str
    framework: str
    kind: str
    program: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    operators: Mapping[str, int]
    parameters: Mapping[str, str]
    states: Mapping[str, str]
    elements: int
    array_bytes: int
    targets: tuple[str, ...]
    output: str
    file_bytes: int
    verification: Verification | None
    training: TrainingVerification | None = None
    note: str = ""

    def as_object(self) -> dict[str, Any]:
        """For JSON; nothing in the model is unsupported, or there would be an error instead."""
        return {**asdict(self), "unsupported": []}

    def as_text(self) -> str:
        """For people."""
        width = max(map(len, self.operators), default=0)
        lines = [f"{self.framework} model {self.model}", f"operators ({sum(self.operators.values()):,} nodes)"]
        lines += [f"  {name:<{width}}  {count:>6,}" for name, count in self.operators.items()]
        for title, types in (("inputs", self.inputs), ("outputs", self.outputs)):
            lines.append(f"{title:<13} {', '.join(f'{name} {type_}' for name, type_ in types.items())}")
        lines.append(f"{'parameters':<13} {len(self.parameters):,} arrays, {self.elements:,} elements")
        lines.append(f"{'states':<13} {len(self.states):,} arrays; {self.array_bytes:,} bytes with the parameters")
        lines.append(f"{'unsupported':<13} nothing")
        if self.verification is None and self.training is None:
            lines.append(f"{'verification':<13} none (--no-verify)")
        if self.verification is not None:
            done = self.verification
            lines.append(f"{'verification':<13} largest relative difference {done.largest:.3g} from {done.reference}")
            lines.append(f"{'':<13} on random inputs of seed {done.seed}; at most {done.tolerance:g} is allowed")
        lines += self._training_lines()
        lines.append(f"{'program':<13} {self.program}, {self.kind}")
        lines.append(f"{'wrote':<13} {self.output}, {self.file_bytes:,} bytes, for {', '.join(self.targets) or 'no target'}")
        return "\n".join(lines)

    def _training_lines(self) -> list[str]:
        notes = [note for note in (self.note, self.training.note if self.training else "") if note]
        lines = []
        if self.training is not None and self.training.differences:
            step = self.training
            names = list(step.differences)
            parts = [
                (sum(n.startswith(start) for n in names), what)
                for start, what in (("gradient", "gradients"), ("next", "states"))
            ]
            lines.append(f"{'training':<13} largest relative difference {step.largest:.3g} from {step.reference}")
            counted = ", ".join(f"{n} {what}" for n, what in parts)
            lines.append(f"{'':<13} of one step: {step.loss}, {counted}; at most {step.tolerance:g} is allowed")
        return [*lines, *(f"{'training' if not lines else '':<13} {note}" for note in notes)]


def describe_graph(graph: Graph, program: Program) -> dict[str, Any]:
    """The fields of a report that a graph and its arrays determine."""
    types = graph.value_types()
    counts = Counter(node.op for node in graph.nodes)
    arrays = [*program.parameters.values(), *program.states.values()]
    return {
        "program": serialise.digest(graph),
        "inputs": {i.name: str(i.type) for i in graph.inputs if i.role in ("input", "target")},
        "outputs": {o.name: str(types[o.value]) for o in graph.outputs if not o.updates},
        "operators": dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        "parameters": {name: f"{a.dtype.name}{list(a.shape)}" for name, a in program.parameters.items()},
        "states": {name: f"{a.dtype.name}{list(a.shape)}" for name, a in program.states.items()},
        "elements": sum(a.size for a in program.parameters.values()),
        "array_bytes": sum(a.nbytes for a in arrays),
    }
