"""Canonical graphs as text: round trips, the digest, and damaged programs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tvm.relax import op

from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import Graph, GraphBuilder, Input, Output
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InvalidProgramError

from .relaxed import frozen


def _graph() -> Graph:
    b = GraphBuilder("toy")
    x = b.add_input("x", "input", TensorType((2, 3), "float32"))
    w = b.add_input("w", "parameter", TensorType((3, 4), "float32"))
    b.source = "fc:linear"
    y = b.emit("matmul", x, w)
    total = b.emit("sum", y, axes=(0, 1), keepdims=False)
    half = b.emit("constant", dtype="float32", shape=(), data="AAAAPw==")
    b.add_output("loss", b.emit("mul", total, half))
    b.add_output("w", b.emit("mul", w, half), updates=True)
    return b.finish()


def test_round_trip() -> None:
    graph = _graph()
    text = serialise.dumps(graph)
    assert serialise.loads(text) == graph
    assert serialise.dumps(serialise.loads(text)) == text
    assert text.isascii() and " " not in text


def test_digest_covers_structure_not_names() -> None:
    graph = _graph()
    renamed = replace(
        graph,
        name="other",
        inputs=tuple(replace(i, name=i.name + "_") for i in graph.inputs),
        nodes=tuple(replace(n, source="elsewhere") for n in graph.nodes),
        outputs=tuple(replace(o, name=o.name + "_") for o in graph.outputs),
    )
    assert serialise.digest(renamed) == serialise.digest(graph)
    swapped = replace(graph, outputs=graph.outputs[::-1])
    other_role = replace(graph, inputs=(graph.inputs[0], Input("w", "buffer", graph.inputs[1].type)))
    bigger = frozen(op.exp, np.zeros((2, 4), "float32"))
    digests = {serialise.digest(g) for g in (graph, swapped, other_role, bigger)}
    assert len(digests) == 4


def _set(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for step in path[:-1]:
            data = data[step]
        data[path[-1]] = to

    return change


def _drop(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for step in path[:-1]:
            data = data[step]
        del data[path[-1]]

    return change


MUTATIONS: dict[str, Callable[[dict[str, Any]], None]] = {
    "other format": _set("format", to="onnx"),
    "format version": _set("format_version", to=99),
    "version as text": _set("format_version", to="1"),
    "numerics version": _set("numerics", to="9.9"),
    "missing nodes": _drop("nodes"),
    "extra field": _set("comment", to="hi"),
    "unknown role": _set("inputs", 0, "role", to="weights"),
    "unknown dtype": _set("inputs", 0, "dtype", to="complex64"),
    "negative extent": _set("inputs", 0, "shape", 0, to=-2),
    "extent as float": _set("inputs", 0, "shape", 0, to=2.0),
    "extent as boolean": _set("inputs", 0, "shape", 0, to=True),
    "absurd extent": _set("inputs", 0, "shape", 0, to=2**50),
    "input shape that no longer fits": _set("inputs", 1, "shape", to=[4, 4]),
    "two inputs of one name": _set("inputs", 0, "name", to="w"),
    "name as number": _set("inputs", 0, "name", to=7),
    "use before definition": _set("nodes", 0, "inputs", to=[0, 5]),
    "negative value number": _set("nodes", 0, "inputs", to=[0, -1]),
    "value number as float": _set("nodes", 0, "inputs", to=[0, 1.0]),
    "too few inputs": _set("nodes", 0, "inputs", to=[0]),
    "wrong claimed shape": _set("nodes", 0, "outputs", 0, "shape", to=[2, 5]),
    "wrong claimed dtype": _set("nodes", 0, "outputs", 0, "dtype", to="float64"),
    "no claimed output": _set("nodes", 0, "outputs", to=[]),
    "missing attribute": _drop("nodes", 1, "attrs", "axes"),
    "extra attribute": _set("nodes", 1, "attrs", "fast", to=True),
    "float attribute": _set("nodes", 1, "attrs", "axes", to=[0.5]),
    "axis out of range": _set("nodes", 1, "attrs", "axes", to=[0, 2]),
    "unsorted axes": _set("nodes", 1, "attrs", "axes", to=[1, 0]),
    "keepdims as number": _set("nodes", 1, "attrs", "keepdims", to=0),
    "null attribute": _set("nodes", 1, "attrs", "axes", to=None),
    "constant too short": _set("nodes", 2, "attrs", "data", to="AAA="),
    "constant not base64": _set("nodes", 2, "attrs", "data", to="?!"),
    "output without value": _set("outputs", 0, "value", to=99),
    "negative output": _set("outputs", 0, "value", to=-1),
    "update of no state": _set("outputs", 0, "updates", to=True),
    "update of another shape": _set("outputs", 1, "value", to=2),
    "two outputs of one name": _set("outputs", to=[{"name": "a", "value": 2, "updates": False}] * 2),
    "no outputs": _set("outputs", to=[]),
    "updates as number": _set("outputs", 0, "updates", to=1),
    "source as list": _set("nodes", 0, "source", to=[]),
    "a list as node": _set("nodes", 0, to=[]),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_are_refused(name: str) -> None:
    data = copy.deepcopy(serialise.to_json(_graph()))
    MUTATIONS[name](data)
    with pytest.raises(InvalidProgramError):
        serialise.loads(json.dumps(data))


def test_unknown_operator_is_refused() -> None:
    data = serialise.to_json(_graph())
    data["nodes"][0]["op"] = "gelu"
    with pytest.raises(Exception, match="gelu"):
        serialise.loads(json.dumps(data))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "NaN", '"x"', "[" * 100_000, b"\xff\xfe"])
def test_not_a_program(text: str | bytes) -> None:
    with pytest.raises(InvalidProgramError):
        serialise.loads(text)


def test_truncations_are_refused() -> None:
    text = serialise.dumps(_graph())
    for length in range(0, len(text), 37):
        with pytest.raises(InvalidProgramError):
            serialise.loads(text[:length])


def test_outputs_may_share_a_value_and_be_inputs() -> None:
    b = GraphBuilder("same")
    x = b.add_input("x", "buffer", TensorType((), "int64"))
    b.add_output("x", x, updates=True)
    b.add_output("seen", x)
    graph = b.finish()
    assert graph.outputs == (Output("x", 0, True), Output("seen", 0, False))
    assert serialise.loads(serialise.dumps(graph)) == graph
