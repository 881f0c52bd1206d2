"""Checkpoints: folders ``step-000000000100`` with ``state.safetensors`` and ``checkpoint.json``, whole or not there at all.

A checkpoint is written into a temporary folder beside its place, every file and the folder are synced, and the folder gets its
name by one rename. Reading verifies everything: the digest of the JSON itself, size and SHA-256 of the arrays' file, names,
dtypes and shapes of the arrays, and the digest of the state. Dtypes that safetensors does not have in NumPy are stored as their
bit patterns (``canonical.types.to_carrier``); the JSON says the dtype.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gensyn_tvm import __version__
from gensyn_tvm.canonical import rules
from gensyn_tvm.canonical.types import DTYPES, TensorType
from gensyn_tvm.errors import CheckpointError, InvalidProgramError, describe
from gensyn_tvm.evidence.digests import state_digest
from gensyn_tvm.runtime.arrays import StoredArraysError, pack_arrays, unpack_arrays
from gensyn_tvm.runtime.executable import State, as_array
from gensyn_tvm.trainer.files import sync_folder, write_synced

FORMAT = "gensyn_tvm.checkpoint"
FORMAT_VERSION = 1
MANIFEST, ARRAYS = "checkpoint.json", "state.safetensors"

_NAME = re.compile(r"step-(\d{12,})", re.ASCII)
_TEMPORARY = ".unfinished-"
_KEYS: dict[str, type] = {
    "format": str,
    "format_version": int,
    "numerics": str,
    "created_by": str,
    "program": str,
    "step": int,
    "seed": int,
    "data": dict,
    "learning_rates": dict,
    "optimizer": str,
    "best": dict,
    "arrays": dict,
    "file": dict,
    "state_digest": str,
    "digest": str,
}


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        path: its folder.
        state: arrays, step and seed.
        manifest: what ``checkpoint.json`` says.
    """

    path: Path
    state: State
    manifest: Mapping[str, Any]


