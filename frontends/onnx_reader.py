"""Reading an ONNX file: parse, check, and fix every input's shape. Nothing here knows TVM."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import DTYPES
from gensyn_tvm.errors import GensynError, UnsupportedOperatorError, import_error

try:
    import onnx
except ImportError as error:
    raise ImportError("from_onnx needs onnx: pip install 'gensyn_tvm[onnx]'") from error

import onnx.checker
import onnx.inliner
import onnx.numpy_helper
from google.protobuf.message import DecodeError

from gensyn_tvm.frontends.onnx_external import load_external
from gensyn_tvm.frontends.onnx_structure import check_structure, check_wire

OPSETS = range(1, 29)
DOMAINS = ("", "ai.onnx")
_COPY_AGAIN = "copy or export the file again"


@contextmanager
def guarded(origin: str, what: str = "cannot import the model", where: str = "") -> Iterator[None]:
    """Turns whatever the body raises into an ``ImportModelError``; onnx and TVM raise errors of many kinds for odd models."""
    try:
        yield
    except GensynError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        found, expected = f"{type(error).__name__}: {text}", "a model that onnx and this importer accept"
        remedy = "export it again with the newest exporter; if onnx.checker.check_model accepts it, report it"
        raise import_error(f"{origin}: {what}", where=where, found=found, expected=expected, remedy=remedy) from error


def read(model: Any) -> tuple[onnx.ModelProto, str]:
    """A checked copy of the model with its tensors loaded and its local functions inlined, and its origin for messages.

    Raises:
        ImportModelError: no such file, not ONNX, truncated, invalid, external data outside of the model's folder, an opset
            that is not known.
    """
    proto, origin = load(model)
    version = opset(proto)
    if version not in OPSETS:
        raise import_error(
            f"{origin}: unknown opset",
            found=f"ai.onnx opset {version}",
            expected=f"{OPSETS.start} to {OPSETS.stop - 1}",
            remedy="export with another opset, or convert it: scripts/convert_onnx.py --pass convert_version",
        )
    if proto.functions:
        with guarded(origin, "cannot inline the model's functions"):
            proto = onnx.inliner.inline_local_functions(proto)
    return proto, origin


def load(model: Any) -> tuple[onnx.ModelProto, str]:
    """A checked copy of the model with its tensors loaded, and its origin for messages.

    Raises:
        ImportModelError: as ``read``, which also wants a known opset.
    """
    if isinstance(model, onnx.ModelProto):
        origin, folder = "onnx:ModelProto", ""
        check_structure(model, origin)
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
    elif isinstance(model, str | Path):
        origin, folder = f"onnx:{Path(model).name}", str(Path(model).parent)
        proto = _parse(Path(model), origin)
        check_structure(proto, origin)
    else:
        message, found = "from_onnx cannot read this model", type(model).__name__
        remedy = "take from_torch, from_tensorflow or from_keras for models of others"
        raise import_error(message, found=found, expected="a path or an onnx.ModelProto", remedy=remedy)
    load_external(proto, folder, origin, in_memory=isinstance(model, onnx.ModelProto))
    _check(proto, origin)
    return proto, origin


def validate(proto: onnx.ModelProto, origin: str) -> None:
    """Refuse what is no valid ONNX model: first by ``check_structure``, which makes it safe to ask ``onnx.checker``.

    Raises:
        ImportModelError: with what is wrong, and where.
    """
    check_structure(proto, origin)
    _check(proto, origin)


def _check(proto: onnx.ModelProto, origin: str) -> None:
    with guarded(origin, "not a valid ONNX model"):
        onnx.checker.check_model(proto)


def opset(proto: onnx.ModelProto) -> int:
    """Version of the default operator set."""
    return max((o.version for o in proto.opset_import if o.domain in DOMAINS), default=1)


def _parse(path: Path, origin: str) -> onnx.ModelProto:
    try:
        data = path.read_bytes()
    except OSError as error:
        message, found = f"{origin}: cannot read the file", f"{path}: {error.strerror}"
        raise import_error(message, found=found, expected="a file that can be read", remedy="check the path") from error
    if not data:
        raise import_error(f"{origin}: the file is empty", found="0 bytes", expected="an ONNX model", remedy=_COPY_AGAIN)
    check_wire(data, origin)
    try:
        return onnx.load_model_from_string(data)
    except DecodeError as error:
        message, found = f"{origin}: not an ONNX file, or a truncated one", f"{len(data)} bytes, {error}"
        raise import_error(message, found=found, expected="an ONNX model", remedy=_COPY_AGAIN) from error


def element_type(elem_type: int, what: str) -> str:
    """Dtype name of an ONNX element type.

    Raises:
        UnsupportedOperatorError: float16, strings and other types that no program has.
    """
    names = {v: k for k, v in onnx.TensorProto.DataType.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            name = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(elem_type)))
    except (KeyError, TypeError, ValueError):
        name = ""
    if name not in DTYPES:
        raise UnsupportedOperatorError(
            "tensor", where=what, found=names.get(elem_type, str(elem_type)), expected=f"one of {', '.join(DTYPES)}"
        )
    return name


def initialisers(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Arrays of the graph's initialisers by name."""
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise UnsupportedOperatorError("sparse initializer", where=name, expected="dense tensors")
    arrays = {}
    for tensor in proto.graph.initializer:
        element_type(tensor.data_type, f"initializer {tensor.name}")
        arrays[tensor.name] = np.array(onnx.numpy_helper.to_array(tensor), order="C", copy=True)
    return arrays


