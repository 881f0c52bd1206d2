"""No arithmetic but ours reaches code generation."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.errors import ExactnessError, describe
from gensyn_tvm.operators import exact

_ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max)
_COMPARISONS = (tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE)

#: Calls that compute nothing in floating point, without their dialect's prefix (TVM moves them between ``tirx`` and ``prim``).
_ALLOWED_CALLS = frozenset(
    {
        "if_then_else",
        "reinterpret",
        "bitwise_and",
        "bitwise_or",
        "bitwise_xor",
        "bitwise_not",
        "shift_left",
        "shift_right",
        "likely",
    }
)


def _floating(expr: Any) -> bool:
    return exact.element_of(exact.dtype_of(expr)).startswith(("float", "bfloat"))


def check_exactness(name: str, function: Any) -> None:
    """Refuse a PrimFunc that contains float arithmetic other than the exact operators.

    Raises:
        ExactnessError: with the kernel's name and the expression.
    """

    # The walk runs in C++, through which our exception types would not travel: collect, then raise.
    found: list[Any] = []
    refuse = found.append

    def arithmetic(expr: Any) -> None:
        if _floating(expr):
            refuse(expr)

    def comparison(expr: Any) -> None:
        if _floating(expr.a):
            refuse(expr)

    def cast(expr: Any) -> None:
        if _floating(expr) or _floating(expr.value):
            refuse(expr)

    def call(expr: Any) -> None:
        op = str(getattr(expr.op, "name", expr.op))
        if not op.startswith(exact.PREFIX) and op.split(".")[-1] not in _ALLOWED_CALLS:
            refuse(expr)

    tvm_ffi.structural_walk(
        function.body,
        [
            (_ARITHMETIC, arithmetic),
            (_COMPARISONS, comparison),
            (tirx.Cast, cast),
            (tirx.FloatImm, refuse),
            (tvm.ir.Call, call),
        ],
    )
    if found:
        raise ExactnessError(
            describe(
                f"kernel {name!r} computes outside of the exact operators",
                found=f"{str(found[0])[:200]} ({len(found)} places)",
                expected=f"only operators named {exact.PREFIX}*",
                remedy="write the variant with gensyn_tvm.operators.exact",
            )
        )
