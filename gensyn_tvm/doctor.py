"""What this machine can build and run, and whether its arithmetic is sound."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from gensyn_tvm import __version__
from gensyn_tvm.errors import GensynError, TargetError
from gensyn_tvm.runtime import cuda_driver
from gensyn_tvm.runtime.cpu import core_count, cpu_features, supported_levels
from gensyn_tvm.runtime.fpenv import ieee754_environment, is_default
from gensyn_tvm.targets import gpu_lint, nvcc

#: The releases that this version was made for; others have other bugs.
PINNED = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}
NEEDED = ("numpy", "mpmath", "safetensors", "rich")
#: Only for importing models, and the versions that were tried are in pyproject.toml.
OPTIONAL = {"onnx": "onnx", "onnxscript": "onnx", "torch": "torch", "scikit-learn": "demo", "matplotlib": "demo"}


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        status: ``ok``, ``warn`` (something optional is missing) or ``fail``.
        found: what was seen.
        remedy: what to do about it; empty if ok.
    """

    name: str
    status: str
    found: str
    remedy: str = ""


def examine() -> list[Check]:
    """All findings about this machine, in the order in which one would mend them."""
    parts: list[Callable[[], list[Check]]] = [
        _system, _packages, _processor, _compilers, _accelerator, _environment, _fused, _end_to_end
    ]  # fmt: skip
    return [check for part in parts for check in part()]


def as_json(checks: list[Check]) -> str:
    """The findings as one JSON object."""
    failed = any(c.status == "fail" for c in checks)
    return json.dumps({"version": __version__, "ok": not failed, "checks": [asdict(c) for c in checks]})


def as_text(checks: list[Check]) -> str:
    """The findings as lines for people."""
    width = max(len(c.name) for c in checks)
    lines = []
    for c in checks:
        lines.append(f"{c.status:<4}  {c.name:<{width}}  {c.found}")
        if c.remedy:
            lines.append(f"{'':<4}  {'':<{width}}  what to do: {c.remedy}")
    failed = sum(c.status == "fail" for c in checks)
    lines.append(f"{failed} of {len(checks)} checks failed" if failed else "this machine is fine")
    return "\n".join(lines)


def _check(name: str, good: bool, found: str, remedy: str, *, otherwise: str = "fail") -> Check:
    return Check(name, "ok", found) if good else Check(name, otherwise, found, remedy)


def _system() -> list[Check]:
    linux = sys.platform == "linux"
    python = sys.version_info[:2]
    return [
        Check("gensyn_tvm", "ok", __version__),
        _check("system", linux, platform.platform(), "use Linux; other systems are not tested"),
        _check("python", (3, 10) <= python <= (3, 13), platform.python_version(), "use Python 3.10, 3.11, 3.12 or 3.13"),
        _check("byte order", sys.byteorder == "little", sys.byteorder, "use a little-endian machine"),
    ]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _packages() -> list[Check]:
    checks = []
    for package, pinned in PINNED.items():
        found = _version(package)
        checks.append(_check(package, found == pinned, found or "not installed", f"pip install {package}=={pinned}"))
    for package in NEEDED:
        found = _version(package)
        checks.append(_check(package, bool(found), found or "not installed", f"pip install {package}"))
    for package, extra in OPTIONAL.items():
        found = _version(package)
        remedy = f"only if you need it: pip install 'gensyn_tvm[{extra}]'"
        checks.append(_check(package, bool(found), found or "not installed", remedy, otherwise="warn"))
    return checks


def _processor() -> list[Check]:
    levels = supported_levels()
    flags = cpu_features()
    extensions = [f for f in ("fma", "avx2", "avx512f", "asimd") if f in flags]
    return [
        _check(
            "targets", bool(levels), ", ".join((*levels, "c")), "this is no x86-64 processor: use target c", otherwise="warn"
        ),
        Check("processor", "ok", f"{platform.machine()}, {', '.join(extensions) or 'no known vector extensions'}"),
        Check("threads", "ok", f"{core_count()} usable"),
    ]


