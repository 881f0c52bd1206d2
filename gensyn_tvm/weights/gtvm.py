"""Other weights in a ``.gtvm`` file: its program, libraries and optimizer state stay."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from gensyn_tvm.compiler import Source
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.runtime.file import read_gtvm, write_gtvm
from gensyn_tvm.weights.program import with_weights


def replace_weights(
    model: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    output: str | os.PathLike[str],
    *,
    may_exceed: bool = False,
) -> Source:
    """Write ``model`` with other parameters and buffers to ``output``; returns what was written.

    Raises:
        InvalidFileError: ``model`` is damaged or no ``.gtvm`` file.
        InputError: as ``with_weights``.
        OSError: ``output`` cannot be written; what was there stays.
    """
    contents = read_gtvm(model)
    source = with_weights(Source(contents.graph, State(contents.arrays)), arrays, may_exceed=may_exceed)
    write_gtvm(output, contents.graph, source.state.numpy(), contents.libraries, contents.manifest["extra"])
    return source
