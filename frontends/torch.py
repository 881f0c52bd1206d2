"""PyTorch models in, through ``torch.export``.

What becomes what:

* Trainable parameters are named inputs under the names of ``named_parameters()`` and in its order; a tied parameter appears
  once, under its first name. Buffers, and parameters with ``requires_grad=False``, are states under their own names.
* A buffer that ``forward`` changes becomes a state update. BatchNorm in ``train()`` mode updates its running statistics,
  in ``eval()`` mode it is frozen in training too; Dropout in ``eval()`` mode is the identity. So export a model in the modes
  in which it is to be trained; ``gensyn_tvm`` builds inference from the same program.
* The caller's module is not changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gensyn_tvm.canonical.from_relax import raise_all
from gensyn_tvm.canonical.types import DTYPES, NARROW_FLOATS
from gensyn_tvm.errors import UnsupportedOperatorError, import_error
from gensyn_tvm.program import Program

try:
    import torch
except ImportError as error:
    raise ImportError("from_torch needs PyTorch: pip install 'gensyn_tvm[torch]'") from error

import tvm
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, TensorArgument
from tvm import relax

from gensyn_tvm.frontends.assemble import Imported, identifier, to_program
from gensyn_tvm.frontends.emit import Expr, constant, dtype_of, shape_of
from gensyn_tvm.frontends.folding import FoldingEmitter
from gensyn_tvm.frontends.torch_converters import dtype_name
from gensyn_tvm.frontends.torch_export import export_module, is_unknown, place_of, prepare, unknown_operators
from gensyn_tvm.frontends.torch_operators import CONVERTERS, arguments


def from_torch(
    module: torch.nn.Module | torch.export.ExportedProgram,
    example_inputs: tuple[torch.Tensor, ...] | None = None,
    *,
    input_names: Sequence[str] | None = None,
) -> Program:
    """Import a PyTorch model.

    Args:
        module: a module, in the train/eval modes in which it is to be trained, or what ``torch.export.export`` made of it.
        example_inputs: tensors with the shapes and dtypes of the inputs; for a module only. Shapes are static.
        input_names: names of the inputs; by default those of ``forward``'s arguments.

    Returns:
        The program; its parameters and states are copies of the module's.

    Raises:
        ImportModelError: inputs that are no tensors, shapes that are not static, a model that ``torch.export`` cannot export.
        UnsupportedOperatorError: operators, modules or dtypes without a deterministic variant, all of them in one message.
    """
    if isinstance(module, torch.export.ExportedProgram):
        if example_inputs is not None:
            raise import_error(
                "from_torch: an ExportedProgram has its own example inputs",
                found="example_inputs",
                expected="none",
                remedy="leave example_inputs out",
            )
        exported, origin = module, "torch:ExportedProgram"
    elif isinstance(module, torch.nn.Module):
        origin = f"torch:{type(module).__name__}"
        exported = export_module(module, example_inputs, origin)
    else:
        raise import_error(
            "from_torch cannot read this model",
            found=type(module).__name__,
            expected="a torch.nn.Module or an ExportedProgram",
            remedy="put functions into a module's forward(); take from_onnx, from_keras, from_tensorflow for other models",
        )
    return import_exported(exported, origin, input_names)


# ---- from the exported program to Relax -----------------------------------------------------------------------------


def import_exported(
    exported: Any, origin: str, input_names: Sequence[str] | None = None, names: Mapping[str, str] | None = None
) -> Program:
    """The program of what ``torch.export`` made; errors as ``from_torch``.

    Args:
        names: of parameters and buffers by their names in ``exported``, in the wanted order; those that are not used are left
            out. By default all are taken under their own names.
    """
    exported = prepare(exported, origin)
    parameters, states, tied = _arrays(exported)
    unknown = unknown_operators(exported)
    errors = [] if unknown is None else [unknown]
    wrong = _wrong_dtypes(exported)
    if wrong:
        raise_all([*errors, *wrong])
    bindings, variables, results = _convert(exported, errors)
    specs = exported.graph_signature.input_specs
    if names is not None:
        used = _used(exported)
        parameters, states = (
            {name: arrays[name] for name in names if name in arrays and name in used} for arrays in (parameters, states)
        )
    user_inputs = [s.arg.name for s in specs if s.kind is InputKind.USER_INPUT and isinstance(s.arg, TensorArgument)]
    named = {s.target: variables[s.arg.name] for s in specs if s.target in {*parameters, *states, *tied}}
    outputs, updates = _results(exported, results, tied)
    called = (names or {name: name for name in [*parameters, *states]}).__getitem__
    return to_program(
        Imported(
            bindings=[*(relax.VarBinding(named[a], named[b]) for a, b in tied.items() if a in named), *bindings],
            inputs={
                name: variables[placeholder]
                for placeholder, name in zip(user_inputs, _input_names(user_inputs, input_names, origin), strict=True)
            },
            parameters={called(name): named[name] for name in parameters},
            states={called(name): named[name] for name in states},
            outputs=outputs,
            updates={called(name): updates[name] for name in states if name in updates},
            parameter_values={called(name): array for name, array in parameters.items()},
            state_values={called(name): array for name, array in states.items()},
            origin=origin,
        )
    )


def _used(exported: Any) -> set[str]:
    """Parameters and buffers that something is computed from, and buffers that change."""
    signature = exported.graph_signature
    read = {node.name for node in exported.graph.nodes if node.op == "placeholder" and node.users}
    changed = {spec.target for spec in signature.output_specs if spec.kind is OutputKind.BUFFER_MUTATION}
    return changed | {spec.target for spec in signature.input_specs if spec.target and spec.arg.name in read}


def _wrong_dtypes(exported: Any) -> list[UnsupportedOperatorError]:
    """Errors of values whose dtypes no program has, such as complex numbers, where they begin."""
    errors = []
    wrong = set()
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor) or dtype_name(value.dtype) in DTYPES:
            continue
        wrong.add(node)
        if is_unknown(node) or any(source in wrong for source in node.all_input_nodes):
            continue
        found, expected = dtype_name(value.dtype), ", ".join(DTYPES)
        remedy = "use one of these dtypes; complex numbers as two tensors of real ones"
        where = f"tensor {node.name}"
        errors.append(UnsupportedOperatorError(str(node.target), where=where, found=found, expected=expected, remedy=remedy))
    return errors


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """A copy; of the floats that NumPy does not have by itself the bits are taken."""
    tensor, dtype = tensor.detach().cpu(), dtype_name(tensor.dtype)
    if dtype in NARROW_FLOATS and dtype != "float16":
        bits = tensor.contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.uint8)
        return np.array(bits.numpy(), order="C", copy=True).view(np.dtype(dtype))
    return np.array(tensor.numpy(), order="C", copy=True)


def _arrays(exported: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, str]]:
    """Copies of the trainable parameters and of the states by name, and the further names of tied ones → first name."""
    arrays: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
    tied: dict[str, str] = {}
    objects: dict[int, str] = {}
    memory: dict[int, str] = {}
    for name, tensor in [*exported.named_parameters(), *exported.named_buffers()]:
        first = objects.setdefault(id(tensor), name)
        if first != name:
            tied[name] = first
            continue
        if tensor.layout is not torch.strided or dtype_name(tensor.dtype) not in DTYPES:
            raise UnsupportedOperatorError(
                "parameter", where=name, found=f"{dtype_name(tensor.dtype)}, {tensor.layout}", expected=", ".join(DTYPES)
            )
        owner = memory.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        if owner != name:
            raise import_error(
                "parameters that are different objects share memory",
                where=f"{owner} and {name}",
                found="two tensors of one memory",
                expected="one object for both, or a memory for each",
                remedy="tie them by assigning the same object to both modules, or clone one of them",
            )
        trainable = isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad
        arrays[0 if trainable else 1][name] = array_of(tensor)
    return *arrays, tied


class _Emitter(FoldingEmitter):
    """What dropout gives is never a constant, not even of constants."""

    def __call__(self, expr: Expr) -> Expr:
        variable = super().__call__(expr)
        if getattr(getattr(expr, "op", None), "name", "") == "gensyn.dropout":
            self._origins[variable] = self.origins_of(variable) | {("dropout", False)}
        return variable


def _convert(exported: Any, errors: list[UnsupportedOperatorError]) -> tuple[list[Any], dict[str, Any], list[Any]]:
    """Bindings, variables by placeholder name (inputs, parameters and buffers), and results by the output specs.

    ``errors`` of the operators without a converter are raised together with those of the others' settings.
    """
    emitter = _Emitter()
    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    env: dict[Any, Any] = {}
    variables: dict[str, Any] = {}
    results: list[Any] = []
    for node in exported.graph.nodes:
        emitter.place = place_of(node)
        if node.op == "placeholder":
            env[node] = _placeholder(exported, emitter, node, specs[node.name])
            if isinstance(env[node], tvm.ir.Var):
                variables[node.name] = env[node]
        elif is_unknown(node):
            env[node] = _stand_in(emitter, node)
        elif node.op == "call_function":
            emitter.operator = getattr(node.target, "__name__", str(node.target)).split(".")[0]
            try:
                bound = arguments(node, lambda value: _lookup(env, value))
                env[node] = CONVERTERS[getattr(node.target, "__name__", "")](emitter, bound)
                _check_type(node, env[node])
            except UnsupportedOperatorError as error:
                errors.append(error)
                env[node] = _stand_in(emitter, node)
            except Exception:
                if not errors:
                    raise
                break  # what stands for an operator that was refused may be nothing that another can take
        elif node.op == "output":
            results = _lookup(env, node.args[0])
    raise_all(errors)
    return emitter.bindings_with_constants(), variables, results


def _stand_in(emitter: FoldingEmitter, node: Any) -> Any:
    """A value of the type of a node that cannot be converted, so that the rest of the model is looked at, too."""
    value = node.meta["val"]

    def declare(tensor: Any) -> Any:
        if not isinstance(tensor, torch.Tensor):
            return tensor
        dtype = dtype_name(tensor.dtype)
        return emitter.declare(node.name, [int(d) for d in tensor.shape], dtype if dtype in DTYPES else "float32", stored=False)

    return [declare(v) for v in value] if isinstance(value, list | tuple) else declare(value)


def _placeholder(exported: Any, emitter: FoldingEmitter, node: Any, spec: InputSpec) -> Any:
    """The variable of an input, parameter or buffer; a tensor that ``forward`` makes from numbers is a constant."""
    if spec.kind is InputKind.CONSTANT_TENSOR:
        return emitter(constant(array_of(exported.constants[spec.target])))
    if not isinstance(spec.arg, TensorArgument):
        return getattr(spec.arg, "value", None)
    value, stored = node.meta["val"], spec.kind is not InputKind.USER_INPUT
    return emitter.declare(node.name, [int(d) for d in value.shape], dtype_name(value.dtype), stored=stored)


def _lookup(env: Mapping[Any, Any], value: Any) -> Any:
    if isinstance(value, torch.fx.Node):
        return env[value]
    if isinstance(value, list | tuple):
        return [_lookup(env, v) for v in value]
    return value


def _check_type(node: Any, result: Any) -> None:
    """Compare what we emitted with the type that PyTorch computed for the node."""
    expected = node.meta["val"]
    pairs = zip(result, expected, strict=True) if isinstance(result, list | tuple) else [(result, expected)]
    for ours, theirs in pairs:
        if ours is None:
            continue
        found, wanted = (shape_of(ours), dtype_of(ours)), ([int(d) for d in theirs.shape], dtype_name(theirs.dtype))
        if found != wanted:
            raise UnsupportedOperatorError(
                str(node.target),
                where=place_of(node),
                found=f"{found[1]}{found[0]}",
                expected=f"{wanted[1]}{wanted[0]}, as in PyTorch",
            )


# ---- names ----------------------------------------------------------------------------------------------------------


def _input_names(placeholders: list[str], wanted: Sequence[str] | None, origin: str) -> list[str]:
    if wanted is None:
        return placeholders
    if len(wanted) != len(placeholders) or len(set(wanted)) != len(wanted) or not all(wanted):
        raise import_error(
            f"{origin}: input_names do not fit",
            found=repr(list(wanted)),
            expected=f"{len(placeholders)} different names, for {', '.join(placeholders)}",
            remedy="give as many, or leave input_names out",
        )
    return list(wanted)


def _results(exported: Any, results: list[Any], tied: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs by name (``output``, or ``output_<key>_<position>…`` in dicts and tuples) and next states by name."""
    outputs: list[Any] = []
    updates: dict[str, Any] = {}
    for spec, result in zip(exported.graph_signature.output_specs, results, strict=True):
        if spec.kind is OutputKind.BUFFER_MUTATION:
            updates[tied.get(spec.target, spec.target)] = result
        elif spec.kind is OutputKind.USER_OUTPUT and isinstance(spec.arg, TensorArgument):
            outputs.append(result)
        else:
            raise UnsupportedOperatorError(
                "output",
                found=f"{spec.kind.name.lower()} {spec.arg}",
                expected="tensors, and inputs that forward() leaves alone",
            )
    names = ["_".join(["output", *path]) if path else "output" for path in _output_paths(exported, len(outputs))]
    return dict(zip(names, outputs, strict=True)), updates


def _output_paths(exported: Any, count: int) -> list[list[str]]:
    """Keys, positions and fields that lead to each output; nothing if the model returns one tensor."""
    tree = torch.utils._pytree.tree_unflatten(list(range(count)), exported.call_spec.out_spec)
    paths = [path for path, _ in torch.utils._pytree.tree_flatten_with_path(tree)[0]]
    names = ("key", "idx", "name")
    return [[identifier(str(next(getattr(k, n) for n in names if hasattr(k, n)))) for k in path] for path in paths]
