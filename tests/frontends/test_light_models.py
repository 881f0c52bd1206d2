"""A whole network of the onnx package's backend suite; benchmarks/light_models.py (make light-models) runs all nine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx

_PATH = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "light_models.py"
_spec = importlib.util.spec_from_file_location("light_models", _PATH)
assert _spec is not None and _spec.loader is not None
light_models: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(light_models)


def test_squeezenet_gives_the_expected_output_and_the_same_bits_on_two_targets() -> None:
    suite = light_models.tolerances()["squeezenet"]
    outputs = light_models.executed(onnx.load(suite["path"]), light_models.Stages("squeezenet"), interpret=False)
    native, other = (outputs[target] for target in light_models.TARGETS)
    np.testing.assert_array_equal(native.view(np.uint32), other.view(np.uint32))
    expected = light_models.expected_output(suite["path"])
    np.testing.assert_allclose(native, expected, rtol=suite["rtol"], atol=suite["atol"])


def test_random_weights_replace_all_uniform_ones() -> None:
    model = onnx.load(light_models.tolerances()["shufflenet"]["path"])
    changed = light_models.with_random_weights(model)
    assert "ConstantOfShape" not in {n.op_type for n in changed.graph.node}
    assert len(changed.graph.initializer) == len(model.graph.initializer) + sum(
        n.op_type == "ConstantOfShape" for n in model.graph.node
    )
