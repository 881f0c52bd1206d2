"""ONNX models: names and roles, values against ONNX's own reference evaluator, and errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from gensyn_tvm.errors import GensynError, ImportModelError, UnsupportedOperatorError
from gensyn_tvm.frontends.onnx import ValuesNeededError, from_onnx
from gensyn_tvm.training.ops import attrs_of
from tests.frontends.messages import refused

TOLERANCE = 2e-5  # of the largest magnitude in the output; the reference computes in float32 in another order

Array = np.ndarray


def build(
    nodes: list[Any],
    inputs: dict[str, Any],
    outputs: list[str],
    arrays: dict[str, Array] | None = None,
    *,
    opset: int = 21,
    domain: str = "",
) -> onnx.ModelProto:
    """A model from nodes, inputs (shape or array) and initializers."""
    infos = []
    for name, value in inputs.items():
        shape, dtype = (value.shape, value.dtype) if isinstance(value, Array) else (value, np.dtype("float32"))
        infos.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape))
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    stored = [numpy_helper.from_array(a, n) for n, a in (arrays or {}).items()]
    graph = helper.make_graph(nodes, "graph", infos, results, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(d, opset) for d in {"", domain}], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    for info in model.graph.output:
        if not info.type.tensor_type.HasField("shape"):
            info.CopyFrom(helper.make_tensor_value_info(info.name, TensorProto.FLOAT, ("n",)))
    return model


def _close(found: Array, wanted: Array) -> None:
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    scale = max(float(np.abs(wanted.astype(float)).max(initial=0)), 1e-3)
    np.testing.assert_allclose(found.astype(float) / scale, wanted.astype(float) / scale, atol=TOLERANCE, rtol=0)


def _random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


node = helper.make_node


def _digits() -> tuple[onnx.ModelProto, dict[str, Array]]:
    arrays = {
        "conv.w": _random(4, 2, 3, 3) / 4,
        "conv.b": _random(4),
        "bn.scale": _random(4, seed=1),
        "bn.bias": _random(4, seed=2),
        "bn.mean": _random(4, seed=3),
        "bn.var": np.abs(_random(4, seed=4)) + 0.5,
        "fc.w": _random(3, 16) / 4,
        "fc.b": _random(3),
        "shape": np.array([0, -1]),
        "unused": _random(2),
    }
    nodes = [
        node("Conv", ["x", "conv.w", "conv.b"], ["c"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", ["c", "bn.scale", "bn.bias", "bn.mean", "bn.var"], ["b"], name="bn", momentum=0.8),
        node("Relu", ["b"], ["r"]),
        node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", ["m", "shape"], ["f"]),
        node("Dropout", ["f"], ["d"], name="drop"),
        node("Gemm", ["d", "fc.w", "fc.b"], ["g"], transB=1, alpha=0.5, beta=2.0),
        node("LogSoftmax", ["g"], ["y"]),
    ]
    return build(nodes, {"x": (2, 2, 8, 8)}, ["y"], arrays), arrays


def test_names_roles_and_values(infer: Any, inspect: Any) -> None:
    model, arrays = _digits()
    program = from_onnx(model)
    assert program.inputs == ("x",) and program.outputs == ("y",)
    assert list(program.parameters) == ["conv.w", "conv.b", "bn.scale", "bn.bias", "fc.w", "fc.b"]
    assert list(program.states) == ["bn.mean", "bn.var"] == list(program.state_updates)
    for name, value in {**program.parameters, **program.states}.items():
        assert value.tobytes() == arrays[name].tobytes()
    main = program.module["main"]
    assert [p.name for p in main.params] == [*program.inputs, *program.parameters, *program.states]
    places = {b.var.name for b in main.body.blocks[0].bindings}
    assert {"conv", "bn", "drop", "Relu:r", "Gemm:g"} <= places
    (norm,), (drop,) = inspect.calls(program, "gensyn.batch_norm"), inspect.calls(program, "gensyn.dropout")
    found = attrs_of(norm)
    assert (found["frozen"], found["unbiased"], attrs_of(drop)["p"]) == (False, False, 0.5)
    assert found["momentum"] == pytest.approx(0.2, abs=1e-12) and found["epsilon"] == 1e-5
    x = _random(2, 2, 8, 8)
    _close(infer(program, x)[0], ReferenceEvaluator(model).run(None, {"x": x})[0])


def test_trainable_chooses() -> None:
    program = from_onnx(_digits()[0], trainable=["fc.b", "fc.w"])
    assert list(program.parameters) == ["fc.w", "fc.b"]
    assert list(program.states) == ["conv.w", "conv.b", "bn.scale", "bn.bias", "bn.mean", "bn.var"]
    assert program.state_updates == ("bn.mean", "bn.var")


def test_shared_initializers(infer: Any) -> None:
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    nodes = [
        node("BatchNormalization", ["x", "scale", "b1", "zero", "one"], ["a"], name="first"),
        node("Identity", ["zero"], ["z"]),
        node("BatchNormalization", ["a", "scale", "b2", "z", "one"], ["y"], name="second"),
    ]
    model = build(nodes, {"x": (2, 3)}, ["y"], {"one": ones, "zero": zeros, "scale": ones, "b1": zeros, "b2": zeros})
    with pytest.warns(UserWarning, match="'scale' is shared by first, second and trains as one"):
        program = from_onnx(model)
    assert list(program.parameters) == ["scale", "b1", "b2"]
    assert list(program.states) == ["one", "zero", "zero@second", "one@second"] == list(program.state_updates)
    x = _random(2, 3)
    _close(infer(program, x)[0], ReferenceEvaluator(model).run(None, {"x": x})[0])


def test_dynamic_shapes(infer: Any) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Unsqueeze", ["n", "axes"], ["n1"]),
        node("Concat", ["n1", "rest"], ["t"], axis=0),
        node("Reshape", ["x", "t"], ["r"]),
        node("Add", ["r", "z"], ["y"]),
    ]
    arrays = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    model = build(nodes, {"x": ("batch", 3, 2), "z": ("batch", 6)}, ["y"], arrays)
    program = from_onnx(model, shapes={"x": (4, 3, 2)})
    assert [int(d) for d in program.module["main"].params[1].ty.shape] == [4, 6]
    x, z = _random(4, 3, 2), _random(4, 6)
    _close(infer(program, x, z)[0], x.reshape(4, 6) + z)


X, POSITIVE, IMAGE = _random(3, 4), np.abs(_random(3, 4)) + 0.5, _random(2, 4, 7, 9)
NODES: dict[str, tuple[list[Any], Array, dict[str, Array], int]] = {}


def case(name: str, x: Array, *attributes_and_inputs: Any, opset: int = 21, op: str = "", **attributes: Any) -> None:
    """One operator on input x and further constant inputs."""
    arrays = {f"i{k}": np.asarray(a) for k, a in enumerate(attributes_and_inputs) if a is not None}
    names = ["x", *(f"i{k}" if a is not None else "" for k, a in enumerate(attributes_and_inputs))]
    NODES[name] = ([node(op or name.split()[0], names, ["y"], **attributes)], x, arrays, opset)


for unary in [
    "Relu",
    "Tanh",
    "Sigmoid",
    "Exp",
    "Neg",
    "Abs",
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "Erf",
    "Sinh",
    "Cosh",
    "Atan",
    "Softsign",
    "Softplus",
    "Mish",
    "HardSwish",
    "Gelu",
    "Selu",
    "Identity",
]:
    case(unary, X, opset=22)
for unary in ("Log", "Sqrt", "Reciprocal"):
    case(unary, POSITIVE)
for reduction in ["Sum", "Mean", "Prod", "Max", "Min", "L1", "L2", "SumSquare"]:
    case(f"Reduce{reduction}", X, np.array([-1]), keepdims=0)
case("ReduceSum attribute", X, opset=11, axes=[0])
case("Gelu tanh", X, approximate="tanh")
case("Elu", X, alpha=0.7)
case("Celu", X, alpha=0.7)
case("LeakyRelu", X, alpha=0.2)
case("ThresholdedRelu", X, alpha=0.5)
case("HardSigmoid", X, alpha=0.3, beta=0.4)
case("PRelu", X, _random(4))
case("Pow", X, np.float32(3))
case("Pad reflect", X, np.array([1, 2, 0, 1]), mode="reflect")
case("Pow half", POSITIVE, np.array([-0.5], np.float32))
case("Clip", X, None, np.float32(0.5))
case("Clip attribute", X, opset=9, min=-0.5, max=0.5)
case("Softmax", X, axis=0)
case("ArgMax", X, axis=1, keepdims=0)
case("MatMul", _random(2, 3, 4), _random(4, 5))
case("Transpose", _random(2, 3, 4))
case("Flatten", IMAGE, axis=-2)
case("Squeeze", _random(1, 3, 1), np.array([0]))
case("Unsqueeze", X, np.array([-1, 0]))
case("Slice", IMAGE, np.array([1, -5]), np.array([4, 1000]), np.array([1, 3]), np.array([2, 3]))
case("Pad", X, np.array([1, 0, 0, 2]), np.float32(0.5))
case("Pad axes", X, np.array([2, 1]), None, np.array([-1]))
case("Expand", X, np.array([2, 1, 4]))
case("Tile", X, np.array([2, 3]))
case("Gather", X, np.array([[2, -1], [0, 1]]), axis=1)
case("Gather scalar", X, np.array(-1), axis=1)
case("DepthToSpace", IMAGE, blocksize=2)
case("DepthToSpace CRD", IMAGE, blocksize=2, mode="CRD")
case("Cast", X * 3, to=TensorProto.INT64)
case("Where", X > 0, X, -X)
case("Div", X, POSITIVE)
case("Conv", IMAGE, _random(6, 2, 3, 2), _random(6), group=2, pads=[1, 0, 2, 1], strides=[2, 1], dilations=[1, 2])
case("Conv same", IMAGE, _random(3, 4, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
case("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1], ceil_mode=1)
case("AveragePool", IMAGE, kernel_shape=[2, 2], pads=[1, 1, 0, 0])
case("AveragePool padded", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1, strides=[2, 3])
case("GlobalAveragePool", IMAGE)
case("GlobalMaxPool", IMAGE)
case("LayerNormalization", IMAGE, _random(7, 9), _random(7, 9, seed=1), axis=2)
case("InstanceNormalization", IMAGE, _random(4), _random(4, seed=1))
case("GroupNormalization", IMAGE, _random(4), _random(4, seed=1), num_groups=2)


@pytest.mark.parametrize("name", NODES)
def test_operator(name: str, infer: Any) -> None:
    nodes, x, arrays, opset = NODES[name]
    model = build(nodes, {"x": x}, ["y"], arrays, opset=opset)
    wanted = ReferenceEvaluator(model).run(None, {"x": x})[0]
    _close(infer(from_onnx(model), x)[0], wanted)


def test_old_softmax_flattens(infer: Any) -> None:
    x = _random(2, 3, 4)
    model = build([node("Softmax", ["x"], ["y"], axis=1)], {"x": x}, ["y"], opset=11)
    wanted = np.exp(x) / np.exp(x).sum((1, 2), keepdims=True)  # the reference evaluator has only the new meaning
    _close(infer(from_onnx(model), x)[0], wanted)


def test_negative_padding_crops(infer: Any) -> None:
    model = build([node("Pad", ["x", "p"], ["y"])], {"x": X}, ["y"], {"p": np.array([-1, 2, 0, -1])})
    _close(infer(from_onnx(model), X)[0], np.pad(X[1:, :-1], ((0, 0), (2, 0))))


@pytest.mark.parametrize("training", [True, False])
def test_exported_by_torch(training: bool, infer: Any, inspect: Any, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU6(), nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.Hardswish(), nn.Dropout(0.3)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 5)),
    ).train(training)
    x = torch.randn(2, 3, 9, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), tmp_path / "model.onnx", dynamo=True, verbose=False, external_data=training)
    program = from_onnx(tmp_path / "model.onnx")
    assert list(program.parameters) == [n for n, _ in model.named_parameters()]
    assert program.origin == "onnx:model.onnx"
    assert [attrs_of(c)["p"] for c in inspect.calls(program, "gensyn.dropout")] == ([0.3] if training else [])
    _close(infer(program, x.numpy())[0], model.eval()(x).detach().numpy())


# ---- errors ---------------------------------------------------------------------------------------------------------


def _invalid() -> onnx.ModelProto:
    return build([node("Relu", ["missing"], ["y"])], {"x": (2,)}, ["y"])


def _one(op_type: str, *inputs: str, shape: Any = (2, 3), arrays: Any = None, opset: int = 21, **attributes: Any) -> Any:
    return lambda: build(
        [node(op_type, ["x", *inputs], ["y"], name="here", **attributes)], {"x": shape}, ["y"], arrays, opset=opset
    )


def _several() -> onnx.ModelProto:
    nodes = [
        node("Foo", ["x"], ["a"], name="f", domain="my"),
        node("Bar", ["a"], ["b"], domain="my"),
        node("Foo", ["b"], ["y"], name="g", domain="my"),
    ]
    return build(nodes, {"x": (2,)}, ["y"], domain="my")


def _external(location: str) -> onnx.ModelProto:
    model = build([node("Add", ["x", "w"], ["y"])], {"x": (2,)}, ["y"], {"w": np.ones(2, np.float32)})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return model


def _strings() -> onnx.ModelProto:
    model = build([node("Identity", ["x"], ["y"])], {"x": (2,)}, ["y"])
    model.graph.input[0].type.tensor_type.elem_type = model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING
    return model


DYNAMIC = _one("Relu", shape=("batch", 3))
CASES: dict[str, tuple[Callable[[], Any], dict[str, Any], type[GensynError], str]] = {
    "not a model": (lambda: 3, {}, ImportModelError, r"(?s)found: int.*onnx.ModelProto"),
    "invalid": (_invalid, {}, ImportModelError, r"(?s)not a valid ONNX model.*missing"),
    "empty": (onnx.ModelProto, {}, ImportModelError, r"not a valid ONNX model"),
    "opset": (_one("Relu", opset=99), {}, ImportModelError, r"99"),
    "broadcast": (_one("Add", "x", opset=6, broadcast=1), {}, UnsupportedOperatorError, r"broadcast=1"),
    "several": (_several, {}, UnsupportedOperatorError, r"(?s)'my.Foo, my.Bar'.*f, g \(my.Foo\); Bar:b \(my.Bar\)"),
    "dynamic": (DYNAMIC, {}, ImportModelError, r"(?s)input 'x' is not static.*'batch', 3.*shapes=\{'x': \(…\)\}"),
    "shape": (DYNAMIC, {"shapes": {"x": (2, 4)}}, ImportModelError, r"(?s)does not fit input 'x'.*\(2, 4\).*\('batch', 3\)"),
    "rank": (DYNAMIC, {"shapes": {"x": (2,)}}, ImportModelError, r"does not fit input 'x'"),
    "extent": (DYNAMIC, {"shapes": {"x": (2**63, 3)}}, ImportModelError, r"does not fit input 'x'"),
    "unknown input": (DYNAMIC, {"shapes": {"z": (2,)}}, ImportModelError, r"(?s)unknown input.*found: z\n  expected: x"),
    "trainable": (_one("Relu"), {"trainable": ["w"]}, ImportModelError, r"trainable names what cannot train\n  found: w"),
    "computed shape": (
        lambda: build([node("Reshape", ["x", "s"], ["y"], name="here")], {"x": (4,), "s": np.array([2, 2])}, ["y"]),
        *({}, ValuesNeededError, r"(?s)'Reshape' needs shape at import\n  in: here\n.*the inputs s\n.*values=\{'s': …\}"),
    ),
    "pad mode": (
        _one("Pad", "p", arrays={"p": np.array([1] * 4)}, mode="mirror"),
        {},
        UnsupportedOperatorError,
        r"mode mirror",
    ),
    "index": (
        _one("Gather", "i", arrays={"i": np.array([5])}),
        {},
        UnsupportedOperatorError,
        r"(?s)index 5.*axis of 2 elements",
    ),
    "strings": (_strings, {}, UnsupportedOperatorError, r"in: input x\n  found: STRING\n  expected: one of float32"),
    "in memory": (lambda: _external("w.bin"), {}, ImportModelError, r"(?s)tensor 'w' is stored outside.*pass the path"),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(name: str) -> None:
    make, kwargs, kind, text = CASES[name]
    with refused(text, kind):
        from_onnx(make(), **kwargs)


def _text(path: Path) -> None:
    path.write_text("this is not a model, it is a text\n" * 9)


def _truncated(path: Path) -> None:
    path.write_bytes(_digits()[0].SerializeToString()[:-500])


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: None, r"cannot read the file"),
    "empty": (lambda path: path.write_bytes(b""), r"the file is empty"),
    "text": (_text, r"not an ONNX file, or a truncated one|not a valid ONNX model"),
    "truncated": (_truncated, r"not an ONNX file, or a truncated one|not a valid ONNX model"),
    "outside": (lambda path: onnx.save(_external("../secret.bin"), path), r"(?s)'../secret.bin'.*a file in the model's folder"),
    "absolute": (
        lambda path: onnx.save(_external("/etc/hostname"), path),
        r"(?s)'/etc/hostname'.*a file in the model's folder",
    ),
    "no data": (lambda path: onnx.save(_external("w.bin"), path), r"cannot read the model's external data"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_files(name: str, tmp_path: Path) -> None:
    write, text = FILES[name]
    write(tmp_path / "model.onnx")
    with refused(text) as info:
        from_onnx(tmp_path / "model.onnx")
    assert str(info.value).startswith("onnx:model.onnx: ")
