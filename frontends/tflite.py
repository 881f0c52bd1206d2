"""TFLite models in, floats and quantised integers, read from the file itself; neither TensorFlow nor TFLite is needed.

What becomes what:

* Weights (constants of floats, and integers with a scale) are states under the names of their tensors: TFLite files are made
  for inference, their parameters folded into one another, so that nothing is trainable. Other constants stay constants.
* Quantised operators compute the integers of TFLite's reference kernels (``tflite_quantised``).
* Shapes are static; an extent that the file leaves open is given by ``input_shapes``.
* Nothing in a file is run: custom operators, those of TensorFlow (Flex) and delegates are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from gensyn_tvm.canonical.from_relax import raise_all
from gensyn_tvm.canonical.types import DTYPES, FLOATS, NARROW_FLOATS
from gensyn_tvm.errors import UnsupportedOperatorError, import_error, unsupported
from gensyn_tvm.frontends.assemble import Imported, identifier, to_program
from gensyn_tvm.frontends.emit import constant, dtype_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.shapes import Shapes, input_name, static_shapes, with_batch
from gensyn_tvm.frontends.tensorflow_nodes import Value
from gensyn_tvm.frontends.tflite_integers import check_moved, is_quantised
from gensyn_tvm.frontends.tflite_nodes import LiteNode
from gensyn_tvm.frontends.tflite_operators import CONVERTERS, MOVEMENT
from gensyn_tvm.frontends.tflite_quantised import CONVERTERS as QUANTISED
from gensyn_tvm.frontends.tflite_reader import Graph, Operator, Tensor, load
from gensyn_tvm.program import Program

#: How the origin of every program of a TFLite file starts.
ORIGIN = "tflite:"


def from_tflite(source: str | Path | bytes, *, input_shapes: Shapes | None = None) -> Program:
    """Import a TFLite model for inference.

    Args:
        source: a ``.tflite`` file, or its bytes.
        input_shapes: static shapes by input name, or in order, where the file leaves extents open.

    Returns:
        The program: inputs and outputs named as in the file's first signature, or as its tensors; quantised ones are integers,
        as TFLite's interpreter takes and gives them. It has no parameters: train the SavedModel that the file was made of.

    Raises:
        ImportModelError: a missing, damaged or truncated file, another version of the format, inputs that cannot be inputs or
            have no static shape.
        UnsupportedOperatorError: operators, dtypes or settings that cannot be imported; unknown operators all in one message.
    """
    graph, where = load(source)
    origin = ORIGIN + where
    _check_operators(graph)
    return _Importer(graph, origin, input_shapes).program()


def _place(number: int, operator: Operator, tensors: tuple[Tensor, ...]) -> str:
    """Where an operator is: its number, and the tensor that it makes."""
    name = tensors[operator.outputs[0]].name if operator.outputs else ""
    return f"{number}:{identifier(name) or operator.kind}"


def _check_operators(graph: Graph) -> None:
    """Refuse all operators without a converter, in one error."""
    unknown: dict[str, list[str]] = {}
    for number, operator in enumerate(graph.operators):
        if operator.kind not in CONVERTERS and operator.kind not in QUANTISED:
            unknown.setdefault(operator.kind, []).append(_place(number, operator, graph.tensors))
    if unknown:
        remedy = "build the model of supported operators"
        if any(kind.startswith("CUSTOM Flex") for kind in unknown):
            remedy = "convert without tf.lite.OpsSet.SELECT_TF_OPS, or import the SavedModel with from_tensorflow"
        elif any(kind.startswith("CUSTOM") for kind in unknown):
            remedy = "convert without allow_custom_ops, or import the SavedModel with from_tensorflow"
        elif {"VAR_HANDLE", "READ_VARIABLE", "CALL_ONCE", "IF", "WHILE"} & set(unknown):
            remedy = "freeze the model before it is converted, or import the SavedModel with from_tensorflow"
        raise unsupported(unknown, remedy=remedy, expected="TFLite's operators in docs/operators.md")


class _Importer:
    """One graph being imported."""

    def __init__(self, graph: Graph, origin: str, shapes: Shapes | None) -> None:
        self.graph = graph
        self.origin = origin
        self.emitter = FoldingEmitter()
        self.values: dict[int, Value] = {}
        self.states: dict[str, np.ndarray] = {}
        self.variables: dict[str, Any] = {}
        self.errors: list[UnsupportedOperatorError] = []
        self.inputs = self._inputs(shapes)

    def program(self) -> Program:
        """Everything converted; errors as ``from_tflite``."""
        for number, operator in enumerate(self.graph.operators):
            self._run(number, operator)
        raise_all(self.errors)
        outputs = {identifier(name): self._output(name, number) for name, number in self.graph.outputs.items()}
        return to_program(
            Imported(
                bindings=self.emitter.bindings_with_constants(),
                inputs=self.inputs,
                parameters={},
                states=self.variables,
                outputs=outputs,
                parameter_values={},
                state_values=self.states,
                origin=self.origin,
            )
        )

    # ---- tensors

    def _inputs(self, shapes: Shapes | None) -> dict[str, Any]:
        tensors = {input_name(name): (number, self.graph.tensors[number]) for name, number in self.graph.inputs.items()}
        for name, (_, tensor) in tensors.items():
            if tensor.dtype not in DTYPES or tensor.found:
                raise import_error(
                    f"{self.origin}: input {name!r} cannot be an input",
                    where=tensor.name,
                    found=tensor.found or f"dtype {tensor.dtype}",
                    expected="a dtype of " + ", ".join(DTYPES),
                    remedy="do what needs other values before the model",
                )
        fixed = static_shapes({name: tensor.shape for name, (_, tensor) in tensors.items()}, shapes, self.origin)
        made = {}
        for name, (number, tensor) in tensors.items():
            made[name] = self.values[number] = self.emitter.declare(name, fixed[name], tensor.dtype, stored=False)
        return made

    def _value(self, number: int) -> Value:
        """The value of a tensor: computed, or stored in the file."""
        tensor = self.graph.tensors[number]
        if number not in self.values:
            if tensor.found:
                raise self.emitter.refuse(f"{tensor.found} in the tensor {tensor.name!r}", expected="dense values in the file")
            if tensor.dtype not in DTYPES:
                expected = f"one of {', '.join(DTYPES)}"
                raise self.emitter.refuse(f"dtype {tensor.dtype} of the tensor {tensor.name!r}", expected=expected)
            if tensor.array is None:
                raise self.emitter.refuse(f"the tensor {tensor.name!r}, which nothing computes", expected="a value")
            self.values[number] = self._constant(tensor, tensor.array)
        return self.values[number]

    def _constant(self, tensor: Tensor, array: np.ndarray) -> Value:
        weight = tensor.dtype in (*FLOATS, *NARROW_FLOATS) or tensor.quantisation is not None
        if not weight or array.ndim == 0 or array.size == 0:
            return self.emitter(constant(array))
        name = identifier(tensor.name) or "tensor"
        taken = {*self.states, *self.inputs}
        name = next(n for n in _numbered(name) if n not in taken)
        self.states[name] = np.array(array)
        self.variables[name] = self.emitter.declare(name, array.shape, tensor.dtype, stored=True)
        return self.variables[name]

    def _output(self, name: str, number: int) -> Value:
        self.emitter.place, self.emitter.operator = f"output {name}", "output"
        return self._value(number)

    # ---- operators

    def _run(self, number: int, operator: Operator) -> None:
        e, tensors = self.emitter, self.graph.tensors
        e.place, e.operator = _place(number, operator, tensors), operator.kind
        inputs = tuple(None if i < 0 else tensors[i] for i in operator.inputs)
        node = LiteNode(operator.kind, inputs, tuple(tensors[i] for i in operator.outputs), operator.attributes)
        try:
            values = [None if i < 0 else self._value(i) for i in operator.inputs]
            made = self._convert(node, values)
            results = list(made) if isinstance(made, list | tuple) else [made]
            self._check(node, results)
        except UnsupportedOperatorError as error:
            results = self._stand_ins(node, error)
        except (IndexError, KeyError, TypeError, ValueError, ArithmeticError) as error:
            results = self._stand_ins(node, self._misfit(node, error))
        for i, value in zip(operator.outputs, results, strict=True):
            self.values[i] = value

    def _convert(self, node: LiteNode, values: list[Value]) -> Value:
        if is_quantised(node):
            if node.kind in QUANTISED:
                return QUANTISED[node.kind](self.emitter, values, node)
            if node.kind in MOVEMENT:
                check_moved(self.emitter, node)
            elif node.kind not in ("SHAPE", "RANK"):
                found = f"integers with a scale ({', '.join(t.dtype for t in node.inputs if t is not None)})"
                raise self.emitter.refuse(found, expected="numbers", remedy="leave the operator in floats when you convert")
        elif node.kind == "DEQUANTIZE":  # of float16
            return QUANTISED[node.kind](self.emitter, values, node)
        elif node.kind not in CONVERTERS:
            found = ", ".join(t.dtype for t in (*node.inputs, *node.results) if t is not None)
            raise self.emitter.refuse(f"{found} without a scale", expected="quantised tensors")
        return CONVERTERS[node.kind](self.emitter, values, node)

    def _misfit(self, node: LiteNode, error: Exception) -> UnsupportedOperatorError:
        """Operands that do not fit one another: a converter has looked for what is not there."""
        shapes = ", ".join(f"{t.dtype}{list(t.shape)}" for t in node.inputs if t is not None)
        reason = str(error).strip().splitlines()
        return self.emitter.refuse(
            f"inputs {shapes} ({type(error).__name__}: {reason[-1] if reason else ''})",
            expected="inputs and options that fit one another",
            remedy="convert the model again",
        )

    def _check(self, node: LiteNode, results: list[Value]) -> None:
        """Compare what we emitted with what the file says about the operator."""
        if len(results) != len(node.results):
            raise self.emitter.refuse(f"{len(node.results)} results", expected=str(len(results)))
        for tensor, value in zip(node.results, results, strict=True):
            shape = shape_of(value)
            fits = len(shape) == len(tensor.shape) and all(d in (None, s) for s, d in zip(shape, tensor.shape, strict=True))
            if dtype_of(value) != tensor.dtype or not fits:
                declared = "[" + ", ".join("?" if d is None else str(d) for d in tensor.shape) + "]"
                raise self.emitter.refuse(
                    f"a result {tensor.dtype}{declared} in the file",
                    expected=f"{dtype_of(value)}{shape}, as computed",
                    remedy="give input_shapes= that fit the file, or convert the model again",
                )

    def _stand_ins(self, node: LiteNode, error: UnsupportedOperatorError) -> list[Value]:
        """Note an error, and give values of the results' types, so that the rest of the model is looked at, too."""
        if any(None in t.shape or t.dtype not in DTYPES for t in node.results):
            raise_all([*self.errors, error])
        self.errors.append(error)
        e = self.emitter
        return [e.declare(e.place, [d for d in t.shape if d is not None], t.dtype, stored=False) for t in node.results]


def _numbered(name: str) -> Iterable[str]:
    yield name
    count = 0
    while True:
        count += 1
        yield f"{name}_{count}"


def batch_shapes(source: str | Path | bytes, batch: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs whose first dimension alone is open, with a batch size there.

    Raises:
        ImportModelError: as ``from_tflite``; there is no such input.
    """
    graph, where = load(source)
    return with_batch({input_name(name): graph.tensors[k].shape for name, k in graph.inputs.items()}, batch, where)
