"""For each framework: the program of a model, and the model itself as a function of arrays to compare the program with."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.conversion.sources import Found, Request
from gensyn_tvm.errors import ImportModelError, VerificationError, describe
from gensyn_tvm.program import Program

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Imported:
    """A program and its reference.

    Attributes:
        program: as the frontend made it.
        reference: the framework's outputs for arrays in the order of the program's inputs, in the order of its outputs, and
            what computed them; it may raise ``VerificationError``.
    """

    program: Program
    reference: Callable[[Arrays], tuple[Arrays, str]]


def import_model(found: Found, request: Request) -> Imported:
    """Import what was found.

    Raises:
        ImportModelError, UnsupportedOperatorError: as the frontends; options that do not apply to this model.
    """
    if request.values and found.framework != "onnx":
        raise ImportModelError(describe("--value is for ONNX models", found=f"a model of {found.framework}"))
    if request.signature is not None and (found.framework != "tensorflow" or found.path is None):
        raise ImportModelError(describe("--signature is for SavedModels", found=f"a model of {found.framework}"))
    if request.batch is not None and found.framework == "torch" and found.path is not None:
        raise ImportModelError(describe("--batch does not apply", found="a .pt2 file, whose shapes are fixed"))
    imported = _IMPORTERS[found.framework](found, request)
    _check_types(imported.program, request)
    return imported


def _check_types(program: Program, request: Request) -> None:
    """Compare the program's inputs with what the user says about them."""
    variables = dict(zip(program.inputs, program.module["main"].params, strict=False))
    types = {name: (tuple(map(int, v.ty.shape)), str(v.ty.dtype.dtype)) for name, v in variables.items()}
    wrong = [n for n in (*request.shapes, *request.dtypes) if n not in types]
    if wrong:
        raise ImportModelError(
            describe("no input of that name", found=", ".join(dict.fromkeys(wrong)), expected=", ".join(types) or "no inputs")
        )
    for name, (shape, dtype) in types.items():
        wanted = (request.shapes.get(name, shape), request.dtypes.get(name, dtype))
        if wanted != (shape, dtype):
            raise ImportModelError(
                describe(
                    f"input {name!r} has another type in the model",
                    found=f"{wanted[1]}{list(wanted[0])}",
                    expected=f"{dtype}{list(shape)}",
                    remedy="leave --shape and --dtype out, or make the model with those types",
                )
            )


# ---- ONNX -----------------------------------------------------------------------------------------------------------


def _onnx(found: Found, request: Request) -> Imported:
    from gensyn_tvm.commands import batch_shapes
    from gensyn_tvm.frontends.onnx import import_model as from_onnx

    source = str(found.path) if found.path is not None else found.model
    batch = None if found.batched else request.batch
    shapes = {**batch_shapes(source, batch), **request.shapes}
    imported = from_onnx(source, shapes=shapes, values=dict(request.values))

    def reference(arrays: Arrays) -> tuple[Arrays, str]:
        structured = [name for name, layout in imported.outputs.items() if layout != name]
        if structured or any("." in n and n not in _onnx_inputs(source) for n in imported.program.inputs):
            raise VerificationError(
                describe("sequences and optionals are not compared", where=", ".join(structured), remedy="--no-verify")
            )
        given = {**request.values, **dict(zip(imported.program.inputs, arrays, strict=True))}
        return onnx_outputs(source, given)

    return Imported(imported.program, reference)


def _onnx_inputs(source: Any) -> set[str]:
    from gensyn_tvm.frontends.onnx_reader import load

    return {i.name for i in load(source)[0].graph.input}


def onnx_outputs(source: Any, given: Mapping[str, np.ndarray]) -> tuple[Arrays, str]:
    """The outputs of an ONNX file or model: by ONNX Runtime, by onnx's reference where that is missing or cannot run it."""
    import onnx.reference

    reason = "not installed"
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it logs is in the exception, too
        model = source if isinstance(source, str) else source.SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return [np.asarray(y) for y in session.run(None, dict(given))], f"onnxruntime {onnxruntime.__version__}"
    except ImportError:
        pass
    except Exception as error:  # ONNX Runtime raises errors of many kinds for what it does not implement
        reason = str(error).strip().splitlines()[0]
    name = f"onnx's ReferenceEvaluator (onnxruntime: {reason})"
    return [np.asarray(y) for y in onnx.reference.ReferenceEvaluator(source).run(None, dict(given))], name


