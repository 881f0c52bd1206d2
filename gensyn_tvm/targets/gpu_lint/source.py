"""CUDA source: which kernels ask for a fused operation. Where none does, one in the PTX is a contraction."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gensyn_tvm.targets.gpu_lint.ptx import Function, counts

_DEFINITION = re.compile(r"\b(\w+)\s*\([^(){};]*\)\s*\{")
_FUSED = re.compile(r"\b(__fmaf?_r[nzud]|fmaf?)\s*\(|\b(fma|mad)\.r")
_WORD = re.compile(r"\b[A-Za-z_]\w*\b")
_NO_FUNCTION = frozenset({"if", "for", "while", "switch", "catch"})


def contracted(source: str, functions: Mapping[str, Function]) -> list[str]:
    """Kernels with fused operations in their PTX, although neither they nor what they call in the source has one."""
    asking = fused(source)
    found = []
    for name, function in functions.items():
        if function.is_kernel and name not in asking and any(a.fused for a in counts(dict(functions), function)):
            found.append(name)
    return found


def fused(source: str) -> set[str]:
    """Functions of a source that have a fused operation, themselves or in what they call."""
    source = re.sub(r"/\*.*?\*/|//[^\n]*", " ", source, flags=re.DOTALL)
    found = bodies(source)
    asking = {name for name, body in found.items() if _FUSED.search(body)}
    words = {name: set(_WORD.findall(body)) for name, body in found.items()}
    while True:
        more = {name for name in found if name not in asking and words[name] & asking}
        if not more:
            return asking
        asking |= more


def bodies(source: str) -> dict[str, str]:
    """What stands in the braces of each function."""
    found: dict[str, str] = {}
    position = 0
    while match := _DEFINITION.search(source, position):
        end, depth = match.end(), 1
        while depth and end < len(source):
            depth += {"{": 1, "}": -1}.get(source[end], 0)
            end += 1
        if match[1] not in _NO_FUNCTION:
            found[match[1]] = source[match.end() : end]
        position = end
    return found
