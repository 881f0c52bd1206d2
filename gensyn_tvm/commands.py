"""What the command line does, as functions: models and arrays from files, training over a file of samples, listings."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gensyn_tvm.canonical.graph import Graph, Node
from gensyn_tvm.errors import ImportModelError, InputError, describe

if TYPE_CHECKING:
    from gensyn_tvm.compiler import Source
    from gensyn_tvm.program import Program
    from gensyn_tvm.runtime.executable import Executable, State
    from gensyn_tvm.runtime.profile import Row

Shapes = Mapping[str, tuple[int, ...]]
#: Receives (steps done, steps in all, loss of the last step).
Report = Callable[[int, int, float], None]

_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)

#: Longest attribute that a listing shows in full; constants hold whole arrays.
_SHOWN = 48


# ---- models ---------------------------------------------------------------------------------------------------------


class NoBatchError(ImportModelError):
    """A function that makes a model takes no batch size."""


def load_model(model: str, *, shapes: Shapes | None = None, batch: int | None = None) -> Program:
    """A model from ``file.onnx``, ``file.tflite`` or ``file.py:function``.

    Args:
        model: ``file.onnx``, ``file.tflite``, ``file.py:function`` or ``package.module:function``. The function must return
            (torch module, example inputs) or a ``Program``; it gets ``batch`` if it takes an argument and one is given.
        shapes: shapes of inputs that the file leaves open.
        batch: extent of the open first dimension of every input of a file.

    Raises:
        ImportModelError: no such file or function, something else than a model, options that do not apply.
    """
    if names_function(model):
        if shapes:
            raise ImportModelError(f"{model}: --shape is for files; a Python function gives its example inputs")
        return _from_function(model, batch)
    if model.endswith(".onnx"):
        from gensyn_tvm.frontends.onnx import from_onnx

        return from_onnx(model, shapes={**batch_shapes(model, batch), **(shapes or {})})
    if model.endswith(".tflite"):
        from gensyn_tvm.frontends.tflite import batch_shapes as open_shapes
        from gensyn_tvm.frontends.tflite import from_tflite

        known = {} if batch is None else open_shapes(model, batch)
        return from_tflite(model, input_shapes={**known, **(shapes or {})})
    raise ImportModelError(
        describe("this is not a model", found=model, expected="file.onnx, file.tflite or file.py:function, or module:function")
    )


def load_source(model: str, *, shapes: Shapes | None = None, batch: int | None = None) -> Source:
    """A canonical graph and its arrays: from a ``.gtvm`` file, or from a model, frozen for inference."""
    from gensyn_tvm.compiler import source_of

    return source_of(load_any(model, shapes=shapes, batch=batch))


def load_any(model: str, *, shapes: Shapes | None = None, batch: int | None = None) -> Program | Source:
    """The canonical graph and arrays of a ``.gtvm`` file; anything else as the program that ``load_model`` gives."""
    if not model.endswith(".gtvm"):
        return load_model(model, shapes=shapes, batch=batch)
    from gensyn_tvm.runtime import packaging

    if shapes or batch is not None:
        raise ImportModelError(f"{model}: the shapes of a .gtvm file are fixed; import the model again with other ones")
    return packaging.load_source(model)


def batch_shapes(model: Any, batch: int | None) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs of an ONNX file or model whose first dimension alone is open; none without ``batch``.

    Raises:
        ImportModelError: there is no such input.
    """
    if batch is None:
        return {}
    from gensyn_tvm.frontends.onnx_reader import read
    from gensyn_tvm.frontends.shapes import with_batch

    proto, _ = read(model)
    stored = {t.name for t in proto.graph.initializer}
    declared = {}
    for value in proto.graph.input:
        if value.name not in stored:
            dims = value.type.tensor_type.shape.dim
            declared[value.name] = [d.dim_value if d.HasField("dim_value") else None for d in dims]
    return with_batch(declared, batch, str(model)[:80])


def names_function(model: str) -> bool:
    """Whether a model's name is ``file.py:function`` or ``package.module:function``."""
    path, colon, _ = model.rpartition(":")
    return bool(colon and (path.endswith(".py") or _MODULE.fullmatch(path)))


def call_function(name: str, batch: int | None = None) -> Any:
    """What ``file.py:function`` or ``package.module:function`` returns, called with ``batch`` if there is one.

    Raises:
        ImportModelError: no such file, module or function, or it raises an error; the message names the line.
        NoBatchError: it takes no argument.
    """
    path, function = _function(name)
    if batch is not None and not inspect.signature(function).parameters:
        raise NoBatchError(f"{name} takes no argument; --batch needs a function of the batch size")
    return _called(path, function, *([batch] if batch is not None else []))


