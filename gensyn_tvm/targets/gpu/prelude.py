"""The functions that GPU kernels call for exact operators, as text: ``gx_NAME__ARGUMENT__RESULT`` with the dtypes.

On CUDA every float operation is an intrinsic of one rounding (``__fadd_rn``, …), which no compiler flag can contract or
approximate; OpenCL's are plain operators under ``FP_CONTRACT OFF``. Float constants are bit patterns. All other rows are
printed from the bodies that the CPU uses too.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from tvm import tirx

from gensyn_tvm.operators import exact
from gensyn_tvm.targets.body import lowering_for
from gensyn_tvm.targets.gpu.text import Printer, reinterpreted, type_text, wrapped

Expr = Any

_NAME = re.compile(r"\bgx_(\w+?)__(\w+?)__([a-z0-9]+)\b")

#: What stands before everything else. ``gx_select`` evaluates one side only, which is no difference.
_HEADS = {
    "cuda": (
        "// CUDA C++; kernels compile without a header, by nvcc and by NVRTC.\n"
        "typedef signed char gx_int8; typedef short gx_int16; typedef int gx_int32; typedef long long gx_int64;\n"
        "typedef unsigned char gx_uint8; typedef unsigned short gx_uint16;\n"
        "typedef unsigned int gx_uint32; typedef unsigned long long gx_uint64;\n"
        "typedef unsigned char uchar; typedef unsigned short ushort; typedef unsigned int uint;\n"
    ),
    "opencl": (
        "#pragma OPENCL FP_CONTRACT OFF\n"
        "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n"
        "#ifndef GX_GROUP\n#define GX_GROUP(d) get_group_id(d)\n#endif\n"
        "#ifndef GX_LOCAL\n#define GX_LOCAL(d) get_local_id(d)\n#endif\n"
    ),
}
_MACROS = "#define gx_select(c, a, b) ((c) ? (a) : (b))\n"

_CUDA = {
    "float32": {n: f"__f{n}_rn" for n in ("add", "sub", "mul", "div", "sqrt")} | {"fma": "__fmaf_rn"},
    "float64": {n: f"__d{n}_rn" for n in ("add", "sub", "mul", "div", "sqrt")} | {"fma": "__fma_rn"},
}
_SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_COMPARISONS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<="}
_WRAPPING = {"wrap_add": "+", "wrap_sub": "-", "wrap_mul": "*"}
#: Not exact operators: what else kernels are given a function for.
_REINTERPRET, _NOT = "reinterpret", "bitwise_not"
_EXTREMA = {"min": "<", "max": ">"}


def function_name(name: str, argument: str, result: str) -> str:
    """The function for an operator from one dtype to another."""
    return f"gx_{name}__{argument}__{result}"


def lower(name: str) -> Any:
    """The lowering of an exact operator on a GPU: a call of its function."""

    def call(expr: Any) -> Expr:
        arguments = list(expr.args)
        if name == "bits":  # TVM narrows the type of a pattern and keeps its value
            arguments = [tirx.IntImm("int64", int(a.value)) for a in arguments]
        result, argument = exact.dtype_of(expr), exact.dtype_of(arguments[0])
        if exact.lanes_of(result) > 1 or exact.lanes_of(argument) > 1:
            raise ValueError(f"exact operator {name!r} on vectors: GPU schedules compute scalars")
        return tirx.call_pure_extern(result, function_name(name, argument, result), *arguments)

    return call


def prelude(kind: str, kernels: str) -> str:
    """The head of a source: the functions that the text of its kernels calls, each after those that it calls itself."""
    order: list[tuple[str, str, str]] = []
    seen: set[tuple[str, str, str]] = set()

    def visit(text: str) -> None:
        for key in dict.fromkeys(_NAME.findall(text)):
            if key not in seen:
                seen.add(key)
                visit(_body(kind, *key))
                order.append(key)

    visit(kernels)
    return _HEADS[kind] + _MACROS + "\n" + "".join(_function(kind, *key) for key in order)


def _function(kind: str, name: str, argument: str, result: str) -> str:
    short = _simple(kind, name, argument, result) is not None
    inline = {"cuda": "static __device__ __forceinline__" if short else "static __device__", "opencl": "static inline"}[kind]
    if kind == "opencl" and not short:
        inline = "static"
    parameters = ", ".join(f"{type_text(kind, argument)} a{k}" for k in range(_arity(name, result)))
    head = f"{inline} {type_text(kind, result)} {function_name(name, argument, result)}({parameters})"
    return f"{head} {{\n{_body(kind, name, argument, result)}}}\n"


def _arity(name: str, result: str) -> int:
    if name == "bits":
        return 1 if result == "float32" else 2
    if name == "fma":
        return 3
    two = (*_EXTREMA, *exact.BINARY, *exact.COMPARE, *exact.ELEMENTARY_BINARY, *exact.INTEGER, *_WRAPPING)
    return 2 if name in two else 1


@cache
def _body(kind: str, name: str, argument: str, result: str) -> str:
    """The statements of a function."""
    simple = _simple(kind, name, argument, result)
    if simple is not None:
        return f"  return {simple};\n"
    from gensyn_tvm.targets.lowering import COMMON

    parameters = [tirx.Var(f"a{k}", argument) for k in range(_arity(name, result))]
    with lowering_for(has_fma=True):
        expr = COMMON[name](exact.call(name, result, *parameters))
    printer = Printer(kind, lambda call, arguments: _called(kind, call, arguments))
    for k, parameter in enumerate(parameters):
        printer.bind(parameter, f"a{k}")
    value = printer.text(expr)
    return "".join(f"  {line}\n" for line in [*printer.statements, f"return {value};"])


def _called(kind: str, expr: Any, arguments: list[str]) -> str:
    name = str(expr.op.name).removeprefix(exact.PREFIX)
    if name == "bits":
        pattern = sum(int(a.value) << 32 * k for k, a in enumerate(expr.args))
        integer, suffix = ("uint32", "u") if len(arguments) == 1 else ("int64", "l" if kind == "opencl" else "ll")
        return reinterpreted(kind, integer, exact.dtype_of(expr), f"0x{pattern:x}{suffix}")
    function = function_name(name, exact.dtype_of(expr.args[0]), exact.dtype_of(expr))
    return f"{function}({', '.join(arguments)})"


def _simple(kind: str, name: str, argument: str, result: str) -> str | None:
    """The value of a function that is one expression in the target's own words."""
    if name == "bits":
        return _constant(kind, result)
    if name in _WRAPPING:
        return wrapped(kind, result, _WRAPPING[name], "a0", "a1")
    if name == _REINTERPRET:
        return reinterpreted(kind, argument, result, "a0")
    if name in _EXTREMA:
        return f"a0 {_EXTREMA[name]} a1 ? a0 : a1"
    if name == _NOT:
        return f"({type_text(kind, result)})(~a0)"
    if name in _COMPARISONS:
        return f"a0 {_COMPARISONS[name]} a1"
    if name not in _CUDA["float32"]:
        return None
    arguments = ", ".join(f"a{k}" for k in range(_arity(name, result)))
    if kind == "cuda":
        return f"{_CUDA[result][name]}({arguments})"
    return f"a0 {_SYMBOLS[name]} a1" if name in _SYMBOLS else f"{name}({arguments})"


