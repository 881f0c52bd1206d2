"""For each framework: the program of a model, and the model itself as a function of arrays to compare the program with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.conversion.framework_steps import Arrays, Trainable, of_keras, of_tensorflow, of_torch
from gensyn_tvm.conversion.sources import Found, Request, check_backend
from gensyn_tvm.errors import ImportModelError, VerificationError, describe, import_error
from gensyn_tvm.program import Program


@dataclass(frozen=True)
class Imported:
    """A program and its reference.

    Attributes:
        program: as the frontend made it.
        reference: the framework's outputs for arrays in the order of the program's inputs, in the order of its outputs, and
            what computed them; it may raise ``VerificationError``.
        training: one step in the framework, or why it has none.
        only_training: why outputs of inference cannot be compared, where only a training step can.
    """

    program: Program
    reference: Callable[[Arrays], tuple[Arrays, str]]
    training: Trainable | str
    only_training: str = ""


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
    check_backend(request, found)
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

    return Imported(imported.program, reference, "an ONNX file has no training to compare with; its inference was compared")


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

    from gensyn_tvm.frontends.torch import from_torch, import_exported
    from gensyn_tvm.frontends.torch_archive import load_archive
    from gensyn_tvm.frontends.torch_export import export_module

    model = load_archive(found.path) if found.path is not None else found.model
    if isinstance(model, torch.export.ExportedProgram):
        program = from_torch(model)
        trained = of_torch(model, program, _call_exported)
        return Imported(program, lambda arrays: _exported_outputs(model, program, arrays), trained, _training_mode(program))
    examples, names = found.examples, None
    if examples is None and request.shapes:
        dtypes = {name: _torch_dtype(request.dtypes.get(name, "float32")) for name in request.shapes}
        examples = tuple(torch.zeros(shape, dtype=dtypes[name]) for name, shape in request.shapes.items())
        names = list(request.shapes)
    origin = f"torch:{type(model).__name__}"
    exported = export_module(model, examples, origin)
    program = import_exported(exported, origin, names)

    def reference(arrays: Arrays) -> tuple[Arrays, str]:
        modes = [(child, child.training) for child in model.modules()]
        try:
            with torch.no_grad():
                return _torch_arrays(model.eval()(*map(_tensor, arrays))), f"torch {torch.__version__} eager"
        finally:
            for child, training in modes:
                child.training = training

    return Imported(program, reference, of_torch(exported, program, _call_exported))


def _torch_dtype(name: str) -> Any:
    import torch

    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ImportModelError(describe("no dtype of PyTorch", found=name, expected="float32, int64, bfloat16, …"))
    return dtype


def _training_mode(program: Program) -> str:
    """What an exported program does that no program does in inference."""
    training = program.state_updates or "gensyn.dropout" in program.module.script(show_meta=False)
    return "dropout, or running statistics that are updated" if training else ""


def _exported_outputs(exported: Any, program: Program, arrays: Arrays) -> tuple[Arrays, str]:
    import torch

    training = _training_mode(program)
    if training:
        raise VerificationError(
            describe(
                "the file holds the model in training mode, which the converted model cannot be compared with",
                found=training,
                remedy="export model.eval(), or --no-verify",
            )
        )
    with torch.no_grad():
        outputs = _torch_arrays(_call_exported(exported, exported.module(), arrays))
    return outputs, f"torch {torch.__version__}, the exported program"


def _call_exported(exported: Any, module: Any, arrays: Arrays) -> Any:
    """What the module of an exported program returns for the tensors among its inputs."""
    import torch
    from torch.export.graph_signature import InputKind, TensorArgument

    tensors = iter(map(_tensor, arrays))
    users = [s.arg for s in exported.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    leaves = [next(tensors) if isinstance(arg, TensorArgument) else getattr(arg, "value", None) for arg in users]
    positional, named = torch.utils._pytree.tree_unflatten(leaves, exported.call_spec.in_spec)
    return module(*positional, **named)


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
    from gensyn_tvm.frontends.tensorflow import from_tensorflow, named_variables

    if found.path is not None:
        shapes = _tensorflow_shapes(found, request)
        program = from_tensorflow(str(found.path), signature=request.signature, input_shapes=shapes)
        return Imported(
            program,
            lambda arrays: _tensorflow_arrays(_call_saved(found, request, program, arrays)),
            _saved_training(found, request, program) if request.train else "",
        )
    examples = found.examples
    if examples is None and request.shapes and not _has_signature(found.model):
        examples = tuple(_spec(name, shape, request) for name, shape in request.shapes.items())
    shapes = dict(request.shapes) if examples is None and request.shapes else None
    training = {"training": True} if request.train and _takes_training(found.model) else {}
    train = training.get("training")
    program = from_tensorflow(found.model, examples, input_shapes=shapes, train=train)

    def reference(arrays: Arrays) -> tuple[Arrays, str]:
        from gensyn_tvm.frontends.tensorflow_graph import tf

        # In the mode in which it was imported: nothing in the program knows another.
        return _tensorflow_arrays(found.model(*map(tf.constant, arrays), **training))

    if not request.train:
        return Imported(program, reference, "")
    from gensyn_tvm.frontends.tensorflow_graph import tf

    variables, _owner = named_variables(found.model, examples, input_shapes=shapes, train=train)
    call = lambda arrays: found.model(*map(tf.constant, arrays), **training)  # noqa: E731
    return Imported(program, reference, of_tensorflow(call, variables, program))


def _takes_training(model: Any) -> bool:
    """Whether the model, a ``tf.function`` or something that can be called, has an argument ``training``."""
    call = model if hasattr(model, "python_function") else getattr(model, "__call__", model)  # noqa: B004
    try:
        return "training" in inspect.signature(getattr(call, "python_function", call)).parameters
    except (TypeError, ValueError):  # written in another language
        return False


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


def _saved_training(found: Found, request: Request, program: Program) -> Trainable:
    from gensyn_tvm.frontends.tensorflow import named_variables

    loaded = _signature(found, request)
    variables, _owner = named_variables(loaded[0])
    return of_tensorflow(lambda arrays: _call_saved(found, request, program, arrays, loaded), variables, program)


def _call_saved(found: Found, request: Request, program: Program, arrays: Arrays, loaded: Any = None) -> Any:
    """What a SavedModel's signature returns; ``loaded`` as ``_signature`` gives it, whose variables are then read."""
    from gensyn_tvm.frontends.shapes import input_name
    from gensyn_tvm.frontends.tensorflow_files import check_runnable
    from gensyn_tvm.frontends.tensorflow_graph import tf

    function, _owner = loaded or _signature(found, request)
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
    return function(**given)


