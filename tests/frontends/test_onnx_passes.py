"""Passes on ONNX models: what they change, what they keep, and that the model still computes the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import gensyn_tvm
from gensyn_tvm import interpreter
from gensyn_tvm.errors import GensynError, ImportModelError, InputError
from gensyn_tvm.frontends import onnx_passes
from gensyn_tvm.frontends.onnx import from_onnx
from gensyn_tvm.training.step import inference_graph

Array = np.ndarray
node = helper.make_node


def value(name: str, shape: Any, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def build(
    nodes: list[Any],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    arrays: Mapping[str, Array] | None = None,
    *,
    opset: int = 21,
    ir_version: int = 10,
    functions: Any = (),
) -> onnx.ModelProto:
    """A model with texts and metadata everywhere, so that a pass that loses some is noticed."""
    stored = [numpy_helper.from_array(a, n) for n, a in (arrays or {}).items()]
    infos = [value(n, s) for n, s in inputs.items()]
    if ir_version < 4:
        infos += [value(t.name, t.dims, t.data_type) for t in stored]
    results = [value(n, s) if not isinstance(s, tuple) else value(n, s[1], s[0]) for n, s in outputs.items()]
    graph = helper.make_graph(nodes, "graph", infos, results, stored, doc_string="about the graph")
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("own", 3)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=functions)
    model.producer_name, model.doc_string = "somebody", "about the model"
    helper.set_model_props(model, {"key": "kept"})
    onnx.checker.check_model(model)
    return model


def ran(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """The passes' result, after checks of what every pass promises."""
    before = model.SerializeToString()
    result = onnx_passes.run(model, names)
    assert model.SerializeToString() == before
    for kept in ("producer_name", "doc_string", "ir_version"):
        assert getattr(result, kept) == getattr(model, kept)
    assert [(p.key, p.value) for p in result.metadata_props] == [("key", "kept")]
    assert {o.domain for o in result.opset_import} == {"", "own"}
    assert (result.graph.name, result.graph.doc_string) == ("graph", "about the graph")
    return result


def same(old: onnx.ModelProto, new: onnx.ModelProto, **inputs: Array) -> None:
    wanted, found = (ReferenceEvaluator(m).run(None, inputs) for m in (old, new))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def operators(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


X = random(2, 3)


# ---- run ------------------------------------------------------------------------------------------------------------


def _relu() -> onnx.ModelProto:
    return build([node("Relu", ["x"], ["y"], name="first")], {"x": [2, 3]}, {"y": [2, 3]})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("optimise", r"unknown ONNX pass 'optimise'(.|\n)*convert_version"),
        ("convert_version=new", r"convert_version does not take this argument\n  found: 'new'\n  expected: an opset"),
        ("training_mode=both", r"training_mode(.|\n)*training or inference"),
        ("infer_shapes=1", r"infer_shapes(.|\n)*no argument"),
        ("inline_functions=Conv", r"no function body(.|\n)*'Conv'"),
    ],
)
def test_wrong_names_and_arguments(name: str, text: str) -> None:
    with pytest.raises(InputError) as info:
        onnx_passes.run(_relu(), [name])
    assert re.search(text, str(info.value)), str(info.value)


def test_an_invalid_model_is_refused() -> None:
    model = _relu()
    model.graph.node[0].input[0] = "nothing"
    with pytest.raises(ImportModelError, match="a value that nothing defines"):
        onnx_passes.run(model, ["infer_shapes"])


# ---- convert_version ------------------------------------------------------------------------------------------------


def _old() -> onnx.ModelProto:
    softmax = node("Softmax", ["x"], ["s"], name="soft", doc_string="about the node", axis=1)
    softmax.metadata_props.add(key="layer", value="3")
    model = build([softmax, node("Unsqueeze", ["s"], ["y"], axes=[0])], {"x": [2, 3]}, {"y": [1, 2, 3]}, opset=11)
    model.graph.input[0].doc_string = "about x"
    return model


