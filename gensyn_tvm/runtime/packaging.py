"""Executables to and from ``.gtvm`` files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gensyn_tvm.errors import InputError, InvalidFileError, TargetError, describe
from gensyn_tvm.runtime.cpu import cpu_features, required_features
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.runtime.file import Contents, Library, read_gtvm, write_gtvm
from gensyn_tvm.targets.cpu import LEVELS

if TYPE_CHECKING:
    from gensyn_tvm.compiler import Source

#: Which library is taken if a file has several: the widest that runs here; the oracle last.
_PREFERENCE = (*LEVELS, "c")
_LEARNING_RATE = "learning_rate"


def _features(target: str) -> tuple[str, ...]:
    return tuple(sorted(required_features(target if target in LEVELS else "x86-64")))


def save_executables(path: Path, executables: Sequence[Executable], state: State | None = None) -> None:
    """Write one program with the libraries of all ``executables``; ``state`` or else the first one's arrays are stored.

    Raises:
        InputError: the executables are not of one program, or two have the same target.
        OSError: the file cannot be written; what was at ``path`` stays.
    """
    first = executables[0]
    libraries: dict[str, Library] = {}
    for exe in executables:
        if exe.digest != first.digest:
            raise InputError(f"executables of different programs: {exe.digest} and {first.digest}")
        if exe.target in libraries:
            raise InputError(f"two executables for target {exe.target!r}")
        libraries[exe.target] = Library(exe.target, exe.library, _features(exe.target), {"schedule": exe.schedule})
    arrays = (state or first.state).numpy()
    write_gtvm(path, first.graph, arrays, libraries, _extra(first.learning_rate))


def save_source(path: Path, source: Source) -> None:
    """Write a program without any library."""
    write_gtvm(path, source.graph, source.state.numpy(), {}, _extra(source.learning_rate))


def _extra(learning_rate: float | None) -> dict[str, Any]:
    # As text, because JSON readers may round numbers.
    return {} if learning_rate is None else {_LEARNING_RATE: float(learning_rate).hex()}


def load_source(path: str | os.PathLike[str]) -> Source:
    """The program and arrays of a file, ready for ``compile``.

    Raises:
        InvalidFileError: the file is damaged or not a ``.gtvm`` file.
    """
    return _source(read_gtvm(path))


def _source(contents: Contents) -> Source:
    from gensyn_tvm.compiler import Source

    return Source(contents.graph, State(contents.arrays), _learning_rate(contents.manifest))


def _learning_rate(manifest: Mapping[str, Any]) -> float | None:
    text = manifest["extra"].get(_LEARNING_RATE)
    if text is None:
        return None
    try:
        return float.fromhex(text)
    except (TypeError, ValueError, OverflowError):
        raise InvalidFileError(f"the manifest's {_LEARNING_RATE} is not a hexadecimal float: {text!r}") from None


def load(path: str | os.PathLike[str], *, target: str | None = None, threads: int | None = None) -> Executable:
    """Load a saved program with a library that runs on this machine.

    A library is machine code: load files only from people whose programs you would run.

    Args:
        path: a ``.gtvm`` file.
        target: which of its libraries; by default the widest instruction set that this machine has.
        threads: compute threads; all cores by default.

    Raises:
        InvalidFileError: the file is damaged or not a ``.gtvm`` file.
        TargetError: it has no library that runs here.
    """
    contents = read_gtvm(path)
    library = _choose(contents.libraries, target, str(path))
    return Executable.from_library(
        contents.graph,
        State(contents.arrays),
        library.data,
        target=library.target,
        schedule=str(library.options.get("schedule", "")),
        threads=threads,
        learning_rate=_learning_rate(contents.manifest),
    )


def _choose(libraries: Mapping[str, Library], target: str | None, path: str) -> Library:
    here = cpu_features()
    runnable = [name for name in _PREFERENCE if name in libraries and set(libraries[name].features) <= here]
    chosen = target or next(iter(runnable), "")
    if chosen in runnable:
        return libraries[chosen]
    missing = set(libraries[chosen].features) - here if chosen in libraries else set()
    raise TargetError(
        describe(
            "no library in the file runs on this machine" if target is None else f"target {target!r} cannot be loaded",
            where=path,
            found=f"libraries for {', '.join(sorted(libraries)) or 'no target'}"
            + (f"; this processor lacks {', '.join(sorted(missing))}" if missing else ""),
            expected=f"one of {', '.join(runnable)}" if runnable else "a library for this processor",
            remedy=f"compile it here: gensyn-tvm compile {path} --target native",
        )
    )
