"""Cases of the elementary functions."""

from __future__ import annotations

from gensyn_tvm.canonical.elementary_rules import ELEMENTARY_UNARY

from .case import Case

F, D = "float32", "float64"
BINARY = ("pow",)

_CASES = [
    *(Case(op, op, (((7, 91), F),), {}) for op in ELEMENTARY_UNARY),
    *(Case(f"{op}-{d}", op, (((9, 1, 33), d), ((5, 33), d)), {}) for op in BINARY for d in (F, D)),
    *(Case(f"{op}-ordinary-{d}", op, (((501,), d), ((501,), d)), {}, special=False) for op in BINARY for d in (F, D)),
    *(Case(f"{op}-empty", op, (((3, 0), F), ((3, 1), F)), {}) for op in BINARY),
    *(Case(f"pow-{d}", "pow", (((11, 20), d), ((20,), d)), {}) for d in ("int32", "int64")),
]

FAMILIES: dict[str, list[Case]] = {"elementary": _CASES}
