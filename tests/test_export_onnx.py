"""Programs as ONNX files: read again they have the same bits, and ONNX Runtime computes the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import gensyn_tvm
from gensyn_tvm import interpreter
from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.normal import structure_digest
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.cli import main
from gensyn_tvm.compiler import Source, source_of
from gensyn_tvm.errors import InvalidProgramError, UnsupportedOperatorError
from gensyn_tvm.export.onnx import PARAMETERS, to_onnx
from gensyn_tvm.export.onnx_operators import APPROXIMATE, ENTRIES
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.runtime.packaging import save_source
from tests.fuzz.generate import graph as random_graph
from tests.fuzz.generate import inputs as values_for
from tests.one_digest import in_torch

TOLERANCE = 2e-5  # of the largest magnitude: both are float32 with other orders of summation


def parameters_of(model: onnx.ModelProto) -> list[str]:
    (entry,) = (p for p in model.metadata_props if p.key == PARAMETERS)
    return entry.value.split("\n") if entry.value else []


def again(model: onnx.ModelProto) -> Source:
    """The program of an exported model."""
    return source_of(gensyn_tvm.from_onnx(model, trainable=parameters_of(model)))


NETWORKS = ("mlp", "cnn", "lstm", "block", "gelu", "flattened")


@pytest.mark.filterwarnings("ignore:.*is shared by")
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_there_and_back(network: str) -> None:
    source = source_of(getattr(in_torch, network)())
    model = to_onnx(source)
    found = again(model)
    assert structure_digest(found.graph) == structure_digest(source.graph)
    # Constants of a GELU stand before the operators that use them; in the file they do not.
    assert (serialise.digest(found.graph) == serialise.digest(source.graph)) == (network != "gelu")
    assert [(i.name, i.role, i.type) for i in found.graph.inputs] == [(i.name, i.role, i.type) for i in source.graph.inputs]
    for name, array in source.state.numpy().items():
        assert found.state[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("network", NETWORKS)
def test_onnx_runtime(network: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    source = source_of(getattr(in_torch, network)())
    session = onnxruntime.InferenceSession(to_onnx(source).SerializeToString(), providers=["CPUExecutionProvider"])
    (declared,) = (i for i in source.graph.inputs if i.role == "input")
    x = np.random.Generator(np.random.Philox(3)).standard_normal(declared.type.shape).astype(np.float32)
    (theirs,) = session.run(None, {declared.name: x})
    (ours,) = interpreter.run(source.graph, {**source.state.numpy(), declared.name: x})
    scale = float(np.abs(ours).max())
    np.testing.assert_allclose(theirs / scale, ours / scale, atol=TOLERANCE, rtol=0)


def empty(graph: Graph) -> Source:
    """A graph without parameters as a program."""
    return Source(graph, State({}))


@pytest.mark.parametrize("block", range(2))
def test_random_graphs_there_and_back(block: int) -> None:
    """Whatever can be exported has the same bits when it is read again; special values among the inputs."""
    exported = 0
    for seed in range(block * 100, block * 100 + 100):
        graph = random_graph(seed)
        if any(0 in t.shape for t in graph.value_types()):
            continue
        try:
            model = to_onnx(empty(graph))
        except UnsupportedOperatorError:
            continue
        exported += 1
        found, given = again(model), values_for(graph)
        expected = interpreter.run(graph, given)
        results = interpreter.run(found.graph, {i.name: given[i.name] for i in found.graph.inputs})
        for output, a, b in zip(graph.outputs, expected, results, strict=True):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), (seed, output.name)
    assert exported > 30


def test_trained_parameters_and_buffers(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))
    program = gensyn_tvm.from_torch(module, (torch.zeros(4, 5),))
    changed = {name: array + 1 for name, array in {**program.parameters, **program.states}.items()}
    gensyn_tvm.export_onnx(program, tmp_path / "m.onnx", state=changed)
    model = onnx.load_model(tmp_path / "m.onnx")
    found = again(model)
    assert {i.name: i.role for i in found.graph.inputs}["1.running_mean"] == "buffer"
    for name in ("0.weight", "1.running_mean", "1.running_var", "1.weight"):
        assert found.state[name].tobytes() == changed[name].tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    exe = gensyn_tvm.compile(program, "c")
    assert to_onnx(exe).SerializeToString() == to_onnx(program).SerializeToString()


@pytest.mark.parametrize(
    ("strides", "padding", "extra", "dilations", "groups"), [(2, 1, 1, 1, 1), (3, 0, 2, 1, 2), (1, 2, 0, 2, 1), (2, 1, 0, 1, 2)]
)
def test_transposed_convolutions(strides: int, padding: int, extra: int, dilations: int, groups: int) -> None:
    import torch

    torch.manual_seed(0)
    layer = torch.nn.ConvTranspose2d(4, 6, 3, strides, padding, extra, groups, dilation=dilations)
    source = source_of(gensyn_tvm.from_torch(layer, (torch.zeros(2, 4, 5, 6),)))
    assert "conv_backward_data" in {n.op for n in source.graph.nodes}
    found = again(to_onnx(source))
    x = np.random.default_rng(1).standard_normal((2, 4, 5, 6)).astype(np.float32)
    given = {**source.state.numpy(), source.graph.inputs[0].name: x}
    assert interpreter.run(found.graph, given)[0].tobytes() == interpreter.run(source.graph, given)[0].tobytes()


def test_names_that_collide() -> None:
    builder = GraphBuilder("g")
    builder.add_input("v1", "input", TensorType((2,), "float32"))
    builder.add_input("y", "input", TensorType((2,), "float32"))
    builder.add_output("y", builder.emit("sub", builder.emit("exp", 0), 1))
    builder.add_output("v1", 0)
    builder.add_output("v2", 1)
    graph = builder.finish()
    model = to_onnx(empty(graph))
    assert [o.name for o in model.graph.output] == ["y_output", "v1_output", "v2"]
    given = {"v1": np.array([1, -2], np.float32), "y": np.array([3, np.nan], np.float32)}
    expected, found = interpreter.run(graph, given), interpreter.run(again(model).graph, given)
    assert [a.tobytes() for a in expected] == [a.tobytes() for a in found]


def test_all_operators_that_onnx_lacks_are_named() -> None:
    builder = GraphBuilder("g")
    builder.add_input("x", "input", TensorType((2,), "float32"))
    builder.source = "first"
    value = builder.emit("erfc", builder.emit("exp", 0))
    builder.source = "second"
    value = builder.emit("add", builder.emit("erfc", value), builder.emit("log1p", value))
    builder.add_output("y", value)
    with pytest.raises(UnsupportedOperatorError) as caught:
        to_onnx(empty(builder.finish()))
    assert str(caught.value) == (
        "unsupported operator 'erfc, log1p'\n"
        "  in: first, second (erfc); second (log1p)\n"
        "  found: 2 operators that cannot be converted\n"
        "  expected: operators that ONNX has (docs/export-onnx.md)\n"
        "  what to do: write this part of the model with operators that ONNX has; or approximate=True (--approximate)"
    )
    assert caught.value.places == (("erfc", "first"), ("erfc", "second"), ("log1p", "second"))


@pytest.mark.parametrize("op", APPROXIMATE)
def test_approximations(op: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    builder = GraphBuilder("g")
    builder.add_input("x", "input", TensorType((64,), "float32"))
    builder.add_output("y", builder.emit(op, 0))
    graph = builder.finish()
    x = np.linspace(0.1, 4, 64, dtype=np.float32)
    if op in ("expm1", "exp2", "erfc", "cbrt"):
        x[::2] *= -1
    model = to_onnx(empty(graph), approximate=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (theirs,), (ours,) = session.run(None, {"x": x}), interpreter.run(graph, {"x": x})
    np.testing.assert_allclose(theirs, ours, atol=1e-6, rtol=1e-5)


def test_only_inference_programs(tmp_path: Path) -> None:
    step = gensyn_tvm.training_step(in_torch.mlp())
    with pytest.raises(InvalidProgramError, match="found: a training step"):
        gensyn_tvm.export_onnx(step, tmp_path / "m.onnx")
    builder = GraphBuilder("g")
    builder.add_input("x", "input", TensorType((4,), "float32"))
    builder.add_input("n", "input", TensorType((), "int64"))
    builder.add_output("part", 0, extents=((0, 1),))
    with pytest.raises(InvalidProgramError, match="outputs whose extents are computed: part"):
        to_onnx(empty(builder.finish()))
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_source(tmp_path / "m.gtvm", source_of(in_torch.mlp()))
    assert main(["export-onnx", str(tmp_path / "m.gtvm"), "-o", str(tmp_path / "m.onnx")]) == 0
    text = capsys.readouterr().out
    assert "opset" in text and "18" in text
    exported = onnx.load_model(tmp_path / "m.onnx")
    assert structure_digest(again(exported).graph) == structure_digest(source_of(in_torch.mlp()).graph)
    assert main(["export-onnx", str(tmp_path / "absent.gtvm"), "-o", str(tmp_path / "n.onnx")]) == 1
    assert not (tmp_path / "n.onnx").exists()


def test_the_document_lists_the_operators() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "export-onnx.md").read_text()
    from gensyn_tvm.canonical.rules import RULES

    table: Any = text.split("## Without an operator in ONNX", 1)[1]
    for op in RULES:
        assert (f"`{op}`" in table) == (op not in ENTRIES), op
