"""CUDA source → machine code, strictly and ahead of time: no GPU and no driver is needed.

The source is translated once, to PTX for the oldest architecture; this PTX is assembled for every architecture and goes into
the fat binary itself, for processors that are newer than the assembler. So whoever reads the PTX has read all that runs.

TVM would compile at the first launch, with ``--use_fast_math`` and whatever toolkit the machine has. ``refuse_launch_compile``
takes that way out of the process.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from gensyn_tvm.errors import TargetError, describe
from gensyn_tvm.runtime.cpu import core_count

#: Compute capabilities with code of their own in a fat binary, from Turing to Blackwell; times ten.
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
#: The oldest and the first unknown release: 12.8 is the first that knows Blackwell.
RELEASES = ((12, 8), (14, 0))
#: Nothing is contracted, flushed or approximated; spelled out although only the first is not the default of nvcc.
ARITHMETIC_FLAGS = ("-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true")

_TOOLS = ("nvcc", "ptxas", "fatbinary")
#: Variables with which nvcc takes more flags.
_HOSTILE_VARIABLES = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")
_INSTALL = "pip install 'gensyn_tvm[cuda]', or install NVIDIA's CUDA toolkit 12.8 or newer and set CUDA_HOME"


@dataclass(frozen=True)
class Toolkit:
    """The programs of one installation; they understand each other's files only within a release.

    Attributes:
        folder: where ``nvcc``, ``ptxas`` and ``fatbinary`` are.
        release: as nvcc says, for instance ``(13, 0)``.
    """

    folder: Path
    release: tuple[int, int]

    def tool(self, name: str) -> str:
        """Path of a program."""
        return str(self.folder / name)


@dataclass(frozen=True)
class Resources:
    """What a kernel takes on one architecture, as the assembler reports it.

    Attributes:
        registers: 32-bit registers of a thread.
        shared: bytes of static shared memory of a block.
        stack: bytes of local memory of a thread.
        spill_stores, spill_loads: bytes of instructions that move registers to local memory and back.
    """

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int


@dataclass(frozen=True)
class Built:
    """A compiled source.

    Attributes:
        source: the CUDA C++.
        ptx: the code that all others were made of.
        cubins: ELF files, by architecture.
        fatbin: all of these in one, for ``cuModuleLoadData``.
        resources: by architecture and kernel.
    """

    source: str = field(repr=False)
    ptx: str = field(repr=False)
    cubins: Mapping[int, bytes] = field(repr=False)
    fatbin: bytes = field(repr=False)
    resources: Mapping[int, Mapping[str, Resources]] = field(repr=False)


def find_toolkit() -> Toolkit:
    """The toolkit of ``CUDA_HOME`` or ``CUDA_PATH``; else of ``PATH``, of ``/usr/local/cuda``, or of PyPI.

    Raises:
        TargetError: there is none, or the first of them is too old, too new or incomplete.
    """
    for folder in _candidates():
        if (folder / "nvcc").is_file():
            return _examined(folder)
    _refuse("there is no CUDA compiler", "no nvcc in CUDA_HOME, PATH, /usr/local/cuda or Python's packages")


def _candidates() -> Iterator[Path]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable]) / "bin"
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder:
            yield Path(folder)
    yield Path("/usr/local/cuda/bin")
    yield from package_folders()


def package_folders() -> Iterator[Path]:
    """Folders in which packages of NVIDIA on PyPI keep programs."""
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(Path(place).glob("cu[0-9]*/bin"), reverse=True)
        yield Path(place) / "cuda_nvcc" / "bin"


def _examined(folder: Path) -> Toolkit:
    # /usr/local/bin/nvcc is often a link or a script beside which there is no ptxas; nvcc itself knows where it lives.
    shown = _run([str(folder / "nvcc"), "--dryrun", "-ptx", "-x", "cu", os.devnull, "-o", os.devnull])
    home = re.search(r"^#\$ _HERE_=(.+)$", shown, re.MULTILINE)
    real = Path(home[1]) if home else folder
    version = re.search(r"release (\d+)\.(\d+)", _run([str(folder / "nvcc"), "--version"]))
    if version is None:
        _refuse("nvcc does not say which release it is", f"{folder / 'nvcc'} --version")
    release = (int(version[1]), int(version[2]))
    if not RELEASES[0] <= release < RELEASES[1]:
        first, last = (".".join(map(str, r)) for r in RELEASES)
        _refuse(f"CUDA {release[0]}.{release[1]} cannot be used", str(folder / "nvcc"), f"{first} or newer, before {last}")
    missing = [name for name in _TOOLS if not (real / name).is_file()]
    if missing:
        _refuse("the CUDA toolkit is incomplete", f"no {', '.join(missing)} in {real}")
    return Toolkit(real, release)


def _refuse(what: str, found: str, expected: str = "nvcc, ptxas and fatbinary of one CUDA toolkit") -> NoReturn:
    raise TargetError(describe(what, found=found, expected=expected, remedy=_INSTALL))


def compile_cuda(
    source: str, architectures: Sequence[int] = ARCHITECTURES, *, toolkit: Toolkit | None = None, jobs: int | None = None
) -> Built:
    """Compile a source that includes nothing.

    Args:
        source: CUDA C++ 17 with ``extern "C" __global__`` functions.
        architectures: of the machine code, a subset of ``ARCHITECTURES``; the PTX is there in any case.
        toolkit: the one that ``find_toolkit`` finds if None.
        jobs: assemblers that run at a time; one for each core if None.

    Raises:
        TargetError: no toolkit, an unknown architecture, or the source is refused.
    """
    unknown = [a for a in architectures if a not in ARCHITECTURES]
    if unknown or not architectures:
        known = ", ".join(f"sm_{a}" for a in ARCHITECTURES)
        found = ", ".join(f"sm_{a}" for a in unknown) or "none"
        raise TargetError(describe("architectures that cannot be compiled for", found=found, expected=known))
    toolkit = toolkit or find_toolkit()
    with tempfile.TemporaryDirectory(prefix="gensyn-tvm-") as name:
        folder = Path(name)
        (folder / "program.cu").write_text(source, encoding="utf-8")
        _translate(toolkit, folder)
        with ThreadPoolExecutor(jobs or core_count()) as pool:
            reports = list(pool.map(lambda a: _assemble(toolkit, folder, a), architectures))
        images = [f"--image3=kind=elf,sm={a},file={_cubin(folder, a)}" for a in architectures]
        images.append(f"--image3=kind=ptx,sm={ARCHITECTURES[0]},file={folder / 'program.ptx'}")
        _run([toolkit.tool("fatbinary"), "-64", f"--create={folder / 'program.fatbin'}", *images], cwd=folder)
        return Built(
            source,
            (folder / "program.ptx").read_text(encoding="ascii"),
            {a: _cubin(folder, a).read_bytes() for a in architectures},
            (folder / "program.fatbin").read_bytes(),
            {a: parse_resources(text) for a, text in zip(architectures, reports, strict=True)},
        )


def _translate(toolkit: Toolkit, folder: Path) -> None:
    flags = ["-std=c++17", f"-arch=compute_{ARCHITECTURES[0]}", *ARITHMETIC_FLAGS, "--diag-suppress=177"]
    _run([toolkit.tool("nvcc"), "-ptx", *flags, "program.cu", "-o", "program.ptx"], cwd=folder)


def _assemble(toolkit: Toolkit, folder: Path, architecture: int) -> str:
    flags = ["-v", "-fmad=false", f"-arch=sm_{architecture}"]
    return _run([toolkit.tool("ptxas"), *flags, "program.ptx", "-o", str(_cubin(folder, architecture))], cwd=folder)


def _cubin(folder: Path, architecture: int) -> Path:
    return folder / f"sm_{architecture}.cubin"


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    """Both outputs of a program of the toolkit.

    Raises:
        TargetError: it cannot be started, or fails.
    """
    environment = {k: v for k, v in os.environ.items() if k not in _HOSTILE_VARIABLES}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=cwd, env=environment)
    except OSError as error:
        _refuse(f"{Path(command[0]).name} cannot be started", f"{command[0]}: {error.strerror}")
    if done.returncode:
        _explain(Path(command[0]).name, done.stderr + done.stdout)
    return done.stderr + done.stdout


def _explain(tool: str, output: str) -> NoReturn:
    lines = [line for line in output.splitlines() if re.search(r"error|fatal|not found|no such", line, re.IGNORECASE)]
    text = "\n".join(lines[:8]) or output[-800:]
    if re.search(r"host compiler|gcc|g\+\+|cc1plus", text):
        remedy = "install gcc, which nvcc uses as preprocessor (Debian, Ubuntu: apt-get install gcc g++)"
    else:
        remedy = "report this with the program: gensyn-tvm inspect FILE --target cuda --phase code"
    raise TargetError(describe(f"{tool} could not compile the program", found=text, remedy=remedy))


_KERNEL = re.compile(r"Compiling entry function '([^']+)'")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


def parse_resources(report: str) -> dict[str, Resources]:
    """What ``ptxas -v`` says of each kernel."""
    found: dict[str, Resources] = {}
    kernel = ""
    frame: Sequence[str] = ("0", "0", "0")
    for line in report.splitlines():
        if match := _KERNEL.search(line):
            kernel = match[1]
        elif match := _FRAME.search(line):
            frame = match.group(1, 2, 3)
        elif kernel and (match := _USED.search(line)):
            shared = _SHARED.search(line)
            found[kernel] = Resources(int(match[1]), int(shared[1]) if shared else 0, *map(int, frame))
            kernel = ""
    return found


def refuse_launch_compile() -> None:
    """Let TVM, in this process and from now on, refuse to compile CUDA source when a kernel is launched."""
    import tvm_ffi
    from tvm.support import nvcc  # noqa: F401  (registers TVM's own; imported later it would replace ours)

    tvm_ffi.register_global_func("tvm_callback_cuda_compile", _launch_compile, override=True)


def _launch_compile(*_source: object) -> NoReturn:
    raise TargetError(
        describe(
            "TVM is about to compile CUDA source when a kernel is launched, with other arithmetic than this program's",
            found="TVM's own CUDA module, whose compiler takes --use_fast_math",
            expected="the fat binary that gensyn_tvm.compile(..., target='cuda') makes",
            remedy="run the executable that gensyn_tvm made; use TVM's CUDA modules in a process of their own",
        )
    )
