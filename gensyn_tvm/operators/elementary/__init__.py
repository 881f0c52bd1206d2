"""Correctly rounded float32 functions as straight-line code over exact operators.

Everything is computed in binary64 to about 2^-52 and rounded to float32 once. The few inputs whose exact result lies closer
to the middle between two floats than that are listed in ``HARD``, found by scripts/prove_elementary.py, which runs all 2^32
inputs. There are no branches, loops or tables, so every lane of a vector does the same work. fma is used where the target has
it as an instruction; without it the same polynomials are evaluated by multiplications and additions.

Integer arithmetic here never overflows, whatever the input: TVM tells LLVM that it cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gensyn_tvm.operators.elementary import circular, exponential, logarithm, power, roots
from gensyn_tvm.operators.elementary.hard import HARD
from gensyn_tvm.targets.body import Body

#: Each takes the body and a float32 variable (any lanes) and returns the float32 result.
BODIES: dict[str, Callable[[Body, Any], Any]] = {
    **exponential.BODIES,
    **logarithm.BODIES,
    **circular.BODIES,
    **roots.BODIES,
}
#: Functions of two variables of one dtype, float32 or float64, with the result in that dtype.
BINARY_BODIES: dict[str, Callable[[Body, Any, Any], Any]] = {"pow": power.power}

__all__ = ["BINARY_BODIES", "BODIES", "HARD"]
