"""A sample of onnx's node tests, compiled and compared with their expected outputs and with the interpreter's bits.

``make onnx-conformance`` runs all of them.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gensyn_tvm import interpreter
from gensyn_tvm.errors import InputError, UnsupportedOperatorError
from gensyn_tvm.frontends.onnx import ValuesNeededError, from_onnx
from gensyn_tvm.frontends.onnx_backend import GensynBackend

SAMPLE = [
    *("abs", "add_uint8", "and_bcast3v1d", "acosh", "argmax_keepdims_random_select_last_index", "attention_3d"),
    *("averagepool_2d_ceil", "batchnorm_example", "bitcast_float32_to_int32", "bitshift_left_uint16", "bitwise_not_3d"),
    *("cast_FLOAT16_to_FLOAT", "cast_FLOAT_to_FLOAT8E4M3FN", "castlike_FLOAT_to_BFLOAT16", "center_crop_pad_crop_and_pad"),
    *("clip_default_int8_min", "concat_3d_axis_negative_2", "constant_pad_negative_axes", "conv_with_autopad_same"),
    *("depthtospace_example", "dft_axis", "div_int32_trunc", "dropout_default_mask", "eyelike_without_dtype"),
    *("gather_elements_1", "hannwindow", "hardmax_axis_1", "identity_opt", "if", "if_opt", "isinf_positive"),
    *("layer_normalization_4d_axis1", "loop11", "loop13_seq", "loop16_seq_none", "lstm_defaults", "matmul_4d"),
    *("mod_mixed_sign_float32", "mod_mixed_sign_int8", "nllloss_NCd1_mean_weight_negative_ii", "not_3d"),
    *("optional_has_element_empty_optional_input", "pow_types_int64_float32", "range_float_type_positive_delta"),
    *("reduce_log_sum_exp_keepdims_random", "reduce_max_bool_inputs", "reduce_min_empty_set", "reflect_pad"),
    *("relu_expanded_ver18", "reshape_zero_and_negative_dim", "scan9_sum", "sequence_insert_at_front"),
    *("sequence_map_add_1_sequence_1_tensor", "slice_neg_steps", "softmax_axis_0", "spacetodepth", "split_to_sequence_1"),
    *(
        "lppool_2d_dilations",
        "lrn",
        "col2im_pads",
        "maxunpool_export_with_output_shape",
        "det_nd",
        "triu_neg",
        "onehot_with_axis",
    ),
    *("reversesequence_time", "tensorscatter_circular"),
    *("stft_with_window", "tan", "tile", "where_long_example", "wrap_pad"),
]


@cache
def _suite() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        return {case.name: case for case in load_model_tests(kind="node")}


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [t for item in value for t in _tensors(item)]
    if value is None:
        return []
    return [np.asarray(onnx.numpy_helper.to_array(value) if isinstance(value, TensorProto) else value)]


def _input(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


@pytest.mark.parametrize("name", SAMPLE)
def test_node(name: str) -> None:
    case = _suite()[f"test_{name}"]
    rep = GensynBackend.prepare(case.model, threads=1)
    for inputs, outputs in case.data_sets:
        given = dict(zip(rep.names, map(_input, inputs), strict=True))
        special = rep.specialise(given)
        found = _tensors(special.run(given))
        for ours, theirs in zip(found, _tensors(outputs), strict=True):
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            wide = [a.astype(np.float64) if a.dtype.kind == "V" or a.dtype.itemsize < 4 else a for a in (ours, theirs)]
            np.testing.assert_allclose(
                wide[0], wide[1], rtol=case.rtol if ours.dtype.name != "bfloat16" else 2**-6, atol=case.atol
            )
        if special.graph is not None and special.executable is not None:
            arrays = {**special.executable.state.numpy(), **special.arrays(special_inputs(rep, given))}
            wanted = interpreter.run(special.graph, {i.name: arrays[i.name] for i in special.graph.inputs})
            assert [a.tobytes() for a in found] == [np.asarray(a).tobytes() for a in wanted]


def special_inputs(rep: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Inputs that are left after those that were fixed."""
    return {name: value for name, value in given.items() if name not in rep.bound}


# ---- the backend ----------------------------------------------------------------------------------------------------


def _reshape() -> onnx.ModelProto:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    infos = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
        helper.make_tensor_value_info("s", TensorProto.INT64, [2]),
    ]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_specialises_on_shapes_and_values() -> None:
    rep = GensynBackend.prepare(_reshape())
    x = np.arange(6, dtype=np.float32)
    for shape in ([2, 3], [3, -1], [2, 3]):
        (y,) = rep.run([x, np.array(shape)])
        assert np.array_equal(y, x.reshape(shape))
    assert rep.bound == {"s"} and len(rep._cache) == 2
    with pytest.raises(InputError, match="expected x, s"):
        rep.run([x])


def test_values() -> None:
    with pytest.raises(ValuesNeededError) as info:
        from_onnx(_reshape(), shapes={"x": (6,)})
    assert info.value.inputs == ("s",)
    assert from_onnx(_reshape(), shapes={"x": (6,)}, values={"s": np.array([2, 3])}).inputs == ("x",)


def test_run_node() -> None:
    node = helper.make_node("Clip", ["x", "", "high"], ["y"])
    (y,) = GensynBackend.run_node(node, [np.array([1, 5], np.int32), np.array(3, np.int32)], opset_version=13)
    assert y.tolist() == [1, 3]


def test_unrolling_has_a_limit() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Neg", ["v"], ["w"])],
        *("body", [helper.make_tensor_value_info(n, t, []) for n, t in (("k", 7), ("c", 9), ("v", 1))]),
        [helper.make_tensor_value_info(n, t, []) for n, t in (("d", 9), ("w", 1))],
    )
    node = helper.make_node("Loop", ["m", "", "x"], ["y"], body=body)
    info = helper.make_tensor_value_info
    graph = helper.make_graph([node], "g", [info("m", 7, []), info("x", 1, [])], [info("y", 1, [])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    with pytest.raises(UnsupportedOperatorError, match="more than 10000 nodes"):
        from_onnx(model, values={"m": np.array(10**9)})
