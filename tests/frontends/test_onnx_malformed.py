"""Malformed ONNX models: each is refused with an error that says what is wrong and where, before any C++ code sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gensyn_tvm.frontends import onnx_structure
from gensyn_tvm.frontends.onnx import from_onnx
from tests.frontends.messages import refused

node = helper.make_node
Change = Callable[[onnx.ModelProto], None]


def value(name: str, shape: Any = (2, 3)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def base() -> onnx.ModelProto:
    """y = relu(x + w), r = max_pool(i)"""
    nodes = [
        node("Add", ["x", "w"], ["a"], name="add"),
        node("Relu", ["a"], ["y"], name="relu"),
        node("MaxPool", ["i"], ["r"], name="pool", kernel_shape=[2, 2], strides=[1, 1]),
    ]
    weights = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    inputs, outputs = [value("x"), value("i", (1, 1, 4, 4))], [value("y"), value("r", (1, 1, 3, 3))]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _deep(model: onnx.ModelProto) -> None:
    graph = model.graph
    for _ in range(40):
        attribute = graph.node.add(op_type="If").attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH)
        graph = attribute.g


def _functions(*calls: tuple[str, list[str]]) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for name, called in calls:
            values = [f"v{k}" for k in range(len(called) + 1)]
            body = [node(c, [values[k]], [values[k + 1]], domain="own") for k, c in enumerate(called)]
            function = helper.make_function("own", name, ["v0"], values[-1:], body, [helper.make_opsetid("own", 1)])
            model.functions.append(function)
        model.graph.node.append(node(calls[0][0], ["x"], ["called"], domain="own"))

    return change


def _equation(text: str) -> Change:
    return lambda m: m.graph.node.append(node("Einsum", ["x", "w"], ["sums"], name="einsum", equation=text))


def _set(path: str, new: Any) -> Change:
    """Assign to, for example, ``graph.node[0].name``; a list replaces a repeated field."""

    def change(model: onnx.ModelProto) -> None:
        where, _, last = path.rpartition(".")
        target = eval(f"model.{where}", {"model": model})  # paths are written in this file
        if isinstance(new, list):
            del getattr(target, last)[:]
            getattr(target, last).extend(new)
        else:
            setattr(target, last, new)

    return change


DIMS = "graph.initializer[0].dims"
STRIDES = "graph.node[2].attribute[1]"
CASES: dict[str, tuple[Change, str]] = {
    "nothing defines": (
        _set("graph.node[0].input", ["x", "gone"]),
        r"nothing defines\n  in: node 'add' \(Add\)\n.*input 'gone'",
    ),
    "circle": (_set("graph.node[0].input", ["x", "y"]), r"in a circle\n  in: node 'add'.*\n.*input 'y' of node 'relu'"),
    "order": (_set("graph.node[0].input", ["x", "r"]), r"used before it is defined\n  in: node 'add'.*\n.*node 'pool'"),
    "assigned twice": (_set("graph.node[1].output", ["a"]), r"used twice \(single assignment\)(.|\n)*'a'"),
    "two initializers": (
        lambda m: m.graph.initializer.add().CopyFrom(m.graph.initializer[0]),
        r"used twice \(initializers\)(.|\n)*'w'",
    ),
    "two inputs": (lambda m: m.graph.input.add().CopyFrom(m.graph.input[0]), r"used twice \(graph inputs\)(.|\n)*'x'"),
    "output": (_set("graph.output[0].name", "gone"), r"a graph output that nothing defines(.|\n)*'gone'"),
    "negative": (_set(DIMS, [-2, -3]), r"negative extent\n  in: tensor 'w'\n  found: \(-2, -3\)"),
    "little data": (
        _set(DIMS, [2, 300]),
        r"does not fit its shape\n  in: tensor 'w'\n  found: 24 bytes\n  expected: 2400 bytes",
    ),
    "huge": (_set(DIMS, [2**62, 2]), r"absurd extents\n  in: tensor 'w'"),
    "overflow": (_set(DIMS, [2**32, 2**32, 0]), r"absurd extents\n  in: tensor 'w'"),
    "rank": (_set(DIMS, [1] * 65), r"too many axes\n  in: tensor 'w'"),
    "element type": (_set("graph.initializer[0].data_type", 99), r"unknown element type\n  in: tensor 'w'\n  found: 99"),
    "wrong field": (
        lambda m: m.graph.initializer[0].CopyFrom(TensorProto(name="w", data_type=1, dims=[1], int64_data=[1])),
        r"FLOAT elements in the wrong field\n  in: tensor 'w'\n  found: int64_data",
    ),
    "negative input": (_set("graph.input[0].type.tensor_type.shape.dim[0].dim_value", -1), r"negative extent\n  in: value 'x'"),
    "huge input": (_set("graph.input[0].type.tensor_type.shape.dim[0].dim_value", 2**60), r"absurd extents\n  in: value 'x'"),
    "stride 0": (_set(f"{STRIDES}.ints", [0, 0]), r"outside its range\n  in: attribute 'strides' of node 'pool'.*\n.*\[0, 0\]"),
    "stride": (_set(f"{STRIDES}.ints", [2**40, 1]), r"outside its range\n  in: attribute 'strides' of node 'pool'"),
    "two values": (
        _set(f"{STRIDES}.f", 1.5),
        r"value is of another kind\n  in: attribute 'strides' of node 'pool'.*\n  found: f, ints",
    ),
    "kind": (_set(f"{STRIDES}.type", onnx.AttributeProto.FLOATS), r"value is of another kind(.|\n)*expected: FLOATS"),
    "no kind": (_set(f"{STRIDES}.type", 0), r"an attribute without a kind\n  in: attribute 'strides'"),
    **{
        f"equation {text}": (_equation(text), r"stray dots in an equation\n  in: attribute 'equation' of node 'einsum'")
        for text in ("i.j,jk->ik", "..ij,jk->ik", "....ij,jk->ik", "...i...j,jk->ik", "ij,jk->i.k")
    },
    "attribute twice": (_set(f"{STRIDES}.name", "kernel_shape"), r"used twice \(attributes\)\n  in: node 'pool'"),
    "reference": (_set(f"{STRIDES}.ref_attr_name", "s"), r"reference to an attribute outside of a function"),
    "NUL": (_set("graph.node[0].name", "a\0b"), r"a name with a NUL character(.|\n)*'a\\x00b'"),
    "no operator": (_set("graph.node[0].op_type", ""), r"a node without an operator"),
    "opset": (_set("opset_import[0].version", 2**40), r"absurd opset\n  in: domain 'ai.onnx'"),
    "deep": (_deep, r"nested too deeply"),
    "recursion": (_functions(("f", ["g"]), ("g", ["f"])), r"functions that call each other without end\n(.|\n)*own:f, own:g"),
    "expansion": (
        _functions(*((f"f{k}", [f"f{k + 1}"] * 2) for k in range(24)), ("f24", [])),
        r"functions expand to too many nodes",
    ),
    "long chain": (
        _functions(*((f"f{k}", [f"f{k + 1}"]) for k in range(99)), ("f99", [])),
        r"without end(.|\n)*calls in a row",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_in_memory(name: str) -> None:
    change, text = CASES[name]
    model = base()
    change(model)
    with refused(text) as info:
        from_onnx(model)
    assert str(info.value).startswith("onnx:ModelProto: not a valid ONNX model: ")


def test_the_model_is_valid_unchanged() -> None:
    assert from_onnx(base()).outputs == ("y", "r")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    data = base().SerializeToString().replace(b"relu", b"\xff\xfe\xfd\xfc")
    (tmp_path / "m.onnx").write_bytes(data)
    with refused("text that is not UTF-8"):
        from_onnx(tmp_path / "m.onnx")


def test_deep_models_in_memory_do_not_exhaust_the_stack() -> None:
    model = base()
    graph = model.graph
    for _ in range(5000):
        graph = graph.node.add(op_type="If").attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
    with refused("nested too deeply"):
        from_onnx(model)


def test_many_empty_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_structure, "MAX_MESSAGES", 1000)
    nodes = b"\x0a\x00" * 5000
    (tmp_path / "bomb.onnx").write_bytes(b"\x3a\x90\x4e" + nodes)
    with refused(r"too many parts\n  found: more than 1000 protobuf messages"):
        from_onnx(tmp_path / "bomb.onnx")


# ---- external data --------------------------------------------------------------------------------------------------


def _external(folder: Path, **entries: str) -> Path:
    model = base()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in entries.items():
        tensor.external_data.add(key=key, value=text)
    path = folder / "inside" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.SerializeToString())
    (folder / "inside" / "data").write_bytes(np.arange(8, dtype="<f4").tobytes())
    (folder / "secret").write_bytes(bytes(24))
    return path


FILES: dict[str, tuple[dict[str, str], str]] = {
    "parent": ({"location": "../secret"}, r"'\.\./secret'(.|\n)*a file in the model's folder"),
    "absolute": ({"location": "/etc/hostname"}, r"a file in the model's folder"),
    "empty": ({"location": ""}, r"a file in the model's folder"),
    "itself": ({"location": "."}, r"a file in the model's folder|no ordinary file"),
    "absent": ({"location": "gone"}, r"'gone': No such file"),
    "symbolic link": ({"location": "link"}, r"'link': (.*)\n  expected: an ordinary file, no link"),
    "linked folder": ({"location": "folder/secret"}, r"'folder/secret': (.*)\n  expected: an ordinary file, no link"),
    "hard link": ({"location": "hard"}, r"a file with several hard links"),
    "pipe": ({"location": "pipe"}, r"no ordinary file"),
    "offset": (
        {"location": "data", "offset": "16", "length": "24"},
        r"offset 16 and length 24\n  expected: .*32 bytes of 'data'",
    ),
    "length": ({"location": "data", "length": "32"}, r"32 bytes from offset 0\n  expected: 24 bytes for the shape \(2, 3\)"),
    "no length": ({"location": "data"}, r"32 bytes from offset 0\n  expected: 24 bytes"),
    "huge offset": ({"location": "data", "offset": "9" * 18}, r"cannot read the model's external data"),
    "negative": ({"location": "data", "offset": "-8"}, r"offset '-8'\n  expected: a number of bytes"),
}


@pytest.mark.parametrize("name", FILES)
def test_external_data_stays_inside(name: str, tmp_path: Path) -> None:
    entries, text = FILES[name]
    path = _external(tmp_path, **entries)
    (path.parent / "link").symlink_to(tmp_path / "secret")
    (path.parent / "folder").symlink_to(tmp_path)
    os.link(tmp_path / "secret", path.parent / "hard")
    os.mkfifo(path.parent / "pipe")
    with refused(text):
        from_onnx(path)


def test_external_data_is_read(tmp_path: Path) -> None:
    path = _external(tmp_path, location="data", offset="8", length="24")
    assert from_onnx(path).parameters["w"].tolist() == [[2, 3, 4], [5, 6, 7]]


def test_a_large_value_that_decides_a_shape() -> None:
    """Computing it would take 128 GiB."""
    one = onnx.numpy_helper.from_array(np.array([1], np.int64))
    nodes = [
        onnx.helper.make_node("ConstantOfShape", ["s"], ["c"], value=one),
        onnx.helper.make_node("ReduceSum", ["c"], ["k"]),
        onnx.helper.make_node("Reshape", ["x", "k"], ["y"]),
    ]
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [e]) for n, e in (("x", 4), ("y", "a")))
    size = onnx.numpy_helper.from_array(np.array([2**20, 2**14], np.int64), "s")
    graph = onnx.helper.make_graph(nodes, "large", [x], [y], [size])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    with refused("needs a large value at import\n  in: ConstantOfShape:c"):
        from_onnx(model)