def _from_function(name: str, batch: int | None) -> Program:
    from gensyn_tvm.program import Program

    result = call_function(name, batch)
    if isinstance(result, Program):
        return result
    if not isinstance(result, tuple) or len(result) != 2:
        raise ImportModelError(
            describe(
                "the function does not return a model",
                where=name,
                found=type(result).__name__,
                expected="(torch module, example inputs) or a gensyn_tvm Program",
            )
        )
    from gensyn_tvm.frontends.torch import from_torch

    module, example = result
    return from_torch(module, example if isinstance(example, tuple) else (example,))


def _function(where: str) -> tuple[Path, Callable[..., Any]]:
    """The function ``file.py:name`` or ``module:name``, and the file that it is in."""
    place, _, name = where.rpartition(":")
    if place.endswith(".py"):
        path = Path(place)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise ImportModelError(describe("no such Python file", found=str(path), remedy="check the path"))
        module = importlib.util.module_from_spec(spec)
        _called(path, spec.loader.exec_module, module)
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            remedy = "check the name, or set PYTHONPATH"
            raise ImportModelError(describe("no such Python module", where=where, found=str(error), remedy=remedy)) from error
        path = Path(getattr(module, "__file__", None) or place)
    function = getattr(module, name, None)
    if not callable(function):
        raise ImportModelError(
            describe("no such function", where=place, found=name, expected="a function that returns a model")
        )
    return path, function


def _called(path: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the user's code; whatever it raises becomes an ``ImportModelError`` that names the line."""
    try:
        return function(*arguments)
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == path.resolve()]
        line = f"{path}:{frames[-1].lineno}" if frames else str(path)
        raise ImportModelError(
            describe("the model's own code failed", where=line, found=f"{type(error).__name__}: {error}")
        ) from error


# ---- arrays ---------------------------------------------------------------------------------------------------------


