"""ONNX's own interface for executing models (``onnx.backend.base``): ``prepare`` a model, then ``run`` it on arrays.

Programs are static, ONNX models are not: a prepared model is compiled for the shapes of the inputs that it is run on, and for
the values of those inputs that determine shapes or attributes. Every such specialisation is compiled once and kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from onnx.backend.base import Backend, BackendRep, namedtupledict

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.compiler import compile
from gensyn_tvm.errors import GensynError, InputError
from gensyn_tvm.frontends.onnx import Layout, OnnxModel, ValuesNeededError, import_model, leaves
from gensyn_tvm.runtime.executable import Executable


@dataclass(frozen=True)
class Specialisation:
    """A prepared model for inputs of certain shapes, some of certain values.

    Attributes:
        model: the program and how its outputs make up the model's.
        executable: the compiled program; None if the model's outputs hold no tensor at all.
    """

    model: OnnxModel
    executable: Executable | None

    @property
    def graph(self) -> Graph | None:
        """The canonical graph."""
        return None if self.executable is None else self.executable.graph

    def arrays(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The program's inputs out of the model's, sequences taken apart."""
        found = {name: value for given, item in inputs.items() for name, value in leaves(given, item)}
        return {name: np.asarray(found[name]) for name in self.model.program.inputs}

    def outputs(self, results: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
        """The model's outputs out of the program's, sequences put together."""
        return tuple(_assemble(layout, results) for layout in self.model.outputs.values())

    def run(self, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The model's outputs for its inputs by name."""
        if self.executable is None:
            return self.outputs({})
        results = self.executable(**self.arrays(inputs))
        results = results if isinstance(results, list) else [results]
        return self.outputs(dict(zip(self.model.program.outputs, results, strict=True)))


def _assemble(layout: Layout, results: Mapping[str, np.ndarray]) -> Any:
    if isinstance(layout, list):
        return [_assemble(item, results) for item in layout]
    return None if layout is None else results[layout]


class GensynRep(BackendRep):
    """A prepared model.

    Attributes:
        names: the model's inputs, in order.
        bound: those of them whose values are fixed when a specialisation is compiled.
    """

    def __init__(self, model: onnx.ModelProto, target: str, threads: int | None) -> None:
        self.model = model
        self.target = target
        self.threads = threads
        stored = {t.name for t in model.graph.initializer}
        self.names = [i.name for i in model.graph.input if i.name not in stored]
        self.bound: set[str] = set()
        self._cache: dict[Any, Specialisation] = {}

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The model's outputs: arrays, lists of them for sequences, None for an empty optional.

        Args:
            inputs: one array (or list, or None) for each of the model's inputs, in order or by name.

        Raises:
            InputError: too few or too many inputs.
            GensynError: whatever ``from_onnx`` and ``compile`` refuse.
        """
        given = self._named(inputs)
        outputs = self.specialise(given).run(given)
        return namedtupledict("Outputs", [o.name for o in self.model.graph.output])(*outputs)

    def specialise(self, inputs: Any) -> Specialisation:
        """The specialisation for these inputs, compiled if there is none yet."""
        given = self._named(inputs)
        while True:
            key = tuple((name, _signature(value, name in self.bound)) for name, value in given.items())
            if key in self._cache:
                return self._cache[key]
            shapes = {n: _shapes(v) for n, v in given.items() if n not in self.bound}
            values = {n: v for n, v in given.items() if n in self.bound}
            try:
                model = import_model(self.model, shapes=shapes, values=values, trainable=())
            except ValuesNeededError as error:
                if set(error.inputs) <= self.bound:
                    raise
                self.bound.update(error.inputs)
                continue
            program = model.program
            executable = compile(program, self.target, threads=self.threads) if program.outputs else None
            return self._cache.setdefault(key, Specialisation(model, executable))

    def _named(self, inputs: Any) -> dict[str, Any]:
        if not isinstance(inputs, Mapping):
            listed: Sequence[Any] = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            if len(listed) > len(self.names):
                raise InputError(f"{len(listed)} inputs for a model with {len(self.names)}: {', '.join(self.names)}")
            inputs = dict(zip(self.names, listed, strict=False))
        if set(inputs) != set(self.names):
            raise InputError(f"the inputs are {', '.join(inputs) or 'missing'}; expected {', '.join(self.names)}")
        return {name: _plain(inputs[name]) for name in self.names}


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if value is None else np.asarray(value)


def _shapes(value: Any) -> Any:
    if isinstance(value, list):
        return [_shapes(item) for item in value]
    return None if value is None else value.shape


def _signature(value: Any, by_value: bool) -> Any:
    """What distinguishes specialisations: structure, shapes and dtypes, and the bits of bound inputs."""
    if isinstance(value, list):
        return tuple(_signature(item, by_value) for item in value)
    if value is None:
        return None
    return (value.shape, value.dtype.str, value.dtype.name, value.tobytes() if by_value else None)


class GensynBackend(Backend):
    """The backend: ``GensynBackend.prepare(model).run(inputs)``."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> GensynRep:
        """A model ready to be run; it is imported and compiled when the shapes of its inputs are known.

        Args:
            model: the model.
            device: ``CPU``.
            kwargs: ``target`` and ``threads`` as for ``compile``.

        Raises:
            InputError: a device other than the CPU.
        """
        if not cls.supports_device(device):
            raise InputError(f"device {device!r}; expected CPU")
        return GensynRep(model, kwargs.get("target", "native"), kwargs.get("threads"))

    @classmethod
    def run_node(cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any) -> Any:
        """The outputs of one node; ``opset_version`` chooses the operator's version.

        Raises:
            GensynError: as for ``GensynRep.run``.
        """
        arrays = [np.asarray(a) for a in inputs]
        names = [n for n in node.input if n]
        infos = [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip(names, arrays, strict=True)
        ]
        outputs = [onnx.ValueInfoProto(name=n) for n in node.output if n]
        graph = onnx.helper.make_graph([node], node.op_type, infos, outputs)
        version = kwargs.pop("opset_version", onnx.defs.onnx_opset_version())
        imports = [onnx.helper.make_opsetid(d, version if d == "" else 1) for d in sorted({"", node.domain})]
        model = onnx.shape_inference.infer_shapes(onnx.helper.make_model(graph, opset_imports=imports))
        return cls.prepare(model, device, **kwargs).run(arrays)

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether the model can be imported, as far as that is known without the shapes of its inputs."""
        try:
            import_model(model, trainable=())
        except ValuesNeededError:
            return True
        except GensynError:
            return False
        return cls.supports_device(device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether it is the CPU."""
        return device.split(":")[0] == "CPU"