def test_convert_version() -> None:
    old = _old()
    new = ran(old, "convert_version=18")
    assert {o.domain: o.version for o in new.opset_import} == {"": 18, "own": 3}
    same(old, new, x=X)
    (soft,) = (n for n in new.graph.node if n.op_type == "Softmax")
    assert (soft.name, soft.doc_string, soft.metadata_props[0].value) == ("soft", "about the node", "3")
    assert new.graph.input[0].doc_string == "about x"
    newest = onnx_passes.convert_version(old)
    assert max(o.version for o in newest.opset_import if not o.domain) == min(28, onnx.defs.onnx_opset_version())


def _function() -> onnx.FunctionProto:
    body = [node("Add", ["a", "a"], ["t"]), node("Relu", ["t"], ["b"])]
    return helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 21)])


def _with_function() -> onnx.ModelProto:
    call = node("Twice", ["x"], ["y"], domain="own", name="call")
    return build([call], {"x": [2, 3]}, {"y": [2, 3]}, functions=[_function()])


def test_versions_that_cannot_be() -> None:
    with pytest.raises(ImportModelError, match=r"cannot convert to this opset(.|\n)*found: 9\n  expected: 11 \(the model's\)"):
        onnx_passes.run(_old(), ["convert_version=9"])
    with pytest.raises(ImportModelError, match=r"local functions(.|\n)*Twice(.|\n)*inline_functions first"):
        onnx_passes.run(_with_function(), ["convert_version=22"])
    model = build(
        [node("Upsample", ["x", "s"], ["y"])], {"x": [2, 3]}, {"y": [4, 6]}, {"s": np.array([2, 2], np.float32)}, opset=9
    )
    new = onnx_passes.run(model, ["convert_version=13"])
    assert operators(new)[-1] in ("Resize", "Upsample")


# ---- inline_functions -----------------------------------------------------------------------------------------------


def test_inline_functions() -> None:
    old = _with_function()
    new = ran(old, "inline_functions")
    assert operators(new) == ["Add", "Relu"] and not new.functions
    assert new.graph.node[-1].output[0] == "y"
    same(old, new, x=X)


def test_inline_operators_by_name() -> None:
    nodes = [node("Gelu", ["x"], ["g"]), node("HardSwish", ["g"], ["h"]), node("Softmax", ["h"], ["y"])]
    old = build(nodes, {"x": [2, 3]}, {"y": [2, 3]})
    new = ran(old, "inline_functions=Gelu,Softmax,Celu")
    assert "HardSwish" in operators(new) and not {"Gelu", "Softmax"} & set(operators(new))
    same(old, new, x=X)


# ---- training_mode --------------------------------------------------------------------------------------------------

NORM = {"scale": random(3), "bias": random(3, seed=1), "mean": random(3, seed=2), "var": np.abs(random(3, seed=3)) + 1}


def _norm(outputs: list[str], opset: int = 21, **attributes: Any) -> list[Any]:
    return [
        node("BatchNormalization", ["x", "scale", "bias", "mean", "var"], ["b", *outputs], name="norm", **attributes),
        node("Dropout", ["b", "ratio"] if opset >= 12 else ["b"], ["y"], name="drop"),
    ]


def test_training_and_back() -> None:
    old = build(_norm([]), {"x": [2, 3]}, {"y": [2, 3]}, {**NORM, "ratio": np.float32(0.25)})
    train = ran(old, "training_mode=training", "infer_shapes")
    norm = next(n for n in train.graph.node if n.name == "norm")
    assert [(a.name, a.i) for a in norm.attribute] == [("training_mode", 1)]
    assert list(norm.output) == ["b", "b_running_mean", "b_running_var"]
    drop = next(n for n in train.graph.node if n.name == "drop")
    assert list(drop.input[:2]) == ["b", "ratio"] and len(drop.input) == 3
    back = ran(train, "training_mode=inference", "eliminate_dead_ends")
    assert list(back.graph.node) == list(old.graph.node)
    same(old, back, x=X)


def test_statistics_in_inference_are_the_old_ones() -> None:
    outputs = {"y": [2, 3], "m": [3]}
    old = build(_norm(["m", "v"], training_mode=1), {"x": [2, 3]}, outputs, {**NORM, "ratio": np.float32(0.25)})
    new = ran(old, "training_mode")
    y, m = ReferenceEvaluator(new).run(None, {"x": X})
    assert m.tobytes() == NORM["mean"].tobytes()
    wanted = (X - NORM["mean"]) / np.sqrt(NORM["var"] + 1e-5) * NORM["scale"] + NORM["bias"]
    np.testing.assert_allclose(y, wanted, rtol=1e-5)