def load_arrays(path: str) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` file by name, or of a ``.npy`` file under the name ``""``; nothing is unpickled.

    Raises:
        InputError: the file cannot be read or holds Python objects.
    """
    try:
        # Our own stream: np.load leaves the file open if it is damaged.
        with open(path, "rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"": loaded}
            with loaded:
                return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            describe("arrays cannot be read", where=path, found=str(error), expected="a .npy or .npz file")
        ) from error


def run_file(exe: Executable, paths: Sequence[str]) -> dict[str, np.ndarray]:
    """Outputs by name of an inference program on one ``.npz`` (by name) or on ``.npy`` files (by position).

    Raises:
        InputError: a training step, unreadable files, arrays that do not fit.
    """
    names = [o.name for o in exe.graph.outputs]
    if exe.is_training_step:
        raise InputError(f"{exe.graph.name!r} is a training step; run needs an inference program (see train --output)")
    files = [load_arrays(p) for p in paths]
    if len(files) == 1 and "" not in files[0]:
        result = exe(**files[0])
    elif all("" in f for f in files):
        result = exe(*(f[""] for f in files))
    else:
        raise InputError("give one .npz file with all inputs by name, or .npy files by position")
    arrays = result if isinstance(result, list) else [result]
    return dict(zip(names, arrays, strict=True))


def profile(
    source: Source, given: Mapping[str, np.ndarray] | None, seed: int, *, target: str, threads: int | None = None
) -> list[Row]:
    """What each kernel of a program takes, on a batch by name or one that is drawn from a seed.

    Raises:
        InputError: arrays that do not fit the program.
    """
    from gensyn_tvm.compiler import compile
    from gensyn_tvm.evidence.samples import arrays_for

    arrays = arrays_for(source, given, seed)
    inputs = [arrays[i.name] for i in source.graph.inputs if i.role in ("input", "target")]
    exe = compile(source, target, threads=threads)
    return exe.profile(exe.state, inputs) if exe.is_training_step else exe.profile(*inputs)


# ---- training -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingOptions:
    """How ``train_model`` trains.

    Attributes:
        loss: name of a loss.
        optimizer: name of an optimizer.
        lr: learning rate; the optimizer's own default if None.
        epochs: passes over the samples.
        seed: of the order of samples and of dropout.
        target: compilation target.
        threads: compute threads; all cores if None.
    """

    loss: str = "cross_entropy"
    optimizer: str = "adamw"
    lr: float | None = None
    epochs: int = 1
    seed: int = 0
    target: str = "native"
    threads: int | None = None


@dataclass(frozen=True)
class Trained:
    """The outcome of ``train_model``.

    Attributes:
        step: the compiled training step.
        state: parameters, buffers and optimizer state after the last step.
        model: the program with the trained arrays, for inference.
        losses: of each step.
    """

    step: Executable
    state: State
    model: Program
    losses: tuple[float, ...]


def train_model(
    program: Program, data: Mapping[str, np.ndarray], options: TrainingOptions, report: Report | None = None
) -> Trained:
    """Train on arrays of samples: one for every input of the model, by name or as ``x``, and the target as ``y``.

    Every epoch visits the samples in an order that depends on the seed alone; an incomplete last batch is dropped.

    Raises:
        InputError: arrays are missing, unknown or of different lengths, fewer samples than a batch, no epoch.
    """
    from gensyn_tvm.compiler import compile
    from gensyn_tvm.training.optimizers import OPTIMIZERS
    from gensyn_tvm.training.step import training_step

    if options.epochs < 1:
        raise InputError(f"epochs={options.epochs}; expected at least 1")
    chosen: Any = options.optimizer
    if options.lr is not None and chosen in OPTIMIZERS:
        chosen = replace(OPTIMIZERS[chosen], lr=options.lr)
    step = training_step(program, loss=options.loss, optimizer=chosen)
    samples, batch = _samples(program, data, step.graph)
    exe = compile(step, options.target, threads=options.threads)
    state = exe.init(options.seed)
    total = options.epochs * (len(samples["target"]) // batch)
    losses: list[float] = []
    for arrays in _batches(samples, batch, options):
        state, metrics = exe(state, arrays)
        losses.append(float(metrics["loss"]))
        if report:
            report(len(losses), total, losses[-1])
    model = replace(
        program,
        parameters={name: state[name] for name in program.parameters},
        states={name: state[name] for name in program.states},
    )
    return Trained(exe, state, model, tuple(losses))


def _samples(program: Program, data: Mapping[str, np.ndarray], graph: Graph) -> tuple[dict[str, np.ndarray], int]:
    names = {("x" if name not in data and len(program.inputs) == 1 else name): name for name in program.inputs}
    names["y"] = "target"
    missing, unknown = sorted(set(names) - set(data)), sorted(set(data) - set(names))
    if missing or unknown:
        raise InputError(
            describe(
                "the data does not fit the model",
                found=f"missing arrays {missing}, unknown arrays {unknown}",
                expected=f"arrays {sorted(names)}",
            )
        )
    samples = {names[key]: array for key, array in data.items()}
    shapes = {name: graph.input_named(name).type.shape for name in samples}
    firsts = {shape[0] if shape else 0 for shape in shapes.values()}
    counts = {name: len(array) if array.ndim else 0 for name, array in samples.items()}
    batch = max(firsts)
    if len(firsts) != 1 or len(set(counts.values())) != 1 or batch < 1 or min(counts.values()) < batch:
        raise InputError(
            describe(
                "the samples cannot be cut into batches",
                found=f"{counts} samples",
                expected=f"equally many of each, and at least one batch; the program reads {shapes}",
            )
        )
    return samples, batch


def _batches(samples: Mapping[str, np.ndarray], batch: int, options: TrainingOptions) -> Iterator[dict[str, np.ndarray]]:
    count = len(samples["target"])
    for epoch in range(options.epochs):
        # Raw Philox words, because their stream, unlike Generator.permutation, cannot change with NumPy's version.
        words = np.random.Philox(key=[options.seed % 2**64, epoch]).random_raw(count)
        order = np.argsort(words, kind="stable")
        for start in range(0, count - batch + 1, batch):
            chosen = order[start : start + batch]
            yield {name: array[chosen] for name, array in samples.items()}


# ---- listings -------------------------------------------------------------------------------------------------------


def listing(graph: Graph) -> str:
    """The canonical graph as text, one line for every input, node and output."""
    lines = [f"program {graph.name}"]
    for number, declared in enumerate(graph.inputs):
        lines.append(f"  %{number} = {declared.role} {declared.name!r} : {declared.type}")
    number = len(graph.inputs)
    for node in graph.nodes:
        lines.append(f"  {node_line(node, number)}")
        number += len(node.types)
    for output in graph.outputs:
        lines.append(f"  {'update' if output.updates else 'output'} {output.name!r} = %{output.value}")
    return "\n".join(lines)


def node_line(node: Node, number: int) -> str:
    """One node; ``number`` is that of its first value."""
    results = ", ".join(f"%{number + k}" for k in range(len(node.types)))
    types = ", ".join(map(str, node.types))
    source = f"  # {node.source}" if node.source else ""
    return f"{results} = {node.op}({', '.join(f'%{i}' for i in node.inputs)}{_attributes(node)}) : {types}{source}"


def _attributes(node: Node) -> str:
    parts = []
    for name, value in sorted(node.attrs.items()):
        text = str(value)
        parts.append(f"{name}={text if len(text) <= _SHOWN else f'{text[:_SHOWN]}… ({len(text)} characters)'}")
    separator = "; " if node.inputs and parts else ""
    return separator + ", ".join(parts)