def fix_shapes(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]] | None, origin: str) -> dict[str, tuple[int, ...]]:
    """Write a static shape into every graph input and return them by name.

    A dimension that has a name in the model (``batch``) gets one extent everywhere; it is enough to give it for one input.

    Raises:
        ImportModelError: an unknown input in ``shapes``, a shape that contradicts the model, a dimension that stays unknown.
    """
    stored = {t.name for t in proto.graph.initializer}
    inputs = {i.name: i for i in proto.graph.input if i.name not in stored}
    given = dict(shapes or {})
    for name in given:
        if name not in inputs:
            expected = ", ".join(inputs) or "no inputs"
            message, remedy = f"{origin}: shapes names an unknown input", "correct the name in shapes="
            raise import_error(message, found=name, expected=expected, remedy=remedy)
    extents: dict[str, int] = {}
    for name, shape in given.items():
        _check_given(origin, inputs[name], shape, extents)
    result = {}
    for name, info in inputs.items():
        tensor = info.type.tensor_type
        if not info.type.HasField("tensor_type"):
            raise UnsupportedOperatorError("input", where=name, found="not a tensor", expected="a tensor")
        element_type(tensor.elem_type, f"input {name}")
        has_rank = tensor.HasField("shape")
        dims = [d.dim_value if d.HasField("dim_value") else extents.get(d.dim_param) for d in tensor.shape.dim]
        extents_of = list(given[name]) if name in given else dims
        if (name not in given and not has_rank) or None in extents_of:
            shown = tuple(d.dim_param or d.dim_value or "?" for d in tensor.shape.dim) if has_rank else "unknown rank"
            raise import_error(
                f"{origin}: the shape of input {name!r} is not static",
                found=str(shown),
                expected="integers",
                remedy=f"from_onnx(model, shapes={{{name!r}: (…)}})",
            )
        result[name] = tuple(int(d) for d in extents_of if d is not None)
        tensor.shape.Clear()
        tensor.shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=d) for d in result[name])
    return result


def _check_given(origin: str, info: Any, shape: Any, extents: dict[str, int]) -> None:
    tensor = info.type.tensor_type
    known = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]
    fits = isinstance(shape, tuple | list) and all(isinstance(d, int | np.integer) and 0 <= d < 2**63 for d in shape)
    if fits and tensor.HasField("shape"):
        fits = len(known) == len(shape)
        for dim, extent in zip(known, shape, strict=False):
            if isinstance(dim, int):
                fits = fits and dim == extent
            elif dim:
                fits = fits and extents.setdefault(dim, int(extent)) == extent
    if not fits:
        message, expected = (
            f"{origin}: shapes does not fit input {info.name!r}",
            str(tuple("?" if d == "" else d for d in known)),
        )
        remedy = f"from_onnx(model, shapes={{{info.name!r}: (…)}}) with extents that fit"
        raise import_error(message, found=str(shape), expected=expected, remedy=remedy)