# ---- PyTorch --------------------------------------------------------------------------------------------------------


def _torch(found: Found, request: Request) -> Imported:
    import torch

    from gensyn_tvm.frontends.torch import from_torch
    from gensyn_tvm.frontends.torch_archive import load_archive

    model = load_archive(found.path) if found.path is not None else found.model
    if isinstance(model, torch.export.ExportedProgram):
        return Imported(program := from_torch(model), lambda arrays: _exported_outputs(model, program, arrays))
    examples, names = found.examples, None
    if examples is None and request.shapes:
        dtypes = {name: _torch_dtype(request.dtypes.get(name, "float32")) for name in request.shapes}
        examples = tuple(torch.zeros(shape, dtype=dtypes[name]) for name, shape in request.shapes.items())
        names = list(request.shapes)
    program = from_torch(model, examples, input_names=names)

    def reference(arrays: Arrays) -> tuple[Arrays, str]:
        modes = [(child, child.training) for child in model.modules()]
        try:
            with torch.no_grad():
                return _torch_arrays(model.eval()(*map(_tensor, arrays))), f"torch {torch.__version__} eager"
        finally:
            for child, training in modes:
                child.training = training

    return Imported(program, reference)


def _torch_dtype(name: str) -> Any:
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ImportModelError(describe("no dtype of PyTorch", found=name, expected="float32, int64, bfloat16, …"))
    return dtype


