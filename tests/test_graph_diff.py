"""``gensyn-tvm diff``: what differs is named, what is no part of the program is not counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.cli import main
from gensyn_tvm.compiler import Source
from gensyn_tvm.graph_diff import diff_graphs
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.runtime.packaging import save_source

VECTOR = TensorType((4,), "float32")


def graph(body: Callable[[GraphBuilder, int, int], int], *, names: tuple[str, str] = ("w", "b"), name: str = "g") -> Graph:
    """A graph of ``x`` and two parameters, with one output."""
    builder = GraphBuilder(name)
    x = builder.add_input("x", "input", VECTOR)
    first, second = (builder.add_input(n, "parameter", VECTOR) for n in names)
    builder.source = "layer"
    builder.add_output("y", body(builder, builder.emit("mul", x, first), second))
    return builder.finish()


def add(b: GraphBuilder, x: int, y: int) -> int:
    return b.emit("add", x, y)


def test_names_are_no_difference() -> None:
    found = diff_graphs(graph(add), graph(add, names=("kernel", "bias"), name="h"))
    assert found.equal and found.node is None and not found.inputs and not found.operators
    assert found.renamed == (("w", "kernel"), ("b", "bias"))
    assert found.as_lines(("a", "b"))[-1] == "the same program"


def test_another_operator() -> None:
    found = diff_graphs(graph(add), graph(lambda b, x, y: b.emit("neg", b.emit("sub", x, y))))
    assert not found.equal and found.operators == {"add": (1, 0), "neg": (0, 1), "sub": (0, 1)}
    assert found.node is not None and found.node.reasons == ("operator: add | sub",)
    assert found.node.first == "%4 = add(%3, %2) : float32[4]  # layer"
    text = "\n".join(found.as_lines(("a", "b")))
    assert "operators only in a: add\noperators only in b: neg, sub" in text
    assert "because of themselves or of what they read: 1 | 2" in text


def test_another_attribute_and_type() -> None:
    graphs = [graph(lambda b, x, y, s=s: b.emit("reshape", b.emit("add", x, y), shape=s)) for s in ((2, 2), (4, 1))]  # type: ignore[misc]
    node = diff_graphs(*graphs).node
    assert node is not None
    assert node.reasons == ("attribute shape: (2, 2) | (4, 1)", "type: float32[2, 2] | float32[4, 1]")


def test_other_operands() -> None:
    found = diff_graphs(graph(lambda b, x, y: b.emit("sub", x, y)), graph(lambda b, x, y: b.emit("sub", y, x)))
    assert found.node is not None and found.node.reasons == ("they read other values",)
    assert not found.operators and found.outputs == ("0, y | y: another value",)


def test_a_node_only_in_one() -> None:
    found = diff_graphs(graph(add), graph(lambda b, x, y: b.emit("neg", add(b, x, y))))
    assert found.node is not None and found.node.reasons == ("only in the second",)
    assert found.unmatched == (0, 1)


def test_another_order_of_nodes() -> None:
    def body(swapped: bool) -> Callable[[GraphBuilder, int, int], int]:
        def make(b: GraphBuilder, x: int, y: int) -> int:
            made = {op: b.emit(op, x) for op in (("neg", "abs") if swapped else ("abs", "neg"))}
            return b.emit("add", b.emit("sub", made["abs"], made["neg"]), y)

        return make

    found = diff_graphs(graph(body(False)), graph(body(True)))
    assert found.order and not found.equal and found.unmatched == (0, 0)
    assert found.as_lines(("a", "b"))[-1] == "the same nodes in another order"


def test_inputs() -> None:
    builder = GraphBuilder("g")
    x = builder.add_input("x", "input", TensorType((8,), "float32"))
    builder.add_output("y", builder.emit("neg", x))
    found = diff_graphs(graph(add), builder.finish())
    assert found.inputs == (
        "only in the first: parameter 'w' float32[4]",
        "only in the first: parameter 'b' float32[4]",
        "input 'x': float32[4] | float32[8]",
    )


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bodies = {"a": add, "b": lambda b, x, y: b.emit("sub", x, y)}
    paths = []
    for name, body in bodies.items():
        made = graph(body)
        state = State({i.name: np.zeros(4, np.float32) for i in made.inputs if i.role == "parameter"})
        paths.append(str(tmp_path / f"{name}.gtvm"))
        save_source(Path(paths[-1]), Source(made, state))
    assert main(["diff", paths[0], paths[0]]) == 0
    assert "the same program" in capsys.readouterr().out
    assert main(["diff", *paths]) == 1
    assert "operator: add | sub" in capsys.readouterr().out
    assert main(["diff", *paths, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] is False and found["operators"] == {"add": [1, 0], "sub": [0, 1]}
    assert main(["diff", paths[0], str(tmp_path / "absent.gtvm")]) == 1
    assert "not a valid .gtvm file" in capsys.readouterr().err
