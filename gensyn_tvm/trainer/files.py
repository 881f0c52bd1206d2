"""Files of a run: arrays to read, and writing that survives being killed at any moment."""

from __future__ import annotations

import os
import secrets
import zipfile
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from gensyn_tvm.errors import InputError, describe


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a ``.npz`` or ``.safetensors`` file by name, or of a ``.npy`` file under ``""``, which is memory-mapped.

    Raises:
        InputError: the file cannot be read, is damaged or holds Python objects.
    """
    where = os.fspath(path)
    try:
        if where.endswith(".safetensors"):
            return dict(safetensors.numpy.load_file(where))
        if where.endswith(".npy"):
            return {"": np.load(where, mmap_mode="r", allow_pickle=False)}
        # Our own stream: np.load leaves the file open if it is damaged.
        with open(where, "rb") as stream, np.load(stream, allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        expected = "a .npy, .npz or .safetensors file"
        raise InputError(describe("arrays cannot be read", where=where, found=str(error), expected=expected)) from error


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with open(path, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file completely, or leave what was there."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
