"""Read what a CUDA compiler made, and refuse whatever is not exact: PTX, and the machine code of every architecture.

The compiler is told to be exact; this looks whether it was. Both readers know the instructions that are exact and refuse all
others, so that a new compiler, a new architecture or a mistake in a schedule gives an error rather than other bits.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gensyn_tvm.errors import ExactnessError, TargetError, describe
from gensyn_tvm.runtime.cpu import core_count
from gensyn_tvm.targets import nvcc
from gensyn_tvm.targets.gpu_lint import ptx, sass
from gensyn_tvm.targets.gpu_lint.source import contracted

_SHOWN = 8
_CONTRACTED = "the source of this kernel has no fma: the compiler contracted a product and a sum"


@dataclass(frozen=True)
class Finding:
    """Something that is not exact.

    Attributes:
        kernel: where.
        code: ``PTX``, or the architecture of the machine code.
        instruction: with its operands.
        reason: why it is refused.
    """

    kernel: str
    code: str
    instruction: str
    reason: str


def lint(built: nvcc.Built, *, machine_code: bool = True, jobs: int | None = None) -> list[Finding]:
    """Everything that is not exact in the PTX and in all machine code; empty if all is well.

    Args:
        built: what ``nvcc.compile_cuda`` made.
        machine_code: whether to read more than the PTX, which needs a disassembler.
        jobs: disassemblers that run at a time; one for each core if None.

    Raises:
        TargetError: there is no disassembler, or it fails.
    """
    functions = ptx.parse(built.ptx)
    findings = [Finding(f.name, "PTX", *p) for f in functions.values() for p in ptx.problems(functions, f)]
    findings += [Finding(name, "PTX", "fma.rn", _CONTRACTED) for name in contracted(built.source, functions)]
    kernels = {name: ptx.counts(functions, f) for name, f in functions.items() if f.is_kernel}
    architectures = list(built.cubins) if machine_code else []
    with ThreadPoolExecutor(jobs or core_count()) as pool:
        listings = list(pool.map(lambda a: disassemble(built.cubins[a]), architectures))
    for architecture, listing in zip(architectures, listings, strict=True):
        machine = sass.parse(listing)
        code = f"sm_{architecture}"
        findings += [Finding(n, code, "", "a kernel that is not in the PTX") for n in sorted(set(machine) - set(kernels))]
        for name, counts in kernels.items():
            if name not in machine:
                findings.append(Finding(name, code, "", "the kernel has no machine code"))
                continue
            findings += [Finding(name, code, *p) for p in sass.problems(machine[name], counts)]
    return findings


def require_exact(built: nvcc.Built, *, machine_code: bool = True, jobs: int | None = None) -> None:
    """Raises ExactnessError that names kernels and instructions if ``lint`` finds anything; arguments as there."""
    findings = lint(built, machine_code=machine_code, jobs=jobs)
    if not findings:
        return
    lines = [f"{f.kernel} ({f.code}): {f.instruction}: {f.reason}" for f in findings[:_SHOWN]]
    if len(findings) > _SHOWN:
        lines.append(f"and {len(findings) - _SHOWN} more")
    raise ExactnessError(
        describe(
            "the CUDA compiler made code that is not exact",
            found="\n    ".join(lines),
            expected="IEEE-754 operations of one rounding, in a fixed order",
            remedy="report this with the version of nvcc; CUDA_HOME chooses another toolkit",
        )
    )


def disassemble(cubin: bytes) -> str:
    """What ``nvdisasm`` prints of the machine code of one architecture.

    Raises:
        TargetError: there is no nvdisasm, or it fails.
    """
    with tempfile.TemporaryDirectory(prefix="gensyn-tvm-") as folder:
        path = Path(folder) / "program.cubin"
        path.write_bytes(cubin)
        command: Sequence[str] = [str(find_disassembler()), "-c", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise TargetError(describe("nvdisasm cannot read the machine code", found=done.stderr[-400:], remedy=_REMEDY))
    return done.stdout


_REMEDY = "pip install nvidia-cuda-nvdisasm; it must not be older than nvcc"


@cache
def find_disassembler() -> Path:
    """``nvdisasm`` of PyPI, or else of the toolkit.

    Raises:
        TargetError: there is none.
    """
    folders = [*nvcc.package_folders(), nvcc.find_toolkit().folder]
    for folder in folders:
        if (folder / "nvdisasm").is_file():
            return folder / "nvdisasm"
    raise TargetError(
        describe("there is no disassembler of NVIDIA's machine code", found=", ".join(map(str, folders)), remedy=_REMEDY)
    )
