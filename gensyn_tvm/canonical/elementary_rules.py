"""Type rules of the elementary functions."""

from __future__ import annotations

from gensyn_tvm.canonical import tensor_rules as t
from gensyn_tvm.canonical.rule_basics import Rule
from gensyn_tvm.canonical.types import FLOATS

ELEMENTARY_UNARY: dict[str, Rule] = {
    "exp": t.unary(("float32",)),
    "expm1": t.unary(("float32",)),
    "log": t.unary(("float32",)),
    "log1p": t.unary(("float32",)),
    "tanh": t.unary(("float32",)),
    "sigmoid": t.unary(("float32",)),
    "erf": t.unary(("float32",)),
    "exp2": t.unary(("float32",)),
    "log2": t.unary(("float32",)),
    "log10": t.unary(("float32",)),
    "sinh": t.unary(("float32",)),
    "cosh": t.unary(("float32",)),
    "sin": t.unary(("float32",)),
    "cos": t.unary(("float32",)),
    "tan": t.unary(("float32",)),
    "asin": t.unary(("float32",)),
    "acos": t.unary(("float32",)),
    "atan": t.unary(("float32",)),
    "asinh": t.unary(("float32",)),
    "acosh": t.unary(("float32",)),
    "erfc": t.unary(("float32",)),
    "rsqrt": t.unary(("float32",)),
    "cbrt": t.unary(("float32",)),
    "atanh": t.unary(("float32",)),
}
ELEMENTARY_BINARY: dict[str, Rule] = {"pow": t.binary((*FLOATS, "int32", "int64"))}
ELEMENTARY_RULES: dict[str, Rule] = {**ELEMENTARY_UNARY, **ELEMENTARY_BINARY}
