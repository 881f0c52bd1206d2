"""Libraries that were built before: the second build of a program reads a file.

A key covers all that decides on the code: the canonical graph, target, style, recomputed nodes, tuned records, the versions of
TVM and of the numerics, and every source file of this package. ``GENSYN_TVM_CACHE`` names the folder, or ``off``;
``GENSYN_TVM_CACHE_BYTES`` how large it may become.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path

from gensyn_tvm.canonical import rules, serialise
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.schedules import records
from gensyn_tvm.targets.cpu import CpuTarget
from gensyn_tvm.targets.gpu.target import GpuTarget
from gensyn_tvm.targets.nvcc import find_toolkit
from gensyn_tvm.targets.resolve import Target

FOLDER, LIMIT = "GENSYN_TVM_CACHE", "GENSYN_TVM_CACHE_BYTES"
_DEFAULT_LIMIT = 2 * 1024**3
_SUFFIX = ".library"
_DIGEST = 32  # bytes of ``_digest`` in front of a library
_LOG = logging.getLogger(__name__)
_FRESH: ContextVar[bool] = ContextVar("fresh", default=False)


@contextmanager
def fresh_builds() -> Iterator[None]:
    """Build everything anew within, and keep nothing: what is shown there is what this installation builds."""
    token = _FRESH.set(True)
    try:
        yield
    finally:
        _FRESH.reset(token)


def folder() -> Path | None:
    """Where libraries are kept; None if they are not."""
    given = os.environ.get(FOLDER, "")
    if given.lower() == "off":
        return None
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "gensyn_tvm"
    except RuntimeError:  # a user without a home
        return None


def limit() -> int:
    """Bytes that the folder may hold.

    Raises:
        InputError: the environment says something that is no number of bytes.
    """
    given = os.environ.get(LIMIT, "")
    if not given:
        return _DEFAULT_LIMIT
    if not given.isascii() or not given.isdigit():
        raise InputError(describe(f"{LIMIT} is not valid", found=repr(given), expected="a number of bytes"))
    return int(given)


def built_once(graph: Graph, target: Target, style: str, recomputed: Collection[int], build: Callable[[], bytes]) -> bytes:
    """The library of a program, out of the cache or built and put into it.

    A cache that cannot be read or written costs time, not the build; that is logged.
    """
    place = folder()
    # The oracle's code depends on the system's C compiler.
    if place is None or target.kind == "c" or _FRESH.get():
        return build()
    most = limit()
    path = place / (key(graph, target, style, recomputed) + _SUFFIX)
    library = _read(path)
    if library is None:
        library = build()
        try:
            _write(path, library)
            _shrink(place, most)
        except OSError as error:
            _LOG.info("the build cache cannot be written: %s", error)
    return library


def key(graph: Graph, target: Target, style: str, recomputed: Collection[int]) -> str:
    """A name for everything that decides on a library."""
    record = {
        "graph": serialise.dumps(graph),
        "target": {k: str(v) for k, v in asdict(target).items()},
        "style": style,
        "recomputed": sorted(recomputed),
        "numerics": rules.NUMERICS_VERSION,
        "versions": [version("apache-tvm"), version("apache-tvm-ffi")],
        "sources": sources_digest(),
        "toolkit": find_toolkit().release if isinstance(target, GpuTarget) else None,
        "tuned": _records(target).digest() if style == "fast" else "",
    }
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _records(target: Target) -> records.Records:
    return records.active(target.name, target.maker if isinstance(target, CpuTarget) else "")


@cache
def sources_digest() -> str:
    """A digest of this package's code, so that a changed pass or schedule builds again."""
    root, digest = Path(__file__).resolve().parent, hashlib.sha256()
    for top, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        for name in sorted(f for f in files if f.endswith(".py")):
            path = Path(top, name)
            digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _digest(path: Path, library: bytes) -> bytes:
    """Of a library and the key that it belongs to."""
    return hashlib.sha256(path.name.encode() + library).digest()


def _read(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _LOG.info("the build cache cannot be read: %s", error)
        return None
    if _digest(path, data[_DIGEST:]) != data[:_DIGEST]:
        _LOG.warning("%s in the build cache is damaged; the program is built again", path.name)
        return None
    try:
        os.utime(path)  # the last to be removed
    except OSError:
        _LOG.info("the build cache is read-only")
    return data[_DIGEST:]


def _write(path: Path, library: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_bytes(_digest(path, library) + library)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def entries(place: Path) -> list[tuple[Path, int]]:
    """Files of a cache with their sizes, the one that was used longest ago first."""
    found = []
    for path in place.glob(f"*{_SUFFIX}"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue  # another process removed it
        found.append((status.st_mtime_ns, path, status.st_size))
    return [(path, size) for _, path, size in sorted(found)]


def _shrink(place: Path, most: int) -> None:
    files = entries(place)
    total = sum(size for _, size in files)
    for path, size in files[:-1]:
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= size


def clear(place: Path) -> int:
    """Remove all libraries; returns how many bytes they took."""
    files = entries(place)
    for path, _ in files:
        path.unlink(missing_ok=True)
    return sum(size for _, size in files)
