"""Tensors that an ONNX model keeps in other files. A model may come from anybody: it gets bytes of ordinary files in its own
folder, and nothing else, whatever it says. Nothing here knows TVM.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import onnx

from gensyn_tvm.errors import ImportModelError, import_error
from gensyn_tvm.frontends.onnx_structure import subgraphs, tensor_bytes

#: How often, on average, the tensors of a model may use a byte of its files.
_REUSE = 4


def load_external(proto: onnx.ModelProto, folder: str, origin: str, *, in_memory: bool) -> None:
    """Put the bytes of every tensor that is stored outside into the model.

    Args:
        proto: a model that ``check_structure`` accepts.
        folder: where the model's file is.
        in_memory: the model has no file; then no tensor may be stored outside.

    Raises:
        ImportModelError: a location that is no ordinary file in the folder (absolute, with ``..``, a link of any kind), bytes
            that the file does not have, another number of bytes than the tensor's shape takes.
    """
    files: dict[str, int] = {}
    total = 0
    for tensor in external_tensors(proto):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if in_memory:
            raise _refuse(origin, tensor, location, "tensors inside the ModelProto", "pass the path of the model")
        size = tensor_bytes(tensor, f"tensor {tensor.name!r}", origin)
        with _open(tensor, folder, location, origin) as stream:
            files[location] = os.fstat(stream.fileno()).st_size
            total += size
            if total > _REUSE * sum(files.values()):
                found = f"tensors of {total} bytes out of files of {sum(files.values())} bytes"
                raise _fail(origin, tensor, found, f"at most {_REUSE} times as many bytes as the files have")
            tensor.raw_data = _read(stream, tensor, entries, size, files[location], origin)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")


def external_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a model that are stored outside."""
    nodes = list(proto.graph.node) + [node for function in proto.functions for node in function.node]
    yield from _external(_stored(proto.graph))
    while nodes:
        node = nodes.pop()
        for attribute in node.attribute:
            sparse = [attribute.sparse_tensor, *attribute.sparse_tensors]
            yield from _external([attribute.t, *attribute.tensors, *(t for s in sparse for t in (s.values, s.indices))])
        for graph in subgraphs(node):
            yield from _external(_stored(graph))
            nodes.extend(graph.node)


def _stored(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    return [*graph.initializer, *(t for s in graph.sparse_initializer for t in (s.values, s.indices))]


def _external(tensors: Iterable[onnx.TensorProto]) -> Iterator[onnx.TensorProto]:
    return (t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL)


def _refuse(origin: str, tensor: Any, location: str, expected: str, remedy: str = "") -> ImportModelError:
    return import_error(
        f"{origin}: tensor {tensor.name!r} is stored outside",
        found=f"location {location!r}",
        expected=expected,
        remedy=remedy or "store the model with its weights inside",
    )


def _fail(origin: str, tensor: Any, found: str, expected: str) -> ImportModelError:
    message, where = f"{origin}: cannot read the model's external data", f"tensor {tensor.name!r}"
    remedy = "copy the model with all its files, or store it with its weights inside"
    return import_error(message, where=where, found=found, expected=expected, remedy=remedy)


def _open(tensor: Any, folder: str, location: str, origin: str) -> BinaryIO:
    """The file, opened folder by folder without following links, so that nobody can exchange one in between."""
    path = PurePosixPath(location)
    parts = path.parts
    if not parts or path.is_absolute() or ".." in parts or "\0" in location or "\\" in location:
        raise _refuse(origin, tensor, location, "a file in the model's folder")
    directory = None
    try:
        directory = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in parts[:-1]:
            outer = directory
            directory = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=outer)
            os.close(outer)
        # Without O_NONBLOCK the opening of a pipe would wait for somebody who writes.
        descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise _fail(origin, tensor, f"{location!r}: {error.strerror}", "an ordinary file, no link") from error
    finally:
        if directory is not None:
            os.close(directory)
    stream = os.fdopen(descriptor, "rb")
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        stream.close()
        kind = "a file with several hard links" if stat.S_ISREG(found.st_mode) else "no ordinary file"
        raise _fail(origin, tensor, f"{location!r}: {kind}", "an ordinary file with one name")
    return stream


def _read(stream: BinaryIO, tensor: Any, entries: dict[str, str], size: int, available: int, origin: str) -> bytes:
    offset = _number(tensor, entries, "offset", 0, origin)
    length = _number(tensor, entries, "length", available - offset, origin)
    if length != size:
        expected = f"{size} bytes for the shape {tuple(tensor.dims)}"
        raise _fail(origin, tensor, f"{length} bytes from offset {offset}", expected)
    if offset + length > available:
        found = f"offset {offset} and length {length}"
        raise _fail(origin, tensor, found, f"an end within the {available} bytes of {entries.get('location')!r}")
    stream.seek(offset)
    data = stream.read(length)
    if len(data) != length:
        raise _fail(origin, tensor, f"{len(data)} bytes", f"{length} bytes: the file has changed")
    return data


def _number(tensor: Any, entries: dict[str, str], key: str, default: int, origin: str) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _fail(origin, tensor, f"{key} {text[:40]!r}", "a number of bytes")
    return int(text)
