"""Neural-network operators against ONNX's own node tests, interpreted, to the tolerance that each of those tests states."""

from __future__ import annotations

import re
import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest

from gensyn_tvm import interpreter
from gensyn_tvm.frontends.onnx import from_onnx
from gensyn_tvm.training.step import inference_graph

#: Names of node tests by family, with how many there are at least. Those of function bodies say nothing about our converters.
FAMILIES = {
    "losses": (r"nllloss|sce_", 52),
    "norms": (r"batchnorm|_normalization_|instancenorm|l[12]normalization|lpnorm|mvn", 53),
    "attention": (r"^test_(attention|swish|swiglu|rotary|linear_att|causal_conv)(?!.*bf16)", 111),
    "flex attention": (r"^test_flexattention", 11),
    "recurrent": (r"^test_(gru|lstm|rnn|simple_rnn)_", 18),
    "ai.onnx.ml": (r"^test_ai_onnx_ml_(?!label)", 4),
    "tf-idf": (r"^test_tfidf", 7),
    "optimizers": (r"^test_(adam|adagrad|momentum|nesterov)", 7),
}


@cache
def _suite() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        return list(load_model_tests(kind="node"))


def _array(value: Any) -> np.ndarray:
    return np.asarray(onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value)


def _compute(model: onnx.ModelProto, inputs: list[np.ndarray]) -> list[np.ndarray]:
    given = dict(zip((i.name for i in model.graph.input), inputs, strict=True))
    program = from_onnx(model, shapes={name: array.shape for name, array in given.items()})
    arrays = {**given, **program.parameters, **program.states}
    graph = inference_graph(program)
    return interpreter.run(graph, {i.name: arrays[i.name] for i in graph.inputs})


def _check(case: Any) -> None:
    for inputs, outputs in case.data_sets:
        results = _compute(case.model, [_array(x) for x in inputs])
        for found, wanted in zip(results, map(_array, outputs), strict=True):
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), case.name
            np.testing.assert_allclose(found, wanted, rtol=case.rtol, atol=case.atol, err_msg=case.name)


@pytest.mark.parametrize("family", FAMILIES)
def test_node_tests_of_onnx(family: str) -> None:
    pattern, least = FAMILIES[family]
    cases = [case for case in _suite() if re.search(pattern, case.name) and "expanded" not in case.name]
    assert len(cases) >= least
    for case in cases:
        _check(case)
