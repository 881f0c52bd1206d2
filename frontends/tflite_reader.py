"""TFLite files: flatbuffers whose every offset and length is checked before anything is read through it."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gensyn_tvm.canonical.types import DTYPES, NARROW_INTEGERS
from gensyn_tvm.errors import import_error
from gensyn_tvm.frontends.tflite_schema import OPERATORS, OPTIONS, TABLES, TYPES

IDENTIFIER, VERSION = b"TFL3", 3

_NUMBERS = {"bool": "?", "byte": "b", "ubyte": "B", "int": "i", "uint": "I", "long": "q", "ulong": "Q", "float": "f"}
_ARRAYS = {"ubyte": "u1", "int": "<i4", "uint": "<u4", "long": "<i8", "float": "<f4"}


class Damaged(Exception):
    """What is wrong with a file."""


@dataclass(frozen=True)
class Quantisation:
    """real = scale * (integer - zero)

    Attributes:
        scales: float32, one, or one for each index of ``axis``.
        zeros: int64, as many.
    """

    scales: np.ndarray
    zeros: np.ndarray
    axis: int


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph.

    Attributes:
        shape: as in the file; None for an extent that is open.
        dtype: one of ``tflite_schema.TYPES``, of which not all can be computed with.
        array: the value of a constant.
        quantisation: None where there is none.
        found: what cannot be read about it: sparse values, quantisation in blocks, several integers in a byte, a variable.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    array: np.ndarray | None
    quantisation: Quantisation | None
    found: str = ""


@dataclass(frozen=True)
class Operator:
    """An operator of the graph.

    Attributes:
        kind: its name; ``CUSTOM name`` for one that is not TFLite's own.
        inputs, outputs: numbers of tensors; -1 for an input that is left out.
        attributes: its options, by the names of ``tflite_schema``.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """The graph that a file's first signature (or its first graph) is.

    Attributes:
        inputs, outputs: tensors by name.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


def load(source: str | Path | bytes) -> tuple[Graph, str]:
    """The graph in a file or in its bytes, and its name for messages.

    Raises:
        ImportModelError: a missing file, one that is no TFLite file, damaged, truncated or of another version.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data, where = bytes(source), "model"
    else:
        path = Path(source)
        if not path.is_file():
            raise import_error(
                "from_tflite: no such file",
                where=str(path),
                found="nothing, or a folder",
                expected="a .tflite file",
                remedy="check the path",
            )
        data, where = path.read_bytes(), path.name
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise import_error(
            "from_tflite: this is no TFLite file",
            where=where,
            found=f"{len(data)} bytes with the identifier {data[4:8]!r}",
            expected=f"the identifier {IDENTIFIER!r}",
            remedy="name a file that tf.lite.TFLiteConverter wrote",
        )
    try:
        return _graph(_Buffer(data), where), where
    except Damaged as error:
        remedy = "copy or convert the model again"
        raise import_error(
            "from_tflite: the file is damaged", where=where, found=str(error), expected="a whole file", remedy=remedy
        ) from error


# ---- flatbuffers ----------------------------------------------------------------------------------------------------


@functools.cache
def _fields(table: str) -> tuple[tuple[str, str, float], ...]:
    """Names, types and defaults of a table's fields by slot."""
    split = []
    for text in TABLES[table].split():
        name, _, kind = text.partition(":")
        kind, _, default = kind.partition("=")
        split.append((name, kind, float(default or 0)))
    return tuple(split)


