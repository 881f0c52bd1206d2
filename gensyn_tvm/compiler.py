"""``compile``: a program or training step → an executable for one target."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from gensyn_tvm.build_cache import built_once
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.errors import InvalidProgramError, TargetError, describe
from gensyn_tvm.program import Program
from gensyn_tvm.runtime.accumulated import AccumulatedExecutable
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.targets.cpu import CpuTarget
from gensyn_tvm.targets.gpu.target import GpuTarget
from gensyn_tvm.targets.resolve import Target, resolve

if TYPE_CHECKING:
    from gensyn_tvm.training.accumulation import AccumulatedStep
    from gensyn_tvm.training.step import TrainingStep

_LOG = logging.getLogger(__name__)

#: Flags of the C oracle: no optimisation, no contraction, wrapping integers, no type-based aliasing (bit casts).
_C_FLAGS = [
    "-shared",
    "-fPIC",
    "-O0",
    "-std=gnu11",
    "-ffp-contract=off",
    "-fwrapv",
    "-fno-strict-aliasing",
    "-w",
    "-Wl,-Bsymbolic",
]


@dataclass(frozen=True)
class Source:
    """What is compiled: the canonical graph and the initial values of its state inputs.

    ``recomputed``: indices of the nodes that are computed again for the gradients, which saves memory and changes no bit.
    """

    graph: Graph
    state: State
    learning_rate: float | None = None
    recomputed: frozenset[int] = frozenset()


def source_of(program: Program | TrainingStep | Graph | Source) -> Source:
    """The canonical graph of anything that can be compiled, with its arrays.

    Raises:
        InvalidProgramError: something else.
    """
    from gensyn_tvm.training.step import TrainingStep, inference_graph

    if isinstance(program, Source):
        return program
    if isinstance(program, Graph):
        return Source(program, State({}))
    if isinstance(program, Program):
        return Source(inference_graph(program), State({**program.parameters, **program.states}))
    if not isinstance(program, TrainingStep):
        raise InvalidProgramError(
            describe(
                "this cannot be compiled",
                found=type(program).__name__,
                expected="a program, a training step or a canonical graph",
                remedy="from_torch or from_onnx makes a program of a model",
            )
        )
    arrays = {**program.parameters, **program.states, **program.optimizer_state}
    return Source(program.graph, State(arrays), program.learning_rate, program.recomputed)


@overload
def compile(
    program: Program | TrainingStep | Graph | Source,
    target: str | Target = "native",
    *,
    threads: int | None = None,
    schedule: str | None = None,
) -> Executable: ...


@overload
def compile(
    program: AccumulatedStep,
    target: str | Target = "native",
    *,
    threads: int | None = None,
    schedule: str | None = None,
) -> AccumulatedExecutable: ...


def compile(
    program: Program | TrainingStep | Graph | Source | AccumulatedStep,
    target: str | Target = "native",
    *,
    threads: int | None = None,
    schedule: str | None = None,
) -> Executable | AccumulatedExecutable:
    """Compile for a target, or take the library of an equal program from the cache (``gensyn_tvm.build_cache``).

    Args:
        program: what a frontend, ``training_step``, ``accumulated_step`` or ``load(...).source`` gave.
        target: ``x86-64``, ``x86-64-v3``, ``x86-64-v4``, ``native``, ``c`` or ``cuda``.
        threads: compute threads of the executable; all cores by default.
        schedule: ``fast`` (default), ``plain`` or ``none``; ``c`` is always ``none``, and ``cuda`` has no ``none``.
            Never changes a bit.

    Raises:
        InvalidProgramError: ``program`` is something else.
        UnsupportedOperatorError: an operator has no deterministic variant.
        TargetError: the target is unknown or its compiler is missing.
        InputError: fewer than one thread.
    """
    from gensyn_tvm.training.accumulation import AccumulatedStep

    if isinstance(program, AccumulatedStep):
        return _compile_accumulated(program, target, threads, schedule)
    resolved = resolve(target)
    source = source_of(program)
    style = "none" if resolved.kind == "c" else (schedule or "fast")
    library = built_once(
        source.graph,
        resolved,
        style,
        source.recomputed,
        lambda: _build(source.graph, resolved, style, source.recomputed),
    )
    exe = Executable.from_library(
        source.graph,
        source.state,
        library,
        target=resolved.name,
        schedule=style,
        threads=threads,
        learning_rate=source.learning_rate,
    )
    for warning in exe.warnings:  # whether it was built now or is from the cache
        _LOG.warning("%s", warning)
    return exe


def _compile_accumulated(
    step: AccumulatedStep, target: str | Target, threads: int | None, schedule: str | None
) -> AccumulatedExecutable:
    gradient, add, apply = (
        compile(Source(g, State(step.arrays_of(g)), step.learning_rate), target, threads=threads, schedule=schedule)
        for g in (step.gradient, step.add, step.apply)
    )
    arrays = {**apply.state.arrays, **gradient.state.arrays}
    for exe in (gradient, apply):
        exe.state = State({name: arrays[name] for name in exe.state.arrays})
    return AccumulatedExecutable(gradient, add, apply, step.microbatches, State(arrays), step.learning_rate)


def _build(graph: Graph, target: Target, style: str, recomputed: Collection[int]) -> bytes:
    build = build_cuda if isinstance(target, GpuTarget) else build_library
    return build(graph, target, style, recomputed)  # type: ignore[arg-type]


def build_cuda(graph: Graph, target: GpuTarget, style: str, recomputed: Collection[int] = ()) -> bytes:
    """The library of a graph for NVIDIA GPUs: a fat binary, launches and plan; its PTX has been read (``gpu_lint``).

    Raises:
        TargetError: the CUDA compiler fails or is missing.
        ExactnessError: it made code that is not exact.
    """
    from gensyn_tvm.passes.device import device_program
    from gensyn_tvm.runtime.cuda import pack_device
    from gensyn_tvm.targets.gpu_lint import require_exact
    from gensyn_tvm.targets.nvcc import compile_cuda, refuse_launch_compile

    refuse_launch_compile()
    program = device_program(graph, target, style, recomputed)
    built = compile_cuda(program.source)
    require_exact(built, machine_code=False)
    return pack_device(built.fatbin, program)


def build_library(graph: Graph, target: CpuTarget, style: str, recomputed: Collection[int] = ()) -> bytes:
    """The shared library of a graph: kernels, a function that calls them, and its plan; ``recomputed`` as in ``Source``.

    Raises:
        TargetError: the system compiler fails or is missing.
    """
    from gensyn_tvm.passes.pipeline import run_phases
    from gensyn_tvm.runtime.plan import pack

    lowered = run_phases(graph, target, style, recomputed=recomputed)
    built = generate_code(lowered.module, target)
    with tempfile.TemporaryDirectory(prefix="gensyn-tvm-") as folder:
        path = Path(folder) / "program.so"
        try:
            if target.kind == "c":
                built.export_library(str(path), fcompile=_compile_c)
            else:
                built.export_library(str(path))
        except (RuntimeError, OSError) as error:
            raise TargetError(
                f"the system compiler could not link the program: {str(error)[-800:]}\n"
                "  what to do: install gcc (Debian, Ubuntu: apt-get install gcc)"
            ) from error
        return pack(path.read_bytes(), lowered.plan, lowered.constants)


def generate_code(module: Any, target: CpuTarget) -> Any:
    """TVM's runtime module of a lowered one."""
    from tvm import tirx

    from gensyn_tvm.targets.expand import PIPELINE
    from gensyn_tvm.targets.lowering import lowering_for

    with target.to_tvm(), lowering_for(has_fma=target.has_fma):
        return tirx.build(module, target.to_tvm(), pipeline=PIPELINE)


def _compile_c(output: str, objects: list[str], options: list[str] | None = None, **_unused: Any) -> None:
    """Compile TVM's C sources without optimisation and link them with the bytecode object."""
    from tvm.support import cc

    cc.create_shared(output, objects, options=[*_C_FLAGS, *(options or []), "-lm"], cc=os.environ.get("CC", "gcc"))


def phases(graph: Graph, target: str | Target = "native", *, schedule: str = "fast") -> dict[str, str]:
    """The text of every phase of the compiler, and of the generated code under ``code``; of ``cuda`` its source only."""
    from gensyn_tvm.passes.device import device_program
    from gensyn_tvm.passes.pipeline import run_phases

    resolved = resolve(target)
    if isinstance(resolved, GpuTarget):
        return {"code": device_program(graph, resolved, schedule).source}
    style = "none" if resolved.kind == "c" else schedule
    texts: dict[str, str] = {}
    lowered = run_phases(graph, resolved, style, lambda phase, m: texts.update({phase: m.script(show_meta=False)}))
    built = generate_code(lowered.module, resolved)
    texts["code"] = built.inspect_source("c" if resolved.kind == "c" else "asm")
    return texts
