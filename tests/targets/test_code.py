"""The generated code itself: what it calls, where it fuses, how it writes constants."""

from __future__ import annotations

import re

import pytest

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import phases

from ..operators.cases import FAMILIES, bundle
from ..operators.test_fused import scalar

#: What kernels call outside of themselves: TVM's runtime, memory, and on machines without fma the libm function that
#: IEEE-754 defines to the bit. No exp, log, tanh, pow …
CALLS = re.compile(r"(TVMFFI|TVMBackend)\w+|memcpy|memset|fma|fegetenv|fesetenv")
LEVELS = ("x86-64", "x86-64-v3", "x86-64-v4")
TYPE = TensorType((64, 64), "float32")


def multiply_then_add() -> Graph:
    b = GraphBuilder("program")
    x, y, z = (b.add_input(n, "input", TYPE) for n in "xyz")
    b.add_output("r", b.emit("add", b.emit("mul", x, y), z))
    return b.finish()


def product() -> Graph:
    b = GraphBuilder("program")
    x, y = (b.add_input(n, "input", TYPE) for n in "xy")
    b.add_output("r", b.emit("matmul", x, y))
    return b.finish()


def code(graph: Graph, target: str) -> str:
    return phases(graph, target)["code"]


@pytest.mark.parametrize("target", ("x86-64", "x86-64-v4"))
@pytest.mark.parametrize("family", ("elementwise", "casts", "reductions", "pools", "products"))
def test_no_library_mathematics(family: str, target: str) -> None:
    external = set(re.findall(r"([\w.]+)@PLT", code(bundle(FAMILIES[family])[0], target)))
    assert external, "the pattern finds no call at all"
    assert {name for name in external if not CALLS.fullmatch(name)} == set()
    assert "fma" not in external or (family, target) == ("products", "x86-64")  # of float64


@pytest.mark.parametrize("target", LEVELS)
def test_a_product_and_a_sum_are_not_fused(target: str) -> None:
    text = code(multiply_then_add(), target)
    assert re.search(r"\bv?mulps\b", text)
    assert re.search(r"\bv?addps\b", text)
    assert not re.search(r"\bvfn?m(add|sub)", text)


@pytest.mark.parametrize(("target", "register"), [("x86-64-v3", "ymm"), ("x86-64-v4", "zmm")])
def test_matrix_products_use_fma_in_whole_vectors(target: str, register: str) -> None:
    text = code(product(), target)
    assert re.search(rf"\bvfmadd\d+ps\b.*%{register}", text)
    assert not re.search(r"\bv?mulps\b", text)


def test_the_base_level_knows_no_fma_and_no_avx() -> None:
    text = code(product(), "x86-64")
    assert not re.search(r"\bvf|%ymm|%zmm", text)
    assert re.search(r"\bmulpd\b", text)


def test_constants_in_c_are_bit_patterns() -> None:
    """TVM prints floats with six decimals: 1/3 would be 3.333333e-01f."""
    b = GraphBuilder("program")
    x = b.add_input("x", "input", TYPE)
    third, tenth = scalar(b, 1 / 3), scalar(b, 0.1)
    b.add_output("r", b.emit("mul", b.emit("add", x, third), tenth))
    text = code(b.finish(), "c")
    for pattern in (0x3EAAAAAB, 0x3DCCCCCD):
        assert str(pattern) in text or hex(pattern) in text
    inexact = [n for n in re.findall(r"\d\.\d+e[+-]\d+f?", text) if float(n.rstrip("f")) not in (0.0, 1.0)]
    assert inexact == []


@pytest.mark.parametrize("family", ("elementwise", "elementary", "casts", "products"))
def test_c_calls_only_what_ieee_754_defines(family: str) -> None:
    text = code(bundle(FAMILIES[family])[0], "c")
    called = set(re.findall(r"\b([a-z]\w*)\(", text))
    mathematics = {"exp", "expm1", "log", "log1p", "tanh", "pow", "floor", "ceil", "round", "rint", "nearbyint", "fmax", "fmin"}
    mathematics |= {"erf", "fabs", "trunc", "sigmoid", "exp2", "log2", "log10"}
    mathematics |= {
        "atan",
        "sinh",
        "cosh",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "asinh",
        "acosh",
        "atanh",
        "rsqrt",
        "cbrt",
        "erfc",
    }
    own = set(re.findall(r"\b__tvm_ffi_(\w+)\(", text)) | set(re.findall(r"\bTVM_DLL \w+ (\w+)\(", text))
    suspects = (mathematics | {name + "f" for name in mathematics}) & called - own
    assert suspects == set()
    inexact = [n for n in re.findall(r"\d\.\d+e[+-]\d+f?", text) if float(n.rstrip("f")) != 0.0]
    assert inexact == []


def test_every_phase_is_shown() -> None:
    texts = phases(product(), "x86-64-v4")
    assert list(texts) == ["lift", "legalise", "fuse", "schedule", "lower", "code"]
    assert "gensyn.canonical.matmul" in texts["lift"]
    assert "call_tir" in texts["legalise"]
    assert "T.vectorized" in texts["schedule"]
    assert "exact_fma" in texts["schedule"]


@pytest.mark.parametrize("target", ("x86-64-v3", "x86-64-v4"))
def test_accumulators_of_a_product_stay_in_registers(target: str) -> None:
    """One function without "noalias" in the module once made every kernel store its accumulators after each fma."""
    lines = code(product(), target).splitlines()
    first = next(k for k, line in enumerate(lines) if "vfmadd" in line)
    loop = lines[first : first + 24]
    assert sum("vfmadd" in line for line in loop) >= 8, loop
    assert not [line for line in loop if re.search(r"\bvmov[au]p[sd]\s+%[xyz]mm\d+,.*\(", line)], loop