@dataclass
class _Buffer:
    """Bytes read through offsets that are checked. Each table takes at least four bytes, so more tables than the file has room
    for mean that offsets lead back to what has been read."""

    data: bytes
    tables: int = field(default=0)

    def number(self, kind: str, at: int) -> Any:
        code = _NUMBERS[kind]
        if not 0 <= at <= len(self.data) - struct.calcsize(code):
            raise Damaged(f"an offset to byte {at} of {len(self.data)}")
        return struct.unpack_from("<" + code, self.data, at)[0]

    def follow(self, at: int) -> int:
        """Where the offset at ``at`` leads."""
        offset = self.number("uint", at)
        if offset == 0:
            raise Damaged(f"an offset of 0 at byte {at}")
        return at + int(offset)

    def table(self, name: str, at: int) -> dict[str, Any]:
        """The fields of the table at ``at``, and of all tables below it."""
        self.tables += 1
        if self.tables > len(self.data) // 4:
            raise Damaged("tables that overlap")
        vtable = at - self._signed(at)
        size = self._short(vtable)
        values: dict[str, Any] = {"at": at}
        for slot, (key, kind, default) in enumerate(_fields(name)):
            entry = vtable + 4 + 2 * slot
            offset = self._short(entry) if 4 + 2 * slot + 2 <= size else 0
            if key != "_":
                values[key] = self._field(kind, at + offset) if offset else self._default(kind, default)
        return values

    def _signed(self, at: int) -> int:
        value: int = self.number("int", at)
        return value

    def _short(self, at: int) -> int:
        if not 0 <= at <= len(self.data) - 2:
            raise Damaged(f"a table whose layout is at byte {at} of {len(self.data)}")
        return int.from_bytes(self.data[at : at + 2], "little")

    def _default(self, kind: str, default: float) -> Any:
        if kind in _NUMBERS:
            return default if kind == "float" else bool(default) if kind == "bool" else int(default)
        if kind == "string":
            return ""
        if kind.startswith("["):
            return np.zeros(0, _ARRAYS[kind[1:-1]]) if kind[1:-1] in _ARRAYS else []
        return None

    def _field(self, kind: str, at: int) -> Any:
        if kind in _NUMBERS:
            return self.number(kind, at)
        target = self.follow(at)
        if kind == "table":
            return target
        if kind == "string":
            return bytes(self.vector("ubyte", target)).decode("utf-8", "replace")
        if not kind.startswith("["):
            return self.table(kind, target)
        kind = kind[1:-1]
        if kind in _ARRAYS:
            return self.vector(kind, target)
        places = range(target + 4, target + 4 + 4 * len(self.vector("uint", target)), 4)
        return [self.follow(p) if kind == "table" else self.table(kind, self.follow(p)) for p in places]

    def vector(self, kind: str, at: int) -> np.ndarray:
        """The numbers of a vector."""
        dtype, count = np.dtype(_ARRAYS[kind]), self.number("uint", at)
        return self.array(dtype, at + 4, int(count) * dtype.itemsize)

    def array(self, dtype: np.dtype, start: int, size: int) -> np.ndarray:
        """``size`` bytes as numbers."""
        if not 0 <= start <= start + size <= len(self.data):
            raise Damaged(f"{size} bytes from byte {start} of {len(self.data)}")
        return np.frombuffer(self.data, dtype, size // dtype.itemsize, start) if size else np.zeros(0, dtype)


# ---- tables to what they mean ---------------------------------------------------------------------------------------


def _graph(buffer: _Buffer, where: str) -> Graph:
    model = buffer.table("Model", buffer.follow(0))
    if model["version"] != VERSION:
        raise import_error(
            "from_tflite: a version of the file format that is not read",
            where=where,
            found=str(model["version"]),
            expected=str(VERSION),
            remedy="convert the model again with a current tf.lite.TFLiteConverter",
        )
    signature = next(iter(model["signature_defs"]), None)
    number = 0 if signature is None else signature["subgraph_index"]
    subgraph = _entry(model["subgraphs"], number, "subgraph")
    tensors = tuple(_tensor(buffer, model, t) for t in subgraph["tensors"])
    operators = tuple(_operator(buffer, model, o, len(tensors)) for o in subgraph["operators"])
    names: dict[str, dict[int, str]] = {"inputs": {}, "outputs": {}}
    if signature is not None:
        names = {kind: {entry["tensor_index"]: entry["name"] for entry in signature[kind]} for kind in names}
    ends = {}
    for kind in names:
        ends[kind] = _named([int(i) for i in subgraph[kind]], names[kind], tensors, kind.removesuffix("s"))
    return Graph(tensors, operators, ends["inputs"], ends["outputs"])


def _entry(entries: Sequence[Any], number: int, what: str) -> Any:
    if not 0 <= number < len(entries):
        raise Damaged(f"{what} {number} of {len(entries)}")
    return entries[number]


def _named(numbers: list[int], names: Mapping[int, str], tensors: tuple[Tensor, ...], kind: str) -> dict[str, int]:
    """Inputs or outputs by the names of the signature, or of the tensors; different ones, if need be by their position."""
    found: dict[str, int] = {}
    for position, number in enumerate(numbers):
        name = names.get(number) or _entry(tensors, number, f"{kind} tensor").name or kind
        found[name if name not in found else f"{name}_{position}"] = number
    return found


def _tensor(buffer: _Buffer, model: Mapping[str, Any], table: Mapping[str, Any]) -> Tensor:
    name, number = table["name"], table["type"]
    dtype = _entry(TYPES, number, f"dtype of the tensor {name!r},")
    shape, signature = (tuple(int(d) for d in table[key]) for key in ("shape", "shape_signature"))
    if any(d < 0 for d in shape):
        raise Damaged(f"tensor {name!r} of shape {shape}")
    opened = tuple(None if d < 0 else d for d in signature) if signature else shape
    if len(opened) != len(shape):
        raise Damaged(f"tensor {name!r} of the shapes {shape} and {signature}")
    found = "sparse values" if table["sparsity"] is not None else "a variable" if table["is_variable"] else ""
    found = found or ("a value in another file" if table["external_buffer"] else "")
    found = found or (f"several {dtype} in a byte" if dtype in NARROW_INTEGERS else "")
    quantisation = table["quantization"]
    if quantisation is not None and quantisation["details_type"]:
        found = found or "quantisation in blocks"
    array = None if found else _value(buffer, model, table, shape, dtype)
    return Tensor(name, opened, dtype, array, _quantisation(quantisation, name, shape), found)


def _value(
    buffer: _Buffer, model: Mapping[str, Any], table: Mapping[str, Any], shape: tuple[int, ...], dtype: str
) -> np.ndarray | None:
    """The array of a constant, None for what is computed, and for what nothing can be computed with."""
    stored = _entry(model["buffers"], table["buffer"], f"buffer of the tensor {table['name']!r},")
    data = stored["data"]
    if stored["offset"] > 1:  # files of more than 2 GiB keep arrays behind the flatbuffer
        data = buffer.array(np.dtype("u1"), int(stored["offset"]), int(stored["size"]))
    if not len(data) or dtype not in DTYPES:
        return None
    element = np.dtype(getattr(ml_dtypes, dtype, dtype) if dtype == "bfloat16" else dtype)
    if math.prod(shape) * element.itemsize != len(data):
        raise Damaged(f"{len(data)} bytes for the tensor {table['name']!r}, {dtype}{list(shape)}")
    if dtype == "bool" and (data > 1).any():
        raise Damaged(f"a byte {data.max()} in the tensor {table['name']!r} of bool")
    return data.view(element.newbyteorder("<") if element.kind in "iuf" else element).reshape(shape).astype(element, copy=False)


def _quantisation(table: Mapping[str, Any] | None, name: str, shape: tuple[int, ...]) -> Quantisation | None:
    if table is None or not len(table["scale"]):
        return None
    scales, zeros, axis = table["scale"].astype(np.float32), table["zero_point"].astype(np.int64), table["quantized_dimension"]
    if not len(zeros):
        zeros = np.zeros(len(scales), np.int64)
    if not (np.isfinite(scales) & (scales > 0)).all() or (np.abs(zeros) >= 2**31).any():
        raise Damaged(f"scales {scales[:4]} and zero points {zeros[:4]} of the tensor {name!r}")
    if len(zeros) == 1:
        zeros = zeros.repeat(len(scales))
    if len(zeros) != len(scales) or (len(scales) > 1 and (not 0 <= axis < len(shape) or shape[axis] != len(scales))):
        raise Damaged(
            f"{len(scales)} scales and {len(zeros)} zero points along axis {axis} of the tensor {name!r}, {list(shape)}"
        )
    return Quantisation(scales, zeros, axis)


def _operator(buffer: _Buffer, model: Mapping[str, Any], table: Mapping[str, Any], tensors: int) -> Operator:
    code = _entry(model["operator_codes"], table["opcode_index"], "operator code")
    # Old files have the number in a byte, which is 127 where a larger one is in the newer field.
    number = max(code["deprecated_builtin_code"], code["builtin_code"])
    kind = OPERATORS[number] if 0 <= number < len(OPERATORS) else f"builtin operator {number}"
    if kind == "CUSTOM":
        kind = f"CUSTOM {code['custom_code']}"
    ends = {key: tuple(int(i) for i in table[key]) for key in ("inputs", "outputs")}
    if any(not -1 <= i < tensors for i in ends["inputs"]) or any(not 0 <= i < tensors for i in ends["outputs"]):
        raise Damaged(f"tensors {ends['inputs']} → {ends['outputs']} of an operator {kind}, of {tensors} tensors")
    options, target = table["builtin_options_type"], table["builtin_options"]
    name = OPTIONS[options] if options < len(OPTIONS) else ""
    attributes = buffer.table(name, target) if name in TABLES and target is not None else {}
    attributes.pop("at", None)
    return Operator(kind, ends["inputs"], ends["outputs"], {"options": name, **attributes})
