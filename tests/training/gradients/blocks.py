"""One ONNX operator as a user's model: its float inputs are parameters, and the loss is a weighted sum of its first result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper
from tvm import relax

from gensyn_tvm import interpreter
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.frontends.onnx import from_onnx
from gensyn_tvm.program import Program
from gensyn_tvm.training.differentiate import check_differentiable, differentiate
from gensyn_tvm.training.emit import Emitter, build_function, inline, op
from gensyn_tvm.training.modes import for_inference
from gensyn_tvm.training.step import inference_graph

from ...frontends.onnx_peer import model
from .backward import frozen

Array = np.ndarray


@dataclass(frozen=True)
class Block:
    """An ONNX operator with inputs.

    Attributes:
        operator, inputs, attributes: of the node; None: an input that is left out.
        reference: the same as a function of PyTorch tensors, which it gets as float64 (or integers); None: PyTorch has none.
        fixed: float inputs that are no parameters.
        tolerance: of the largest difference, relative to the largest element of the gradient or 1.
        outputs, opset, differences: how many results there are; ONNX's version; whether finite differences apply.
        rank: of the result, where onnx does not infer it.
    """

    operator: str
    inputs: Sequence[Array | None]
    reference: Callable[..., Any] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    fixed: tuple[int, ...] = ()
    tolerance: float = 4e-6
    outputs: int = 1
    opset: int = 22
    differences: bool = True
    rank: int | None = None

    @property
    def wanted(self) -> list[int]:
        """The inputs that are parameters."""
        floats = [k for k, a in enumerate(self.inputs) if a is not None and a.dtype.kind == "f"]
        return [k for k in floats if k not in self.fixed]

    def program(self) -> Program:
        """The import, with every input an initialiser."""
        everything = [k for k, a in enumerate(self.inputs) if a is not None]
        proto = model(
            self.operator, self.inputs, constants=everything, outputs=self.outputs, opset=self.opset, **self.attributes
        )
        if self.rank is not None:
            del proto.graph.output[1:]
            proto.graph.output[0].CopyFrom(
                helper.make_tensor_value_info("y0", TensorProto.FLOAT, [f"n{k}" for k in range(self.rank)])
            )
        return from_onnx(proto, trainable=[f"x{k}" for k in self.wanted])


def backward(program: Program, weights: Array) -> Graph:
    """The canonical graph of the parameters' gradients; its inputs are the parameters, the states and ``w``."""
    main = for_inference(program).module["main"]
    names = [*program.parameters, *program.states]
    variables = [relax.Var(n, p.ty) for n, p in zip(names, main.params, strict=True)]
    w = relax.Var("w", relax.TensorType(list(weights.shape), str(weights.dtype)))

    def forward(e: Emitter) -> Sequence[Any]:
        result = inline(e, main, variables)[0]
        return [e(op.sum(e.mul(result, w)))]

    count = len(program.parameters)
    module = build_function([*variables, w], forward)
    check_differentiable(module["main"], slice(0, count), names[:count])
    return frozen(differentiate(module, slice(0, count)), [*names, "w"], count, "gradients")


def forward_graph(program: Program) -> tuple[Graph, list[Array]]:
    """The canonical graph in inference, and its inputs."""
    known = {**program.parameters, **program.states}
    graph = inference_graph(program)
    return graph, [known[i.name] for i in graph.inputs]


def gradients(program: Program, weights: Array) -> dict[str, Array]:
    """By parameter, from the interpreter."""
    graph = backward(program, weights)
    found = interpreter.run(graph, {**program.parameters, **program.states, "w": weights})
    return dict(zip(program.parameters, found, strict=True))


def by_torch(block: Block, weights: Array) -> list[Array]:
    """Autograd of the reference in float64; zeros where it has none."""
    assert block.reference is not None
    tensors: list[Any] = [None if a is None else torch.from_numpy(np.array(a)) for a in block.inputs]
    tensors = [t.double() if t is not None and t.is_floating_point() else t for t in tensors]
    for k in block.wanted:
        tensors[k].requires_grad_()
    (block.reference(*tensors) * torch.from_numpy(np.asarray(weights, np.float64))).sum().backward()
    return [np.zeros(tensors[k].shape) if tensors[k].grad is None else tensors[k].grad.numpy() for k in block.wanted]