def _first_line(*command: str) -> str:
    """First line that a program prints, or nothing if there is no such program or it fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter(done.stdout.splitlines()), "")


def _compilers() -> list[Check]:
    gcc = _first_line("gcc", "--version")
    return [
        _check("llvm", *_llvm()),
        _check("gcc", bool(gcc), gcc or "not found", "to compile programs: apt-get install gcc libc6-dev", otherwise="warn"),
    ]


def _llvm() -> tuple[bool, str, str]:
    remedy = f"to compile programs: pip install --force-reinstall apache-tvm=={PINNED['apache-tvm']}"
    if importlib.util.find_spec("tvm") is None:
        return False, "TVM is not installed", remedy
    try:
        import tvm
        from tvm.target import codegen

        return bool(tvm.runtime.enabled("llvm")), f"LLVM {codegen.llvm_version_major()}", remedy
    except (ImportError, AttributeError, RuntimeError, OSError, ValueError) as error:
        return False, f"TVM does not load: {error}", remedy


def _accelerator() -> list[Check]:
    """What target cuda needs; nothing else does."""
    runs, found, remedies = cuda_driver.survey(cuda_driver.LIBRARY)
    remedy = f"to run target cuda: {remedies['remedy']}" if remedies else ""
    return [
        _check("nvidia gpu", runs, found, remedy, otherwise="warn"),
        _tool("cuda compiler", lambda: "CUDA {}.{}".format(*nvcc.find_toolkit().release), "to compile for target cuda"),
        _tool("cuda disassembler", lambda: str(gpu_lint.find_disassembler()), "to check machine code of target cuda"),
    ]


def _tool(name: str, find: Callable[[], str], purpose: str) -> Check:
    try:
        return Check(name, "ok", find())
    except TargetError as error:
        first, *rest = str(error).splitlines()
        remedy = next((line.split("what to do: ", 1)[1] for line in rest if "what to do: " in line), "")
        return Check(name, "warn", first, f"{purpose}: {remedy}")


def _environment() -> list[Check]:
    hostile = not is_default()
    try:
        with ieee754_environment():
            sound = is_default()
        text = "round to nearest even, subnormals kept" if sound else "subnormals or rounding are wrong"
    except GensynError as error:
        sound, text = False, str(error).splitlines()[0]
    checks = [_check("arithmetic", sound, text, "programs cannot run here with the right bits; try another machine")]
    if hostile:
        remedy = "harmless here: every run sets the default; find the library that changes it"
        checks.append(Check("process state", "warn", "flush-to-zero or a rounding mode is set in this process", remedy))
    return checks


def _fused() -> list[Check]:
    """libm's fma, which targets without the instruction call, must round once."""
    import ctypes

    remedy = "update the C library; target x86-64 would give wrong bits"
    try:
        fmaf = ctypes.PyDLL("libm.so.6").fmaf
    except (OSError, AttributeError) as error:
        return [Check("fma of the C library", "fail", str(error), remedy)]
    fmaf.restype = ctypes.c_float
    fmaf.argtypes = [ctypes.c_float] * 3
    # (1 + 2^-12)^2 - (1 + 2^-11) is exactly 2^-24; with a rounded product it would be 0.
    x = 1 + 2.0**-12
    with ieee754_environment():
        right = fmaf(x, x, -(1 + 2.0**-11)) == 2.0**-24
    return [_check("fma of the C library", right, "rounds once" if right else "rounds twice", remedy)]


def _end_to_end() -> list[Check]:
    """A tiny program, compiled and run, against the interpreter."""
    remedy = "see the checks above; if they are fine, report this with the output of gensyn-tvm doctor --json"
    name = "compiled program against interpreter"
    try:
        same = _compiled_equals_interpreter()
    except (GensynError, ImportError, RuntimeError, OSError) as error:
        return [Check(name, "fail", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", remedy)]
    return [_check(name, same, "same bits" if same else "different bits", remedy)]


def _compiled_equals_interpreter() -> bool:
    from gensyn_tvm.build_cache import fresh_builds
    from gensyn_tvm.canonical.graph import GraphBuilder
    from gensyn_tvm.canonical.types import TensorType
    from gensyn_tvm.compiler import compile
    from gensyn_tvm.interpreter import run

    b = GraphBuilder("doctor")
    x = b.add_input("x", "input", TensorType((3, 37), "float32"))
    y = b.add_input("y", "input", TensorType((37, 5), "float32"))
    b.add_output("z", b.emit("tanh", b.emit("matmul", x, y)))
    graph = b.finish()
    words = np.random.Philox(key=1).random_raw(3 * 37 + 37 * 5) >> np.uint64(40)
    values = (words.astype(np.float64) / 2.0**23 - 1.0).astype(np.float32)
    values[:2] = np.array([1, 0x80000001], np.uint32).view(np.float32)
    arrays = {"x": values[:111].reshape(3, 37), "y": values[111:].reshape(37, 5)}
    with fresh_builds():
        compiled = compile(graph)(**arrays)
    with ieee754_environment():
        (expected,) = run(graph, arrays)
    return bool(np.array_equal(compiled.view(np.uint32), expected.view(np.uint32)))