def _exported_outputs(exported: Any, program: Program, arrays: Arrays) -> tuple[Arrays, str]:
    import torch
    from torch.export.graph_signature import InputKind, TensorArgument

    if program.state_updates or "gensyn.dropout" in program.module.script(show_meta=False):
        raise VerificationError(
            describe(
                "the file holds the model in training mode, which the converted model cannot be compared with",
                found="dropout, or running statistics that are updated",
                remedy="export model.eval(), or --no-verify",
            )
        )
    tensors = iter(map(_tensor, arrays))
    users = [s.arg for s in exported.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    leaves = [next(tensors) if isinstance(arg, TensorArgument) else getattr(arg, "value", None) for arg in users]
    positional, named = torch.utils._pytree.tree_unflatten(leaves, exported.call_spec.in_spec)
    with torch.no_grad():
        return _torch_arrays(exported.module()(*positional, **named)), f"torch {torch.__version__}, the exported program"


def _tensor(array: np.ndarray) -> Any:
    """A tensor; NumPy's extension types go over as bits."""
    import torch

    if array.dtype.kind in "fiub" and array.dtype.name in np.sctypeDict:
        return torch.from_numpy(np.array(array, order="C"))
    bits = {1: np.uint8, 2: np.int16}[array.dtype.itemsize]
    return torch.from_numpy(np.array(array, order="C").view(bits)).view(_torch_dtype(array.dtype.name))


def _torch_arrays(result: Any) -> Arrays:
    import torch

    from gensyn_tvm.frontends.torch import array_of

    return [array_of(t) for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]


# ---- TensorFlow -----------------------------------------------------------------------------------------------------


def _tensorflow(found: Found, request: Request) -> Imported:
    from gensyn_tvm.frontends.tensorflow import from_tensorflow

    if found.path is not None:
        shapes = _tensorflow_shapes(found, request)
        program = from_tensorflow(str(found.path), signature=request.signature, input_shapes=shapes)
        return Imported(program, lambda arrays: _saved_outputs(found, request, program, arrays))
    examples = found.examples
    if examples is None and request.shapes and not _has_signature(found.model):
        examples = tuple(_spec(name, shape, request) for name, shape in request.shapes.items())
    shapes = dict(request.shapes) if examples is None and request.shapes else None
    program = from_tensorflow(found.model, examples, input_shapes=shapes, train=True if request.train else None)

    def reference(arrays: Arrays) -> tuple[Arrays, str]:
        from gensyn_tvm.frontends.tensorflow_graph import tf

        training = {"training": False} if request.train else {}
        result = found.model(*map(tf.constant, arrays), **training)
        return _tensorflow_arrays(result)

    return Imported(program, reference)


def _has_signature(model: Any) -> bool:
    call = model if hasattr(model, "get_concrete_function") else getattr(model, "__call__", None)  # noqa: B004
    return getattr(call, "input_signature", None) is not None or hasattr(model, "structured_input_signature")


def _spec(name: str, shape: Sequence[int], request: Request) -> Any:
    from gensyn_tvm.frontends.tensorflow_graph import tf

    try:
        return tf.TensorSpec(shape, tf.as_dtype(request.dtypes.get(name, "float32")), name)
    except TypeError as error:
        raise ImportModelError(describe("no dtype of TensorFlow", found=request.dtypes.get(name, ""))) from error


def _signature(found: Found, request: Request) -> tuple[Any, Any]:
    """The function of a SavedModel's signature, and what keeps its variables alive."""
    from gensyn_tvm.frontends.tensorflow_files import load_saved_model

    assert found.path is not None
    loaded = load_saved_model(found.path)
    return loaded.signatures[request.signature or "serving_default"], loaded


def _tensorflow_shapes(found: Found, request: Request) -> dict[str, Any] | None:
    """Shapes by input; the batch where the first dimension is open."""
    if request.batch is None:
        return dict(request.shapes) or None
    specs = _signature(found, request)[0].structured_input_signature[1]
    opened = {n: s.shape.as_list() for n, s in specs.items() if s.shape.rank and s.shape[0] is None}
    return {**{n: [request.batch, *shape[1:]] for n, shape in opened.items()}, **request.shapes} or None


def _saved_outputs(found: Found, request: Request, program: Program, arrays: Arrays) -> tuple[Arrays, str]:
    from gensyn_tvm.frontends.shapes import input_name
    from gensyn_tvm.frontends.tensorflow_files import check_runnable
    from gensyn_tvm.frontends.tensorflow_graph import tf

    function, _owner = _signature(found, request)
    try:
        check_runnable(function, str(found.path))
    except ImportModelError as error:
        raise VerificationError(f"{error}; or convert it with --no-verify") from error
    names = {input_name(key): key for key in function.structured_input_signature[1]}
    if set(names) != set(program.inputs) and len(names) == len(program.inputs) == 1:
        names = dict(zip(program.inputs, names.values(), strict=True))
    if set(names) != set(program.inputs):
        found_names = f"inputs {', '.join(program.inputs)}; the signature has {', '.join(names.values())}"
        raise VerificationError(describe("the signature's inputs have other names", found=found_names, remedy="--no-verify"))
    given = {names[name]: tf.constant(array) for name, array in zip(program.inputs, arrays, strict=True)}
    return _tensorflow_arrays(function(**given))


def _tensorflow_arrays(result: Any) -> tuple[Arrays, str]:
    from gensyn_tvm.frontends.tensorflow_graph import tf

    return [np.asarray(t) for t in tf.nest.flatten(result) if t is not None], f"tensorflow {tf.__version__}"


# ---- Keras ----------------------------------------------------------------------------------------------------------


def _keras(found: Found, request: Request) -> Imported:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    import keras

    from gensyn_tvm.frontends.keras import from_keras, load_file

    model = load_file(found.path) if found.path is not None else found.model
    program = from_keras(
        model, found.examples, input_shapes=dict(request.shapes) or None, batch_size=request.batch, train=request.train
    )

    def reference(arrays: Arrays) -> tuple[Arrays, str]:
        structure = getattr(model, "_inputs_struct", None) if found.examples is None else None
        values = [keras.ops.convert_to_tensor(a) for a in arrays]
        inputs: Any = values[0] if len(values) == 1 else values
        if structure is not None:
            inputs = keras.tree.pack_sequence_as(structure, values)
        result = model(inputs, training=False)
        name = f"keras {keras.__version__} on {keras.backend.backend()}"
        return [np.asarray(keras.ops.convert_to_numpy(t)) for t in keras.tree.flatten(result)], name

    return Imported(program, reference)


_IMPORTERS: Mapping[str, Callable[[Found, Request], Imported]] = {
    "onnx": _onnx,
    "torch": _torch,
    "tensorflow": _tensorflow,
    "keras": _keras,
}
