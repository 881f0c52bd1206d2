"""What a GPU could do at most with our kernels: their operations and bytes, counted in their source and plan, beside its roof.

``benchmarks/gpu_compile.py`` records them for the operators that ``gpu_pack.py`` times; ``scripts/make_gpu_roofline.py`` writes
docs/gpu-roofline.md from that record. Nothing here needs a GPU.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.runtime.plan import nbytes
from gensyn_tvm.targets.gpu import DeviceProgram
from gensyn_tvm.targets.gpu_lint import disassemble, sass
from gensyn_tvm.targets.gpu_lint.source import bodies
from gensyn_tvm.targets.gpu_resources import report
from gensyn_tvm.targets.nvcc import Built

#: An H100 SXM (NVIDIA's data sheet): float32 operations outside of matrix units, and bytes of memory, each second.
NAME, FLOPS, BANDWIDTH, ARCHITECTURE = "H100 SXM", 67e12, 3.35e12, 90

#: Operations in binary32. One in binary64 counts as two, because half as many are done in the same time; divisions and roots as
#: ten, which is about what the assembler makes of them.
_WEIGHTS = {
    **{f"__f{n}_rn": 1 for n in ("add", "sub", "mul")} | {"__fmaf_rn": 2, "__fdiv_rn": 10, "__fsqrt_rn": 10},
    **{f"__d{n}_rn": 2 for n in ("add", "sub", "mul")} | {"__fma_rn": 4, "__ddiv_rn": 20, "__dsqrt_rn": 20},
}
_TOKEN = re.compile(r"for \(int (\w+) = 0; \1 < (\d+); \+\+\1\) \{|\bfor\b|(\{)|(\})|\b(\w+)(?=\()")
_TYPE = re.compile(r"(\w+)\[([\d, ]*)\]")
#: Loads and stores of 16 bytes.
_WIDE = {"global loads": "LDG.E.128", "shared loads": "LDS.128", "shared stores": "STS.128", "global stores": "STG.E.128"}


def operations(source: str, kernels: Collection[str]) -> dict[str, int]:
    """Float operations of one thread of each kernel, at most: whatever stands under a condition counts.

    Raises:
        ValueError: a loop's iterations cannot be counted.
    """
    texts = bodies(source)

    @cache
    def of(name: str) -> int:
        total, factors = 0, [1]
        for token in _TOKEN.finditer(texts[name]):
            count, opens, closes, called = token[2], token[3], token[4], token[5]
            if token[0] == "for":
                raise ValueError(f"{name}: a loop whose iterations cannot be counted")
            if count or opens:
                factors.append(factors[-1] * int(count or 1))
            elif closes:
                factors.pop()
            else:
                total += factors[-1] * (_WEIGHTS.get(called) or (of(called) if called in texts and called != name else 0))
        return total

    return {name: of(name) for name in kernels}


def moved(program: DeviceProgram) -> dict[str, int]:
    """Bytes that each kernel reads and writes at least: each of its arrays once."""
    found: dict[str, int] = {}
    for step in program.plan.steps:
        arrays = {(a.slot, a.offset): a.type for a in step.arguments}
        found[step.kernel] = found.get(step.kernel, 0) + sum(map(_bytes, arrays.values()))
    return found


def _bytes(text: str) -> int:
    match = _TYPE.fullmatch(text)
    if match is None:
        raise ValueError(f"no type of an array: {text}")
    return nbytes(TensorType(tuple(int(e) for e in match[2].split(", ") if e), match[1]))


def detail(built: Built, program: DeviceProgram) -> list[dict[str, Any]]:
    """A row for each kernel, in the order of the launches."""
    threads = {name: math.prod(launch.block) for name, launch in program.launches.items()}
    taken = {r.kernel: r for r in report(built.resources[ARCHITECTURE], threads, ARCHITECTURE)}
    counted, bytes_ = operations(program.source, program.launches), moved(program)
    machine = sass.parse(disassemble(built.cubins[ARCHITECTURE]))
    rows = []
    for name in dict.fromkeys(step.kernel for step in program.plan.steps):
        launch, r = program.launches[name], taken[name]
        wide = {what: machine[name].numbers[op] + machine[name].numbers[f"{op}.CONSTANT"] for what, op in _WIDE.items()}
        rows.append(
            {
                "kernel": name,
                "blocks": math.prod(launch.grid),
                "threads": threads[name],
                "registers": r.resources.registers,
                "spilled": r.resources.spill_stores + r.resources.spill_loads,
                "shared": r.resources.shared,
                "occupancy": r.occupancy,
                "limit": r.limit,
                "flops": counted[name] * math.prod(launch.grid) * threads[name],
                "bytes": bytes_[name],
                "wide": {what: n for what, n in wide.items() if n},
            }
        )
    return rows


def bound(row: Mapping[str, Any]) -> tuple[float, str]:
    """The fewest seconds that a kernel takes, and what holds it there."""
    compute, memory = row["flops"] / FLOPS, row["bytes"] / BANDWIDTH
    return max(compute, memory), "arithmetic" if compute > memory else "memory"