def _constant(kind: str, result: str) -> str:
    if result == "float32":
        return reinterpreted(kind, "uint32", "float32", f"({type_text(kind, 'uint32')})a0")
    wide = type_text(kind, "uint64")
    return reinterpreted(kind, "int64", "float64", f"({type_text(kind, 'int64')})((({wide})a1 << 32) | ({wide})a0)")


def own_words(expr: Expr, *arguments: Expr) -> Expr | None:
    """A call of one of our functions for an expression that TVM's generators print so that its meaning depends on the language.

    ``select`` of OpenCL wants a condition of the operands' width; reinterpretation goes through pointers; ``max`` of an int8
    and a constant is ambiguous; ``~`` of a byte is an int. None for expressions that they print well.
    """
    dtype = exact.dtype_of(expr)
    if isinstance(expr, tirx.Select):
        return tirx.call_pure_extern(dtype, "gx_select", *arguments)
    if isinstance(expr, tirx.Min | tirx.Max):
        name = "min" if isinstance(expr, tirx.Min) else "max"
        return tirx.call_pure_extern(dtype, function_name(name, dtype, dtype), *arguments)
    if isinstance(expr, tirx.BitwiseNot):
        name = _NOT
    elif str(getattr(getattr(expr, "op", None), "name", "")).endswith(".reinterpret"):
        name = _REINTERPRET
    else:
        return None
    return tirx.call_pure_extern(dtype, function_name(name, exact.dtype_of(arguments[0]), dtype), *arguments)
