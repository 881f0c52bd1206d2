"""What the converters of TFLite's operators see of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.frontends.emit import Emitter, Expr, nn, op
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.tensorflow_nodes import Value
from gensyn_tvm.frontends.tensorflow_operators import CONVERTERS as TENSORFLOW
from gensyn_tvm.frontends.tflite_reader import Quantisation, Tensor
from gensyn_tvm.frontends.tflite_schema import ACTIVATIONS, PADDINGS

#: Dtypes of the integers that stand for real numbers.
QUANTISED = ("int8", "uint8")


@dataclass(frozen=True)
class LiteNode:
    """A ``Node`` of a TFLite file.

    Attributes:
        kind: TFLite's name of the operator, or TensorFlow's while one of its converters is asked.
        inputs: the tensors that it reads, None for one that is left out.
        results: the tensors that it makes.
        attributes: its options; ``options`` is their kind.
    """

    kind: str
    inputs: tuple[Tensor | None, ...]
    results: tuple[Tensor, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        return len(self.results)

    def attr(self, name: str, default: Any = None) -> Any:
        """An option; what an option is that its file leaves out is part of the format."""
        return self.attributes.get(name, default)

    def dtype(self, position: int = 0) -> str:
        """Dtype name of a result."""
        return self.results[position].dtype

    def input(self, e: Emitter, position: int) -> Tensor:
        """A tensor that may not be left out."""
        tensor = self.inputs[position] if position < len(self.inputs) else None
        if tensor is None:
            raise e.refuse(f"no input {position}", expected="one")
        return tensor

    def has(self, position: int) -> bool:
        """Whether an input is given."""
        return position < len(self.inputs) and self.inputs[position] is not None

    def options(self, e: Emitter, kind: str) -> Mapping[str, Any]:
        """The options, which have to be of a kind."""
        if self.attributes.get("options") != kind:
            raise e.refuse(
                f"options {self.attributes.get('options') or 'NONE'}", expected=kind, remedy="convert the model again"
            )
        return self.attributes

    def quantisation(self, e: Emitter, tensor: Tensor, *, channels: bool = False) -> Quantisation:
        """How the integers of a tensor stand for numbers; one scale unless there may be one for each channel."""
        found = tensor.quantisation
        if found is None or (len(found.scales) > 1 and not channels):
            text = "no scale" if found is None else f"{len(found.scales)} scales"
            raise e.refuse(f"the tensor {tensor.name!r} {tensor.dtype} with {text}", expected="one scale and one zero point")
        return found


Converter = Callable[[FoldingEmitter, list[Value], LiteNode], Any]


def like_tensorflow(kind: str, **attributes: Any) -> Converter:
    """The converter of the TensorFlow operator ``kind``, with attributes that TFLite's operator does not have."""

    def convert(e: FoldingEmitter, x: list[Value], n: LiteNode) -> Value:
        return TENSORFLOW[kind](e, x, replace(n, kind=kind, attributes={**n.attributes, **attributes}))

    return convert


def chosen(e: Emitter, names: tuple[str, ...], number: int, what: str) -> str:
    """The name of an enumeration's number."""
    if not 0 <= number < len(names):
        raise e.refuse(f"{what} {number}", expected=", ".join(names))
    return names[number]


def padding(e: Emitter, number: int) -> str:
    """SAME or VALID."""
    return chosen(e, PADDINGS, number, "padding")


def activation_of(e: Emitter, n: LiteNode) -> str:
    """The activation that is part of an operator."""
    return chosen(e, ACTIVATIONS, n.attr("activation", 0), "activation")


#: Bounds of the activations that limit their operand.
LIMITS: dict[str, tuple[float | None, float | None]] = {
    "NONE": (None, None),
    "RELU": (0.0, None),
    "RELU_N1_TO_1": (-1.0, 1.0),
    "RELU6": (0.0, 6.0),
    "RELU_0_TO_1": (0.0, 1.0),
}


def activated(e: Emitter, y: Expr, n: LiteNode) -> Expr:
    """A float with the activation that is part of its operator."""
    name = activation_of(e, n)
    if name == "RELU":
        return e(nn.relu(y))
    if name == "TANH":
        return e(op.tanh(y))
    if name not in LIMITS:
        raise e.refuse(f"activation {name}", expected=", ".join([*LIMITS, "TANH"]))
    return e.clip(y, *LIMITS[name])


def unquantised(e: Emitter, n: LiteNode) -> None:
    """Refuse a float operator with quantised weights, whose inputs TFLite quantises as it runs.

    Raises:
        UnsupportedOperatorError: there are some.
    """
    found = [t for t in n.inputs if t is not None and t.quantisation is not None and t.dtype in (*QUANTISED, "int4", "int2")]
    if found:
        error: UnsupportedOperatorError = e.refuse(
            f"float inputs, and weights {found[0].name!r} of {found[0].dtype} (dynamic-range quantisation)",
            expected="floats, or integers throughout",
            remedy="convert with a representative_dataset, or without optimizations",
        )
        raise error
