"""The weights of one program in another that computes the same: from PyTorch's layout to Keras', for instance."""

from __future__ import annotations

from typing import Any

import numpy as np

from gensyn_tvm.canonical.access import view
from gensyn_tvm.canonical.normal import normalise
from gensyn_tvm.compiler import source_of
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.weights.program import weights_of


def transferred(source: Any, target: Any) -> dict[str, np.ndarray]:
    """The weights of ``source`` under the names of ``target`` and in its layout.

    Both programs must have one normal form (docs/one-digest.md), by which their parameters and buffers correspond. What
    ``target`` holds and does not compute with keeps its values.

    Args:
        source, target: a ``Program``, ``Source`` or ``TrainingStep`` each.

    Raises:
        InputError: they compute different things, or a parameter of one is a buffer or an input of the other.
    """
    first, second = source_of(source), source_of(target)
    forms = normalise(first.graph), normalise(second.graph)
    digests = forms[0].digest(), forms[1].digest()
    if digests[0] != digests[1]:
        raise InputError(
            describe(
                "the programs do not compute the same",
                found=f"structure digests {digests[0]} and {digests[1]}",
                expected="one normal form",
                remedy="gensyn-tvm diff --normal says what differs",
            )
        )
    arrays, result = weights_of(first), weights_of(second)
    for ours, theirs in zip(forms[0].parts, forms[1].parts, strict=True):
        if theirs.name in result:
            place = view(result[theirs.name], theirs.access, writeable=True)
            place[...] = ours.of(arrays[ours.name]).reshape(place.shape)
    return result
