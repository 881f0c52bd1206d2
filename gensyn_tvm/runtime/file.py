"""``.gtvm`` files: a zip of the program, its arrays, and ahead-of-time built libraries.

Members: ``manifest.json``, ``program.json`` (the canonical graph), ``params.safetensors`` (parameters, buffers and optimizer
state by name) and ``lib/<target>.so`` for each target. The manifest has size and SHA-256 of every other member. Nothing is
ever unpickled, and nothing is written to disk under a name that comes from a file. Equal contents give equal bytes.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import secrets
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from gensyn_tvm import __version__
from gensyn_tvm.canonical import rules, serialise
from gensyn_tvm.canonical.graph import STATE_ROLES, Graph
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import ZIP_ERRORS, InputError, InvalidFileError, InvalidProgramError, UnsupportedOperatorError, describe
from gensyn_tvm.runtime.arrays import HashingStream, StoredArraysError, pack_arrays, read_arrays

FORMAT = "gensyn_tvm.gtvm"
FORMAT_VERSION = 1

MANIFEST, PROGRAM, PARAMS = "manifest.json", "program.json", "params.safetensors"
_MAX_MANIFEST = 16 * 2**20
_MAGIC = b"PK\x03\x04"
# The earliest date a zip can hold: files do not depend on when they were written.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Library:
    """A program compiled for one target.

    Attributes:
        target: the target's name, also the name of the member: ``lib/<target>.so``.
        data: the shared library.
        features: CPU flags (as ``runtime.cpu.cpu_features`` spells them) without which it must not be run.
        options: what it was compiled with (threads, schedule, …); JSON values.
    """

    target: str
    data: bytes = field(repr=False)
    features: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contents:
    """What a ``.gtvm`` file holds, checked.

    Attributes:
        graph: the canonical graph.
        arrays: little-endian arrays for the graph's parameters, buffers and optimizer state, by input name.
        libraries: by target.
        manifest: the parsed manifest; what the writer's caller added is under ``extra``.
    """

    graph: Graph
    arrays: Mapping[str, np.ndarray]
    libraries: Mapping[str, Library]
    manifest: Mapping[str, Any]


def write_gtvm(
    path: str | os.PathLike[str],
    graph: Graph,
    arrays: Mapping[str, np.ndarray],
    libraries: Mapping[str, Library] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a ``.gtvm`` file: completely, or not at all (whatever was at ``path`` then stays).

    Args:
        path: where to.
        graph: the canonical graph.
        arrays: one array for every parameter, buffer and optimizer input of the graph, by name.
        libraries: compiled forms, by target.
        extra: JSON values to keep in the manifest.

    Raises:
        InputError: arrays do not match the graph; an unusable target name; ``extra`` or options that JSON cannot hold.
        OSError: the file cannot be written.
    """
    libraries = libraries or {}
    problem = _array_problem(graph, arrays)
    if problem:
        raise InputError(describe("the arrays do not belong to this program", found=problem[0], expected=problem[1]))
    members = {PROGRAM: serialise.dumps(graph).encode("ascii"), PARAMS: pack_arrays(arrays)}
    entries = []
    for target, library in sorted(libraries.items()):
        if target != library.target or not _TARGET.fullmatch(target):
            raise InputError(
                describe("a library has an unusable target name", found=f"{target!r}", expected="letters, digits and . _ + -")
            )
        name = f"lib/{target}.so"
        members[name] = library.data
        features = sorted(library.features)
        entries.append({"target": target, "path": name, "features": features, "options": dict(library.options)})
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "numerics": rules.NUMERICS_VERSION,
        "created_by": f"gensyn_tvm {__version__}",
        "program_digest": serialise.digest(graph),
        "members": {n: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)} for n, d in sorted(members.items())},
        "libraries": entries,
        "extra": dict(extra or {}),
    }
    try:
        text = json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(describe("the manifest must be JSON", found=str(error), expected="JSON values")) from error
    members[MANIFEST] = text.encode("ascii")
    _write_atomically(Path(path), _zip(members))


