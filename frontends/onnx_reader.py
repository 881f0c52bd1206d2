"""Reading an ONNX file: parse, check, and fix every input's shape. Nothing here knows TVM."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gensyn_tvm.canonical.types import DTYPES
from gensyn_tvm.errors import ImportModelError, UnsupportedOperatorError, describe

try:
    import onnx
except ImportError as error:
    raise ImportError("from_onnx needs onnx: pip install 'gensyn_tvm[onnx]'") from error

import onnx.external_data_helper
import onnx.inliner
import onnx.numpy_helper
from google.protobuf.message import DecodeError

OPSETS = range(1, 29)
DOMAINS = ("", "ai.onnx")


def read(model: Any) -> tuple[onnx.ModelProto, str]:
    """A checked copy of the model with its tensors loaded and its local functions inlined, and its origin for messages.

    Raises:
        ImportModelError: no such file, not ONNX, truncated, invalid, external data outside of the model's folder, an opset
            that is not known.
    """
    if isinstance(model, onnx.ModelProto):
        origin, proto, folder = "onnx:ModelProto", onnx.ModelProto(), ""
        proto.CopyFrom(model)
    elif isinstance(model, str | Path):
        origin, folder = f"onnx:{Path(model).name}", str(Path(model).parent)
        proto = _parse(Path(model), origin)
    else:
        message, found = "from_onnx cannot read this model", type(model).__name__
        raise ImportModelError(describe(message, found=found, expected="a path or an onnx.ModelProto"))
    _load_external(proto, folder, origin, in_memory=isinstance(model, onnx.ModelProto))
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError, TypeError) as error:
        message, found = f"{origin}: not a valid ONNX model", str(error).strip()
        raise ImportModelError(describe(message, found=found, expected="a model that passes onnx.checker")) from error
    version = opset(proto)
    if version not in OPSETS:
        raise ImportModelError(
            describe(
                f"{origin}: unknown opset",
                found=f"ai.onnx opset {version}",
                expected=f"{OPSETS.start} to {OPSETS.stop - 1}",
                remedy="export with another opset, or convert with onnx.version_converter",
            )
        )
    return (onnx.inliner.inline_local_functions(proto) if proto.functions else proto), origin


def opset(proto: onnx.ModelProto) -> int:
    """Version of the default operator set."""
    return max((o.version for o in proto.opset_import if o.domain in DOMAINS), default=1)


def _parse(path: Path, origin: str) -> onnx.ModelProto:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImportModelError(describe(f"{origin}: cannot read the file", found=str(error))) from error
    if not data:
        raise ImportModelError(describe(f"{origin}: the file is empty", expected="an ONNX model"))
    try:
        return onnx.load_model_from_string(data)
    except DecodeError as error:
        message, found = f"{origin}: not an ONNX file, or a truncated one", f"{len(data)} bytes, {error}"
        raise ImportModelError(describe(message, found=found, expected="an ONNX model")) from error


def _load_external(proto: onnx.ModelProto, folder: str, origin: str, *, in_memory: bool) -> None:
    """Read tensors that are kept in other files, which have to lie in the model's own folder."""
    external = [t for t in onnx.external_data_helper._get_all_tensors(proto) if onnx.external_data_helper.uses_external_data(t)]
    root = os.path.realpath(folder or ".")
    for tensor in external:
        location = onnx.external_data_helper.ExternalDataInfo(tensor).location
        target = os.path.realpath(os.path.join(root, location))
        if in_memory or os.path.isabs(location) or os.path.commonpath([root, target]) != root:
            raise ImportModelError(
                describe(
                    f"{origin}: tensor {tensor.name!r} is stored outside",
                    found=f"location {location!r}",
                    expected="tensors inside the ModelProto" if in_memory else "a file in the model's folder",
                    remedy="pass the path of the model" if in_memory else "store the model with its weights inside",
                )
            )
    try:
        if external:
            onnx.external_data_helper.load_external_data_for_model(proto, root)
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        message = f"{origin}: cannot read the model's external data"
        raise ImportModelError(describe(message, found=str(error).strip())) from error


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
            raise ImportModelError(describe(f"{origin}: shapes names an unknown input", found=name, expected=expected))
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
            raise ImportModelError(
                describe(
                    f"{origin}: the shape of input {name!r} is not static",
                    found=str(shown),
                    expected="integers",
                    remedy=f"from_onnx(model, shapes={{{name!r}: (…)}})",
                )
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
        raise ImportModelError(describe(message, found=str(shape), expected=expected))