def _tensorflow_arrays(result: Any) -> tuple[Arrays, str]:
    from gensyn_tvm.frontends.tensorflow_graph import tf

    return [np.asarray(t) for t in tf.nest.flatten(result) if t is not None], f"tensorflow {tf.__version__}"


# ---- Keras ----------------------------------------------------------------------------------------------------------


def _keras(found: Found, request: Request) -> Imported:
    import keras

    from gensyn_tvm.frontends.keras import from_keras, load_file

    model = load_file(found.path) if found.path is not None else found.model
    program = from_keras(
        model, found.examples, input_shapes=dict(request.shapes) or None, batch_size=request.batch, train=request.train
    )

    def structured(values: list[Any]) -> Any:
        structure = getattr(model, "_inputs_struct", None) if found.examples is None else None
        if structure is not None:
            return keras.tree.pack_sequence_as(structure, values)
        return values[0] if len(values) == 1 else values

    def reference(arrays: Arrays) -> tuple[Arrays, str]:
        result = model(structured([keras.ops.convert_to_tensor(a) for a in arrays]), training=False)
        name = f"keras {keras.__version__} on {keras.backend.backend()}"
        return [np.asarray(keras.ops.convert_to_numpy(t)) for t in keras.tree.flatten(result)], name

    return Imported(program, reference, of_keras(model, structured, program))


# ---- TFLite ---------------------------------------------------------------------------------------------------------


def _tflite(found: Found, request: Request) -> Imported:
    from gensyn_tvm.frontends.tflite import batch_shapes, from_tflite

    if request.train:
        raise import_error(
            "--train does not apply",
            where=request.model,
            found="a TFLite model, which has no parameters",
            expected="the SavedModel or Keras model that it was made of",
            remedy="leave --train out, or convert that model",
        )
    path = str(found.path)
    opened = {} if request.batch is None else batch_shapes(path, request.batch)
    program = from_tflite(path, input_shapes={**opened, **request.shapes})
    return Imported(program, lambda arrays: tflite_outputs(path, arrays), "a TFLite file has no training")


def tflite_outputs(source: str | bytes, arrays: Arrays) -> tuple[Arrays, str]:
    """The outputs of a TFLite file, or of its bytes, by TFLite's interpreter: with its reference kernels, or with its others
    where one is missing among these.

    Raises:
        VerificationError: TensorFlow, which brings the interpreter, is not installed.
    """
    try:
        from gensyn_tvm.frontends.tensorflow_graph import tf
    except ImportError as error:
        remedy = "pip install 'gensyn_tvm[tensorflow]', or --no-verify"
        raise VerificationError(describe("TFLite's interpreter is not installed", found=str(error), remedy=remedy)) from error
    kernels = tf.lite.experimental.OpResolverType
    name = f"tensorflow {tf.__version__}, TFLite's reference kernels"
    try:
        made = _lite_interpreter(tf, source, kernels.BUILTIN_REF)
    except ValueError:
        made = _lite_interpreter(tf, source, kernels.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
        name = f"tensorflow {tf.__version__}, TFLite's kernels"
    details = made.get_input_details()
    for detail, array in zip(details, arrays, strict=True):
        made.resize_tensor_input(detail["index"], array.shape)
    made.allocate_tensors()
    for detail, array in zip(details, arrays, strict=True):
        made.set_tensor(detail["index"], array)
    made.invoke()
    return [made.get_tensor(detail["index"]) for detail in made.get_output_details()], name


def _lite_interpreter(tf: Any, source: str | bytes, kernels: Any) -> Any:
    import warnings

    given = {"model_path": source} if isinstance(source, str) else {"model_content": source}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will move to another package
        return tf.lite.Interpreter(**given, experimental_op_resolver_type=kernels)


_IMPORTERS: Mapping[str, Callable[[Found, Request], Imported]] = {
    "onnx": _onnx,
    "torch": _torch,
    "tensorflow": _tensorflow,
    "keras": _keras,
    "tflite": _tflite,
}