def write_checkpoint(
    folder: Path,
    state: State,
    *,
    program: str,
    data: Mapping[str, Any],
    learning_rates: Mapping[str, Any],
    optimizer: str = "",
    best: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``folder/step-…`` for the state's step; what is there already stays if it is whole and the same, else is replaced.

    Args:
        folder: made if needed.
        state: what is stored.
        program: digest of the training step.
        data, learning_rates: descriptions of the data with the cursor, and of the learning rates up to here; JSON values.
        optimizer: description of the optimizer.
        best: the best evaluation so far; JSON values.

    Raises:
        OSError: something cannot be written; no checkpoint that was there is harmed.
    """
    arrays = {name: as_array(value) for name, value in state.arrays.items()}
    packed = pack_arrays(arrays)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "numerics": rules.NUMERICS_VERSION,
        "created_by": f"gensyn_tvm {__version__}",
        "program": program,
        "step": state.step,
        "seed": state.seed,
        "data": dict(data),
        "learning_rates": dict(learning_rates),
        "optimizer": optimizer,
        "best": dict(best or {}),
        "arrays": {n: {"dtype": a.dtype.name, "shape": list(a.shape)} for n, a in arrays.items()},
        "file": {"name": ARRAYS, "size": len(packed), "sha256": hashlib.sha256(packed).hexdigest()},
        "state_digest": state_digest(arrays),
    }
    facts["digest"] = _own_digest(facts)
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{state.step:012d}"
    if _is_written(final, facts):
        return final
    temporary = folder / f"{_TEMPORARY}{secrets.token_hex(8)}"
    temporary.mkdir()
    try:
        write_synced(temporary / ARRAYS, packed)
        write_synced(
            temporary / MANIFEST, (json.dumps(facts, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")
        )
        sync_folder(temporary)
        if final.exists():
            _discard(final)
        os.rename(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder)
    return final


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        CheckpointError: it is missing, damaged, or of another version; the message names the file and what is wrong with it.
    """
    path = Path(path)
    manifest = _read_manifest(path / MANIFEST)
    where = path / ARRAYS
    try:
        data = where.read_bytes()
    except OSError as error:
        _refuse(where, str(error.strerror), "the checkpoint's arrays", error)
    if len(data) != manifest["file"]["size"]:
        _refuse(where, f"{len(data)} bytes", f"{manifest['file']['size']} bytes")
    found = hashlib.sha256(data).hexdigest()
    if found != manifest["file"]["sha256"]:
        _refuse(where, f"SHA-256 {found}", f"SHA-256 {manifest['file']['sha256']}")
    try:
        arrays = unpack_arrays(data, {n: TensorType(tuple(e["shape"]), e["dtype"]) for n, e in manifest["arrays"].items()})
    except (StoredArraysError, InvalidProgramError) as error:
        found = getattr(error, "found", str(error))
        _refuse(where, found, getattr(error, "expected", "the arrays that the checkpoint states"), error)
    found = state_digest(arrays)
    if found != manifest["state_digest"]:
        _refuse(where, f"a state with digest {found}", f"digest {manifest['state_digest']}")
    return Checkpoint(path, State(arrays, manifest["step"], manifest["seed"]), manifest)


def checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints of a folder, earliest step first; unfinished ones do not count, and nothing is verified."""
    folder = Path(folder)
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, key=_step_of)


def latest_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """The last checkpoint of a folder that is whole; a ``RuntimeWarning`` says what is wrong with each later one.

    Raises:
        CheckpointError: there is none, or none is whole.
    """
    problems = []
    for path in reversed(checkpoints(folder)):
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"{problem}\n  instead: {path}", RuntimeWarning, stacklevel=2)
        return checkpoint
    found = "\n".join(problems) if problems else "no checkpoint"
    raise CheckpointError(
        describe("there is nothing to continue", where=str(folder), found=found, expected="a whole checkpoint")
    )


def remove_old(folder: Path, keep: int, best_step: int | None = None) -> None:
    """Remove all but the last ``keep`` checkpoints and that of ``best_step``, and what killed runs left unfinished."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in checkpoints(folder)[:-keep]:
        if _step_of(path) != best_step:
            _discard(path)


def _is_written(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether the same checkpoint is there and whole. Replacing it would leave a moment without it."""
    if not path.exists():
        return False
    try:
        return bool(read_checkpoint(path).manifest["digest"] == facts["digest"])
    except CheckpointError:
        return False


def _discard(path: Path) -> None:
    """Remove a checkpoint; its name goes first, so that no half of it is ever taken for one."""
    doomed = path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


# ---- verification ---------------------------------------------------------------------------------------------------


def _refuse(where: Path, found: str, expected: str, cause: Exception | None = None, what: str = "damaged") -> NoReturn:
    raise CheckpointError(
        describe(
            f"a checkpoint is {what}",
            where=str(where),
            found=found,
            expected=expected,
            remedy="continue from an earlier checkpoint",
        )
    ) from cause


def _own_digest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def _read_manifest(where: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(where.read_bytes().decode("utf-8"))
    except OSError as error:
        _refuse(where, str(error.strerror), "a checkpoint", error)
    except (ValueError, RecursionError) as error:
        _refuse(where, f"no JSON ({error})", "what gensyn_tvm wrote", error)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        _refuse(where, "JSON of another format", f"format {FORMAT!r}")
    if manifest.get("format_version") != FORMAT_VERSION:
        found = f"format version {manifest.get('format_version')!r}"
        _refuse(where, found, f"version {FORMAT_VERSION}", what="of another version")
    if manifest.get("numerics") != rules.NUMERICS_VERSION:
        found = f"numerics version {manifest.get('numerics')!r}"
        _refuse(
            where, found, f"version {rules.NUMERICS_VERSION!r}, which this installation executes", what="of another version"
        )
    wrong = sorted(k for k in {*_KEYS, *manifest} if type(manifest.get(k)) is not _KEYS.get(k))
    if not wrong and set(manifest["file"]) != {"name", "size", "sha256"}:
        wrong = ["file"]
    if wrong:
        _refuse(where, f"unusable keys {', '.join(wrong)}", "what gensyn_tvm wrote")
    if manifest["digest"] != _own_digest(manifest):
        _refuse(where, "contents that do not have the digest that they state", "what gensyn_tvm wrote, unedited")
    for name, entry in manifest["arrays"].items():
        if not isinstance(entry, dict) or entry.get("dtype") not in DTYPES or not isinstance(entry.get("shape"), list):
            _refuse(where, f"array {name!r} described as {entry!r}", "its dtype and shape")
    if where.parent.name != f"step-{manifest['step']:012d}" and _NAME.fullmatch(where.parent.name):
        _refuse(where, f"step {manifest['step']}", f"the step of the folder {where.parent.name}")
    return manifest
