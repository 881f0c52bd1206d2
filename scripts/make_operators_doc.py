"""Write docs/operators.md from the operator tables: ``python scripts/make_operators_doc.py [--check]``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tvm_ffi
from tvm.ir import Call

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from gensyn_tvm.canonical import rules  # noqa: E402
from gensyn_tvm.canonical.from_relax import CONVERTERS  # noqa: E402
from gensyn_tvm.canonical.types import DTYPES, FLOATS, INTEGERS, NARROW, TensorType  # noqa: E402
from gensyn_tvm.errors import GensynError  # noqa: E402
from gensyn_tvm.operators import exact  # noqa: E402
from gensyn_tvm.operators.registry import VARIANTS  # noqa: E402
from gensyn_tvm.targets.cpu import TARGETS  # noqa: E402
from gensyn_tvm.targets.lowering import LOWERINGS  # noqa: E402
from gensyn_tvm.training.gradients import CANONICAL, RELAX, is_constant  # noqa: E402
from scripts.generated_page import write_or_check  # noqa: E402
from tests.operators.cases import CASES, Case  # noqa: E402

PAGE = ROOT / "docs" / "operators.md"

_GROUPS = {"floats": FLOATS, "integers": INTEGERS, "narrow": tuple(NARROW)}


def _cases(op: str) -> list[Case]:
    """Shapes and attributes with which an operator can be tried; the tests have some for every operator."""
    found = [case for case in CASES if case.op == op]
    if not found:
        sys.exit(f"operator {op!r} has no case in tests/operators/cases.py")
    return found


def _variations(case: Case, dtype: str) -> Iterator[tuple[list[TensorType], dict[str, Any]]]:
    """The case with another dtype in place of its own: that of the first input that is not a mask, or of the result."""
    if not case.shapes:
        yield [], {**case.attrs, "dtype": dtype} if "data" not in case.attrs else {"dtype": dtype, "shape": (0,), "data": ""}
        return
    own = next((d for _, d in case.shapes if d != "bool"), "bool")
    yield [TensorType(s, dtype if d == own else d) for s, d in case.shapes], case.attrs


def dtypes_of(op: str) -> list[str]:
    """Dtypes that an operator accepts, found by asking its rule."""
    if op == "random_bits":
        return ["uint32"]
    accepted = []
    for dtype in DTYPES:
        for case in _cases(op):
            try:
                rules.infer(op, *next(_variations(case, dtype)))
            except GensynError:
                continue
            accepted.append(dtype)
            break
    return accepted


def _grouped(dtypes: list[str]) -> str:
    if set(dtypes) == set(DTYPES):
        return "all"
    words = []
    for name, members in _GROUPS.items():
        if set(members) <= set(dtypes):
            words.append(name)
            dtypes = [d for d in dtypes if d not in members]
    return ", ".join([*words, *dtypes])


def gradient_of(op: str) -> str:
    """``yes``, or ``zero`` for an operator that no gradient passes through."""
    return "yes" if op in CANONICAL else "zero"


def targets_of(op: str) -> list[str]:
    """Targets that have an instruction for every exact operator in the variant."""
    if op not in VARIANTS:
        return []
    case = _cases(op)[0]
    (result,) = rules.infer(op, case.types(), case.attrs)
    names: set[str] = set()
    function = VARIANTS[op](op, case.types(), result, case.attrs)
    tvm_ffi.structural_walk(function.body, [(Call, lambda call: names.add(str(getattr(call.op, "name", ""))))])
    needed = {name.removeprefix(exact.PREFIX) for name in names if name.startswith(exact.PREFIX)}
    return [name for name, target in TARGETS.items() if needed <= set(LOWERINGS[target.kind])]


def _canonical_table() -> list[str]:
    lines = ["| operator | dtypes | attributes | gradient | targets |", "|---|---|---|---|---|"]
    for op in rules.RULES:
        attributes = ", ".join(sorted(rules.ATTRIBUTES[op])) or "none"
        targets = targets_of(op)
        where = "all" if targets == list(TARGETS) else ", ".join(targets) or "none"
        lines.append(f"| {op} | {_grouped(dtypes_of(op))} | {attributes} | {gradient_of(op)} | {where} |")
    return lines


def _relax_table() -> list[str]:
    lines = ["| Relax operator | gradient |", "|---|---|"]
    for name in sorted(CONVERTERS):
        own = "of its own" if name in RELAX else "that of its parts"
        lines.append(f"| {name} | {'zero' if is_constant(name) else own} |")
    return lines


def _frontend_lists() -> list[str]:
    from gensyn_tvm.frontends import (
        onnx_operators,
        tensorflow_operators,
        tflite_operators,
        tflite_quantised,
        torch_composites,
        torch_operators,
    )

    aten = sorted(set(torch_operators.CONVERTERS) - set(torch_composites.COMPOSITES))

    return [
        f"**PyTorch (ATen), {len(aten)}**: {', '.join(aten)}",
        "",
        f"**TensorFlow, {len(tensorflow_operators.CONVERTERS)}** (besides variables, calls, If and While): "
        f"{', '.join(sorted(tensorflow_operators.CONVERTERS))}",
        "",
        f"**TFLite, {len(tflite_operators.CONVERTERS | tflite_quantised.CONVERTERS)}**: "
        f"{', '.join(sorted(tflite_operators.CONVERTERS | tflite_quantised.CONVERTERS))}",
        "",
        f"Of int8 and uint8, besides operators that move data, {len(tflite_quantised.CONVERTERS)}: "
        f"{', '.join(sorted(tflite_quantised.CONVERTERS))}",
        "",
        f"**ONNX (ai.onnx), {len(onnx_operators.CONVERTERS)}**: {', '.join(sorted(onnx_operators.CONVERTERS))}",
    ]


def page() -> str:
    """The text of docs/operators.md."""
    lines = [
        "# Operators",
        "",
        "Generated by `python scripts/make_operators_doc.py`; a test keeps it true. What each",
        "canonical operator computes is in [numerics.md](numerics.md).",
        "",
        f"## Canonical operators ({len(rules.RULES)}), numerics version {rules.NUMERICS_VERSION}",
        "",
        f"Targets: {', '.join(TARGETS)}. Every operator also has a NumPy meaning in `gensyn_tvm/interpreter`.",
        "",
        f"Dtypes: *floats* are {', '.join(FLOATS)}; *integers* {', '.join(INTEGERS)}; *narrow* (storage only) "
        f"{', '.join(NARROW)}; *all* is these and bool. Named is the dtype of the data; masks are bool, positions int64.",
        "",
        "Gradient: *yes* if a training step can differentiate through the operator; *zero* if its result is constant or",
        "changes in jumps only, so that no gradient passes through it.",
        "",
        *_canonical_table(),
        "",
        "## Relax operators that are decomposed into them",
        "",
        *_relax_table(),
        "",
        "## Framework operators that can be imported",
        "",
        *_frontend_lists(),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_or_check(__doc__, PAGE, page())
