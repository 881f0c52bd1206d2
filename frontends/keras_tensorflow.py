"""Keras models on TensorFlow: traced to a concrete function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gensyn_tvm.frontends.keras_layers import replaced_layers
from gensyn_tvm.frontends.tensorflow import import_concrete, trace
from gensyn_tvm.frontends.tensorflow_graph import COMPOSITE, tf
from gensyn_tvm.program import Program


def import_call(
    model: Any,
    call: Callable[..., Any],
    inputs: dict[str, tuple[tuple[int, ...], str]],
    names: Sequence[str],
    train: bool,
    origin: str,
) -> Program:
    """The program of a function that calls a model; errors as ``from_keras``."""
    specs = [tf.TensorSpec(shape, dtype, name) for name, (shape, dtype) in inputs.items()]
    with replaced_layers(model, _TensorFlow(), train):
        concrete = trace(call, specs, origin)
    return import_concrete(concrete, origin, [(name, v.value) for name, v in zip(names, model.variables, strict=True)])


class _TensorFlow:
    """Functions whose calls the importer reads as operators of ours; their bodies say the results' types only."""

    def batch_norm(self, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, **numbers: Any) -> Any:
        words = [str(numbers["axis"]), repr(numbers["epsilon"]), repr(numbers["momentum"]), str(int(numbers["frozen"]))]
        composite = _composite(" ".join(["batch_norm", *words]), lambda x, g, b, m, v: (x + 0, m + 0, v + 0))
        return composite(x, gamma, beta, tf.convert_to_tensor(mean), tf.convert_to_tensor(variance))

    def dropout(self, x: Any, rate: float, shared: list[int]) -> Any:
        return _composite(" ".join(["dropout", repr(rate), *map(str, shared)]), lambda x: x + 0)(x)

    def place(self, layer: Any) -> None:
        return None  # names of graph operators have it


def _composite(text: str, body: Callable[..., Any]) -> Any:
    return tf.function(body, experimental_implements=COMPOSITE + text, autograph=False)