def read_gtvm(path: str | os.PathLike[str]) -> Contents:
    """Read and check a ``.gtvm`` file.

    Raises:
        InvalidFileError: the file cannot be opened, or is anything else than what ``write_gtvm`` of this version writes.
    """
    where = os.fspath(path)
    try:
        with open(where, "rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                _refuse(where, "a file that does not begin like a zip", "a .gtvm file")
            with zipfile.ZipFile(stream) as archive:
                return _read(archive, where)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        _refuse(
            where, f"a path that cannot be opened ({error.strerror})", "a readable .gtvm file", "check the path", cause=error
        )
    except (InvalidProgramError, UnsupportedOperatorError) as error:
        _refuse(where, f"a program that is not valid: {error}", "a canonical graph that this version executes", cause=error)
    except RecursionError as error:
        _refuse(where, "JSON nested too deeply", "a manifest and a program as written by gensyn_tvm", cause=error)
    except ZIP_ERRORS as error:
        _refuse(where, f"a damaged or truncated zip ({error})", "an intact .gtvm file", cause=error)


def _refuse(where: str, found: str, expected: str, remedy: str = "", cause: Exception | None = None) -> NoReturn:
    remedy = remedy or "get the file again, or save it again with this version"
    raise InvalidFileError(
        describe("not a valid .gtvm file", where=where, found=found, expected=expected, remedy=remedy)
    ) from cause


def _read(archive: zipfile.ZipFile, where: str) -> Contents:
    infos = _safe_members(archive, where)
    manifest = _read_manifest(archive, infos, where)
    sizes = manifest["members"]
    declared = set(sizes) | {MANIFEST}
    if set(infos) != declared:
        missing, extra = sorted(declared - set(infos)), sorted(set(infos) - declared)
        _refuse(where, f"missing members {missing}, unknown members {extra}", "the members of the manifest")
    expected = {PROGRAM, PARAMS} | {entry["path"] for entry in manifest["libraries"]}
    if set(sizes) != expected:
        _refuse(where, f"members {sorted(sizes)}", f"members {sorted(expected)}")
    data = {name: _read_member(archive, infos[name], sizes[name], where) for name in sorted(sizes) if name != PARAMS}
    graph = serialise.loads(_decoded(data[PROGRAM], PROGRAM, where))
    found = serialise.digest(graph)
    if found != manifest["program_digest"]:
        _refuse(where, f"a program with digest {found}", f"digest {manifest['program_digest']}, as the manifest says")
    arrays = _read_params(archive, infos[PARAMS], sizes[PARAMS], graph, where)
    libraries = {
        entry["target"]: Library(entry["target"], data[entry["path"]], tuple(entry["features"]), entry["options"])
        for entry in manifest["libraries"]
    }
    return Contents(graph, arrays, libraries, manifest)


def _safe_members(archive: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    """The archive's members by name, after refusing every kind of member that no ``.gtvm`` file has."""
    if archive.comment:
        _refuse(where, "a zip with a comment", "no comment")
    infos: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        # orig_filename is the name before zipfile cuts it at a NUL and turns separators around.
        name = info.orig_filename
        parts = name.split("/")
        if name.startswith("/") or "\\" in name or "\0" in name or ":" in name or any(p in ("", ".", "..") for p in parts):
            _refuse(where, f"a member named {name!r}", "plain relative member names", "do not use this file")
        mode = info.external_attr >> 16
        if mode and (mode & 0o170000) not in (0, 0o100000):
            _refuse(where, f"member {name!r} is a link or special file", "regular files", "do not use this file")
        if info.flag_bits & 0x1:
            _refuse(where, f"member {name!r} is encrypted", "no encryption")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            _refuse(where, f"member {name!r} has compression method {info.compress_type}", "stored or deflated members")
        if name in infos:
            _refuse(where, f"two members named {name!r}", "one member of each name", "do not use this file")
        infos[name] = info
    return infos


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, entry: Mapping[str, Any], where: str) -> bytes:
    _check_size(info, entry, where)
    data = _bounded(archive, info, where)
    _check_digest(info, hashlib.sha256(data).hexdigest(), entry, where)
    return data


def _read_params(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, entry: Mapping[str, Any], graph: Graph, where: str
) -> dict[str, np.ndarray]:
    """The arrays, read where they stay; a member with another digest is refused as such, whatever is in it."""
    _check_size(info, entry, where)
    _check_ratio(info, where)
    problem, arrays = None, {}
    with archive.open(info) as member:
        stream = HashingStream(member)
        try:
            arrays = read_arrays(stream, info.file_size, _state_types(graph))
        except StoredArraysError as error:
            problem = error
        _check_length(info, stream.drain(info.file_size), where)
    _check_digest(info, stream.hexdigest(), entry, where)
    if problem is not None:
        _refuse(where, f"in {PARAMS}: {problem.found}", problem.expected, cause=problem)
    return arrays


def _check_size(info: zipfile.ZipInfo, entry: Mapping[str, Any], where: str) -> None:
    if info.file_size != entry["size"]:
        _refuse(
            where, f"member {info.orig_filename!r} of {info.file_size} bytes", f"{entry['size']} bytes, as the manifest says"
        )


def _check_digest(info: zipfile.ZipInfo, found: str, entry: Mapping[str, Any], where: str) -> None:
    if found != entry["sha256"]:
        _refuse(where, f"member {info.orig_filename!r} with another SHA-256", "the SHA-256 of the manifest")


def _check_ratio(info: zipfile.ZipInfo, where: str) -> None:
    # Deflate cannot expand more than 1032 times: a directory that claims more lies, and must not make us allocate.
    if info.file_size > 1032 * info.compress_size + 64:
        _refuse(where, f"member {info.orig_filename!r} claims {info.file_size} bytes in {info.compress_size}", "a true size")


def _check_length(info: zipfile.ZipInfo, found: int, where: str) -> None:
    if found != info.file_size:
        _refuse(where, f"member {info.orig_filename!r} is shorter or longer than declared", f"{info.file_size} bytes")


def _bounded(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> bytes:
    """The member's bytes; never decompresses more than the size that the directory declares."""
    _check_ratio(info, where)
    with archive.open(info) as stream:
        data = stream.read(info.file_size)
        _check_length(info, len(data) + len(stream.read(1)), where)
    return data


def _read_manifest(archive: zipfile.ZipFile, infos: Mapping[str, zipfile.ZipInfo], where: str) -> dict[str, Any]:
    if MANIFEST not in infos:
        _refuse(where, f"a zip without {MANIFEST}", "a .gtvm file")
    if infos[MANIFEST].file_size > _MAX_MANIFEST:
        _refuse(where, f"{MANIFEST} of {infos[MANIFEST].file_size} bytes", f"at most {_MAX_MANIFEST}")
    text = _decoded(_bounded(archive, infos[MANIFEST], where), MANIFEST, where)
    try:
        manifest = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except ValueError as error:
        _refuse(where, f"{MANIFEST} is not valid JSON ({error})", "JSON", cause=error)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        _refuse(where, f"{MANIFEST} of another format", f"format {FORMAT!r}")
    if type(manifest.get("format_version")) is not int or manifest["format_version"] != FORMAT_VERSION:
        _refuse(
            where,
            f"format version {manifest.get('format_version')!r}",
            f"version {FORMAT_VERSION}",
            "install the gensyn_tvm release that wrote it",
        )
    if manifest.get("numerics") != rules.NUMERICS_VERSION:
        _refuse(
            where,
            f"numerics version {manifest.get('numerics')!r}",
            f"version {rules.NUMERICS_VERSION!r}, which this installation executes",
            "install the gensyn_tvm release that has it",
        )
    problem = _manifest_problem(manifest)
    if problem:
        _refuse(where, f"in {MANIFEST}: {problem}", "a manifest as written by gensyn_tvm")
    return manifest


def _manifest_problem(manifest: Mapping[str, Any]) -> str:
    """What is wrong with the types and values of a manifest; empty if nothing."""
    kinds: dict[str, type] = {
        "format": str,
        "format_version": int,
        "numerics": str,
        "created_by": str,
        "program_digest": str,
        "members": dict,
        "libraries": list,
        "extra": dict,
    }
    if set(manifest) != set(kinds):
        return f"keys {sorted(manifest)}"
    for key, kind in kinds.items():
        if type(manifest[key]) is not kind:
            return f"{key} is {type(manifest[key]).__name__}, not {kind.__name__}"
    if not _HEX.fullmatch(manifest["program_digest"]):
        return "program_digest is not a SHA-256"
    for name, entry in manifest["members"].items():
        if not isinstance(entry, dict) or set(entry) != {"sha256", "size"}:
            return f"member {name!r} needs sha256 and size"
        if type(entry["size"]) is not int or entry["size"] < 0:
            return f"member {name!r} has size {entry['size']!r}"
        if not isinstance(entry["sha256"], str) or not _HEX.fullmatch(entry["sha256"]):
            return f"member {name!r} has no SHA-256"
    targets = [e.get("target") if isinstance(e, dict) else None for e in manifest["libraries"]]
    for target, entry in zip(targets, manifest["libraries"], strict=True):
        problem = _library_problem(target, entry)
        if problem:
            return problem
    return "two libraries for one target" if len(set(targets)) != len(targets) else ""


def _library_problem(target: Any, entry: Any) -> str:
    if not isinstance(target, str) or set(entry) != {"target", "path", "features", "options"}:
        return "a library needs target, path, features and options"
    if not _TARGET.fullmatch(target):
        return f"a library has target {target!r}"
    if entry["path"] != f"lib/{target}.so":
        return f"the library for {target!r} has path {entry['path']!r}, not 'lib/{target}.so'"
    features = entry["features"]
    if not isinstance(features, list) or not all(isinstance(f, str) for f in features):
        return f"the library for {target!r} has features that are not a list of strings"
    return "" if isinstance(entry["options"], dict) else f"the library for {target!r} has options that are not an object"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _decoded(data: bytes, name: str, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(where, f"{name} is not UTF-8 ({error})", "UTF-8 text", cause=error)


def _state_types(graph: Graph) -> dict[str, TensorType]:
    return {i.name: i.type for i in graph.inputs if i.role in STATE_ROLES}


def _array_problem(graph: Graph, arrays: Mapping[str, Any]) -> tuple[str, str] | None:
    """(found, expected) of the first disagreement between arrays and the graph's state inputs."""
    wanted = _state_types(graph)
    missing, extra = sorted(set(wanted) - set(arrays)), sorted(set(arrays) - set(wanted))
    if missing or extra:
        return f"missing arrays {missing}, unknown arrays {extra}", "one array for each parameter, buffer and optimizer input"
    for name, type_ in wanted.items():
        array = arrays[name]
        if not isinstance(array, np.ndarray):
            return f"{name!r} is {type(array).__name__}", "a NumPy array"
        if array.shape != type_.shape or array.dtype.name != type_.dtype:
            return f"{name!r} is {array.dtype}{list(array.shape)}", str(type_)
    return None


def _zip(members: Mapping[str, bytes]) -> bytes:
    """A zip with stored members only: compressed bytes would depend on the version of zlib."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, members[name])
    return buffer.getvalue()


def check_destination(path: Path) -> None:
    """Refuse a path that no file can have, before long work whose result is to go there.

    Raises:
        OSError: it is a folder, or its folder does not exist or cannot be written.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path.parent))


def _write_atomically(path: Path, data: bytes) -> None:
    check_destination(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    # O_EXCL with the usual mode, rather than tempfile's 0600: the file gets the permissions of the user's umask.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
