"""Executables to and from ``.gtvm`` files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gensyn_tvm.errors import InputError, InvalidFileError, TargetError, describe
from gensyn_tvm.runtime.cpu import cpu_features, required_features
from gensyn_tvm.runtime.executable import RELEASED, Executable, State
from gensyn_tvm.runtime.file import Contents, Library, read_gtvm, write_gtvm
from gensyn_tvm.targets.cpu import LEVELS
from gensyn_tvm.targets.gpu.target import CUDA

if TYPE_CHECKING:
    from gensyn_tvm.compiler import Source

#: Which library is taken if a file has several: the widest that runs here; then the oracle; a GPU's only if it is the only one,
#: because whether there is a GPU shows when it runs.
_PREFERENCE = (*LEVELS, "c", CUDA.name)
_LEARNING_RATE = "learning_rate"
_CLOCK = ("step", "seed")
_INTEGER = re.compile("-?[0-9]{1,19}", re.ASCII)


def _features(target: str) -> tuple[str, ...]:
    if target == CUDA.name:
        return ()
    return tuple(sorted(required_features(target if target in LEVELS else "x86-64")))


def save_executables(path: Path, executables: Sequence[Executable], state: State | None = None) -> None:
    """Write one program with the libraries of all ``executables``; ``state`` or else the first one's arrays are stored.

    Raises:
        InputError: the executables are not of one program, or two have the same target; there is no state.
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
    stored = first.state if state is None else state
    if stored is RELEASED:
        raise InputError("the executable's state was handed to a training run: give save(…, state=run.state)")
    write_gtvm(path, first.graph, stored.numpy(), libraries, _extra(first.learning_rate, stored))


def save_source(path: Path, source: Source) -> None:
    """Write a program without any library."""
    write_gtvm(path, source.graph, source.state.numpy(), {}, _extra(source.learning_rate, source.state))


def _extra(learning_rate: float | None, state: State) -> dict[str, Any]:
    """What a file keeps beside graph, arrays and libraries; as text, because JSON readers may round numbers."""
    extra = {} if learning_rate is None else {_LEARNING_RATE: float(learning_rate).hex()}
    return {**extra, **{name: str(getattr(state, name)) for name in _CLOCK if getattr(state, name)}}


def load_source(path: str | os.PathLike[str]) -> Source:
    """The program and arrays of a file, ready for ``compile``.

    Raises:
        InvalidFileError: the file is damaged or not a ``.gtvm`` file.
    """
    return _source(read_gtvm(path))


def _source(contents: Contents) -> Source:
    from gensyn_tvm.compiler import Source

    return Source(contents.graph, _state(contents), _learning_rate(contents.manifest))


def _state(contents: Contents) -> State:
    step, seed = (contents.manifest["extra"].get(name, "0") for name in _CLOCK)
    for name, text in zip(_CLOCK, (step, seed), strict=True):
        if not isinstance(text, str) or not _INTEGER.fullmatch(text) or not -(2**63) <= int(text) < 2**63:
            raise InvalidFileError(f"the manifest's {name} is not a 64-bit integer: {text!r}")
    return State(contents.arrays, int(step), int(seed))


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

    A library is machine code: load files only from people whose programs you would run. The executable's ``state`` is what was
    saved, with its step and seed; handed to a training step it continues the training.

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
        _state(contents),
        library.data,
        target=library.target,
        schedule=str(library.options.get("schedule", "")),
        threads=threads,
        learning_rate=_learning_rate(contents.manifest),
        owned=True,
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