def test_modes_that_an_opset_does_not_have() -> None:
    old = build(_norm([], opset=11), {"x": [2, 3]}, {"y": [2, 3]}, NORM, opset=11)
    with pytest.raises(ImportModelError, match=r"no training form(.|\n)*BatchNormalization 'norm'(.|\n)*convert_version=14"):
        onnx_passes.run(old, ["training_mode=training"])
    saved = build(_norm(["m", "v", "sm", "sv"], opset=11), {"x": [2, 3]}, {"y": [2, 3], "sm": [3]}, NORM, opset=11)
    with pytest.raises(ImportModelError, match="inference does not compute the batch's statistics"):
        onnx_passes.run(saved, ["training_mode"])


# ---- eliminate_dead_ends --------------------------------------------------------------------------------------------


def test_dead_ends() -> None:
    branch = helper.make_graph(
        [node("Identity", ["kept"], ["i"]), node("Add", ["i", "w"], ["t"]), node("Exp", ["x"], ["ended"])],
        *("then", [], [value("t", [2, 3])]),
    )
    other = helper.make_graph([node("Neg", ["r"], ["e"])], "else", [], [value("e", [2, 3])])
    nodes = [
        node("Identity", ["x"], ["kept"]),
        node("Relu", ["kept"], ["r"], name="relu"),
        node("Sigmoid", ["r"], ["dead"]),
        node("Tanh", ["dead"], ["deader"]),
        node("If", ["c"], ["f"], then_branch=branch, else_branch=other, name="if"),
        node("Identity", ["f"], ["y"]),
        node("Identity", ["x"], ["z"], name="stays"),
    ]
    arrays = {"w": random(2, 3), "c": np.array(True), "unused": random(9)}
    old = build(nodes, {"x": [2, 3], "nothing": [1]}, {"y": [2, 3], "z": [2, 3]}, arrays)
    new = ran(old, "eliminate_dead_ends")
    assert [(n.op_type, n.name, list(n.output)) for n in new.graph.node] == [
        ("Relu", "relu", ["r"]),
        ("If", "if", ["y"]),
        ("Identity", "stays", ["z"]),
    ]
    assert [t.name for t in new.graph.initializer] == ["w", "c"]
    assert [i.name for i in new.graph.input] == ["x"]
    then = next(a.g for a in new.graph.node[1].attribute if a.name == "then_branch")
    assert [(n.op_type, list(n.input)) for n in then.node] == [("Add", ["x", "w"])]
    wanted = ReferenceEvaluator(old).run(None, {"x": X, "nothing": np.zeros(1, np.float32)})
    for a, b in zip(ReferenceEvaluator(new).run(None, {"x": X}), wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    kept = onnx_passes.eliminate_dead_ends(old, keep_inputs=True)
    assert [i.name for i in kept.graph.input] == ["x", "nothing"]


# ---- infer_shapes ---------------------------------------------------------------------------------------------------


def _shapes(model: onnx.ModelProto) -> dict[str, list[Any]]:
    return {
        i.name: [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in i.type.tensor_type.shape.dim]
        for i in (*model.graph.value_info, *model.graph.output)
        if i.type.tensor_type.HasField("shape")
    }


def _arithmetic(batch: Any) -> onnx.ModelProto:
    """A reshape to (batch, 2, 6) by way of a division, which ONNX does not follow, a concatenation and a slice."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "i0"], ["n"]),
        node("Gather", ["s", "i1"], ["c"]),
        node("Div", ["c", "two"], ["h"]),
        node("Mul", ["h", "one"], ["h1"]),
        node("Concat", ["n", "two", "h1", "two"], ["all"], axis=0),
        node("Slice", ["all", "i0", "three"], ["t"]),
        node("Reshape", ["x", "t"], ["r"]),
        node("Relu", ["r"], ["y"]),
        node("ConstantOfShape", ["t"], ["k"]),
        node("Expand", ["last", "t"], ["e"]),
    ]
    arrays = {"i0": [0], "i1": [1], "two": [2], "one": [1], "three": [3]}
    stored = {n: np.array(a, dtype=np.int64) for n, a in arrays.items()}
    outputs = {"y": ["a", "b", "c"], "k": ["d", "e", "f"], "e": ["g", "h", "i"]}
    return build(nodes, {"x": [batch, 12], "last": [6]}, outputs, stored)


def test_shapes_through_arithmetic() -> None:
    found = _shapes(ran(_arithmetic(4), "infer_shapes"))
    assert found["r"] == found["y"] == found["k"] == found["e"] == [4, 2, 6]
    found = _shapes(ran(_arithmetic("batch"), "infer_shapes"))
    assert found["r"] == ["batch", 2, 6]
    assert found["y"][1:] == found["k"][1:] == found["e"][1:] == [2, 6]


def test_shapes_in_subgraphs() -> None:
    body = helper.make_graph(
        [node("Div", ["s", "two"], ["h"]), node("Reshape", ["x", "h"], ["t"]), node("Exp", ["t"], ["u"])],
        *("then", [], [value("u", ["p", "q"])]),
    )
    other = helper.make_graph([node("Reshape", ["x", "h2"], ["e"])], "else", [], [value("e", ["p", "q"])])
    nodes = [node("Add", ["two", "two"], ["s"]), node("If", ["c"], ["y"], then_branch=body, else_branch=other)]
    arrays = {"two": np.array([2, 2]), "c": np.array(True), "h2": np.array([2, 2])}
    new = ran(build(nodes, {"x": [4]}, {"y": ["a", "b"]}, arrays), "infer_shapes")
    then = next(a.g for a in new.graph.node[1].attribute if a.name == "then_branch")
    assert {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in then.value_info}["t"] == [2, 2]


def test_contradictory_types_are_refused() -> None:
    old = build([node("Add", ["x", "k"], ["y"])], {"x": [2, 3]}, {"y": [2, 3]}, {"k": np.array([1])})
    with pytest.raises(ImportModelError, match=r"shapes cannot be inferred(.|\n)*has inconsistent type"):
        onnx_passes.run(old, ["infer_shapes"])


# ---- fold_constants -------------------------------------------------------------------------------------------------

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42, 3e38, -1e-20]
HARD = np.concatenate([random(5), np.array(SPECIAL, np.float32)]).reshape(1, 13)

FOLDS: dict[str, tuple[list[Any], dict[str, Array]]] = {
    "exp": ([node("Exp", ["a"], ["f"])], {"a": HARD}),
    "tanh": ([node("Tanh", ["a"], ["f"])], {"a": HARD}),
    "division": ([node("Div", ["a", "b"], ["f"])], {"a": HARD, "b": random(1, 13, seed=5)}),
    "matmul": ([node("MatMul", ["a", "b"], ["f"])], {"a": random(1, 700), "b": random(700, 13)}),
    "sum": ([node("ReduceSum", ["a", "axes"], ["f"])], {"a": random(3000, 13), "axes": np.array([0])}),
    "softmax": ([node("Softmax", ["a"], ["f"])], {"a": random(1, 13) * 9}),
    "power": ([node("Pow", ["a", "p"], ["f"])], {"a": random(1, 13), "p": np.float32(3)}),
    "chain": (
        [node("Sqrt", ["a"], ["s"]), node("Transpose", ["s"], ["t"]), node("Transpose", ["t"], ["f"])],
        {"a": np.abs(random(1, 13))},
    ),
    "layer norm": (
        [node("LayerNormalization", ["a", "g", "g"], ["f"])],
        {"a": random(1, 13) * 1e4, "g": random(13, seed=2)},
    ),
}


def _bits(model: onnx.ModelProto, executor: str, **inputs: Array) -> Array:
    program = from_onnx(model, trainable=())
    if executor == "compiled":
        return np.asarray(gensyn_tvm.compile(program)(**inputs))
    arrays = {**program.parameters, **program.states, **inputs}
    graph = inference_graph(program)
    return interpreter.run(graph, {i.name: arrays[i.name] for i in graph.inputs})[0]


@pytest.mark.parametrize("name", FOLDS)
def test_folded_bits_are_the_compiled_ones(name: str) -> None:
    nodes, arrays = FOLDS[name]
    old = build(
        [*nodes, node("Where", ["c", "f", "x"], ["y"])], {"x": [1, 13]}, {"y": [1, 13]}, {**arrays, "c": np.array(True)}
    )
    new = ran(old, "fold_constants", "eliminate_dead_ends")
    assert operators(new) == ["Where"]
    assert {t.name for t in new.graph.initializer} == {"f", "c"}
    (folded,) = (numpy_helper.to_array(t) for t in new.graph.initializer if t.name == "f")
    x = np.zeros((1, 13), np.float32)
    compiled = _bits(old, "compiled", x=x)
    assert folded.tobytes() == compiled.tobytes() == _bits(new, "interpreted", x=x).tobytes()


def test_fold_shapes_and_integers() -> None:
    new = ran(_arithmetic(4), "infer_shapes", "fold_constants", "eliminate_dead_ends")
    assert "Shape" not in operators(new) and "Slice" not in operators(new)
    t = {t.name: numpy_helper.to_array(t) for t in new.graph.initializer}
    made = {n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in new.graph.node if n.op_type == "Constant"}
    assert {**t, **made}["t"].tolist() == [4, 2, 6]
    old = _arithmetic(4)
    same(old, new, x=random(4, 12), last=random(6))


def test_fold_keeps_what_is_too_large_random_or_trained() -> None:
    nodes = [
        node("ConstantOfShape", ["large"], ["a"]),
        node("ConstantOfShape", ["small"], ["b"]),
        node("RandomNormalLike", ["b"], ["c"]),
        node("Exp", ["w"], ["d"]),
        node("Identity", ["k"], ["e"]),
    ]
    arrays = {"large": np.array([1 << 20, 1 << 19]), "small": np.array([2, 2]), "w": random(3), "k": np.float32(2)}
    outputs = {"a": ["p", "q"], "b": [2, 2], "c": [2, 2], "d": [3], "e": []}
    old = build(nodes, {}, outputs, arrays)
    new = ran(old, "fold_constants")
    assert operators(new) == ["ConstantOfShape", "Constant", "RandomNormalLike", "Constant", "Constant"]
    kept = onnx_passes.fold_constants(old, training=True)
    assert operators(kept) == ["ConstantOfShape", "Constant", "RandomNormalLike", "Exp", "Constant"]
    tile = build([node("Tile", ["w", "n"], ["y"])], {}, {"y": [3000]}, {"w": random(3), "n": np.array([1000])})
    assert operators(onnx_passes.run(tile, ["fold_constants=4000"])) == ["Tile"]
    assert operators(onnx_passes.run(tile, ["fold_constants"])) == ["Constant"]


def test_fold_in_old_representations_and_subgraphs() -> None:
    then = helper.make_graph([node("Exp", ["a"], ["t"]), node("Add", ["t", "x"], ["u"])], "then", [], [value("u", [1, 13])])
    other = helper.make_graph([node("Neg", ["x"], ["e"])], "else", [], [value("e", [1, 13])])
    nodes = [node("If", ["c"], ["y"], then_branch=then, else_branch=other)]
    arrays = {"a": np.abs(random(1, 13)), "c": np.array(True)}
    new = ran(build(nodes, {"x": [1, 13]}, {"y": [1, 13]}, arrays), "fold_constants")
    inner = next(a.g for a in new.graph.node[0].attribute if a.name == "then_branch")
    assert [n.op_type for n in inner.node] == ["Add"] and [t.name for t in inner.initializer] == ["t"]
    old = build(
        [node("Exp", ["a"], ["f"]), node("Add", ["f", "x"], ["y"])], {"x": [3]}, {"y": [3]}, {"a": random(3)}, ir_version=3
    )
    new = ran(old, "fold_constants", "eliminate_dead_ends")
    assert operators(new) == ["Constant", "Add"] and [i.name for i in new.graph.input] == ["x"]


def test_every_pass_takes_every_model() -> None:
    for model in (_relu(), _arithmetic(4), _with_function()):
        for name in ("infer_shapes", "fold_constants", "inline_functions", "training_mode", "eliminate_dead_ends"):
            ran(model, name)
    with pytest.raises(GensynError):
        onnx_passes.run(onnx.ModelProto(), ["infer_shapes"])
