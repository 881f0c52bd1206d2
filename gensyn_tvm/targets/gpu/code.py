"""Device kernels → source text: TVM's passes and its generators of text, without its host code and its own compilation."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from gensyn_tvm.errors import ScheduleError, describe
from gensyn_tvm.targets.gpu.cut import Piece
from gensyn_tvm.targets.gpu.prelude import own_words, prelude
from gensyn_tvm.targets.gpu.program import Launch
from gensyn_tvm.targets.gpu.target import GpuTarget
from gensyn_tvm.targets.indices import before_flattening, show_divisions
from gensyn_tvm.targets.lowering import lowering_for

_DEVICE_KERNEL = 2  # tvm::CallingConv::kDeviceKernelLaunch
#: The definition of a kernel in the text that TVM generates, behind declarations and TVM's own head.
_KERNEL = re.compile(r'^(?:extern "C" __global__|__kernel)[^;\n]*\{\n.*?^\}\n', re.MULTILINE | re.DOTALL)

#: Types that CUDA has under these names only with a header.
_INTEGER = re.compile(r"\b(u?int(?:8|16|32|64))_t\b")

#: A loop without another inside.
_LOOP = re.compile(r"^( *)for \(int (\w+) = 0; \2 < (\d+); \+\+\2\) \{\n((?:(?!\1\}| *for ).*\n)*)\1\}\n", re.MULTILINE)
#: Iterations written out, so that as many loads are on their way; and characters of a body that are not too many for that.
_ITERATIONS, _SHORT = 8, 800

#: Bytes: TVM's generator puts arrays of shared memory at multiples.
_ALIGNMENT = 64
#: Threads of the blocks that have many registers each.
_MANY_THREADS = 256


def source_of(pieces: Sequence[Piece], target: GpuTarget) -> tuple[str, dict[str, Launch]]:
    """One translation unit with all kernels, and how each is launched.

    Raises:
        ScheduleError: a kernel needs more shared memory than a block has.
    """
    # One kernel at a time: TVM repeats the declarations of all in front of each.
    texts, launches = [], {}
    for piece in pieces:
        text, shared = _text(piece, target)
        texts.append(text)
        launches[piece.name] = replace(piece.launch, shared=shared)
        if shared > target.shared_bytes:
            found, expected = f"{shared} bytes of shared memory", f"at most {target.shared_bytes}"
            raise ScheduleError(
                describe(
                    "a block has not enough memory",
                    where=f"kernel {piece.name!r}",
                    found=found,
                    expected=expected,
                    remedy="compile with schedule 'plain'",
                )
            )
    kernels = "\n".join(texts)
    return prelude(target.kind, kernels) + "\n" + kernels, launches


def _shared_bytes(module: Any) -> int:
    """Bytes of shared memory, with what lies between arrays that stand at multiples of ``_ALIGNMENT``."""
    sizes: list[int] = []

    def note(stmt: Any) -> None:
        if str(stmt.buffer.scope()) == "shared":
            element = tvm.DataType(stmt.buffer.dtype)  # TVM makes vectors of what is read and written in vectors only
            sizes.append(math.prod(int(e) for e in stmt.buffer.shape) * element.bits * element.lanes // 8)

    for _, function in module.functions_items():
        tvm_ffi.structural_walk(function.body, (tirx.AllocBuffer, note))
    return sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes[:-1]) + sum(sizes[-1:])


def _text(piece: Piece, target: GpuTarget) -> tuple[str, int]:
    tvm_target = target.to_tvm()
    attrs = {"global_symbol": piece.name, "tirx.noalias": True, "target": tvm_target, "calling_conv": _DEVICE_KERNEL}
    function = piece.function.with_attrs({**attrs, "tirx.is_global_func": True})
    module = tvm.IRModule({tvm.ir.GlobalVar(piece.name): function})
    with tvm_target, lowering_for(has_fma=target.has_fma):
        module = _lowering(tiled=piece.tiled)(module)
        built = tvm.get_global_func(f"target.build.{target.kind}")(module, tvm_target)
    found = _KERNEL.findall(built.inspect_source())
    if len(found) != 1:
        raise AssertionError(f"TVM's text of kernel {piece.name} has {len(found)} definitions")
    text = _in_memory(_read_only(str(found[0]), len(piece.buffers) - piece.writes), piece.rereads)
    if target.kind == "opencl":
        return text.replace("get_group_id(", "GX_GROUP(").replace("get_local_id(", "GX_LOCAL("), _shared_bytes(module)
    if (
        piece.tiled and math.prod(piece.launch.block) == _MANY_THREADS
    ):  # two blocks take turns; their registers suffice if the totals leave them while a chunk is computed
        text = re.sub(r"__launch_bounds__\((\d+)\)", r"__launch_bounds__(\1, 2)", text)
    return _INTEGER.sub(r"gx_\1", _LOOP.sub(_written_out, text)), _shared_bytes(module)


def _read_only(text: str, count: int) -> str:
    """A kernel that promises not to write to what its first parameters point to, which may then go through other caches."""
    if not count:
        return text
    head, body = text.split("{", 1)
    return re.sub(r"(__global )?(\w+\* (?:__restrict__|restrict) p\d+)", r"\1const \2", head, count=count) + "{" + body


def _written_out(loop: re.Match[str]) -> str:
    """A loop with a pragma, if it is short."""
    if int(loop[3]) < _ITERATIONS or len(loop[4]) > _SHORT:
        return loop[0]
    return f"{loop[1]}#pragma unroll {_ITERATIONS}\n{loop[0]}"


def _in_memory(text: str, rereads: Sequence[int]) -> str:
    """A kernel that may find what it stored changed where its threads wait: what a schedule keeps in memory is not to come back
    into registers."""
    for k in rereads:
        text = re.sub(rf"(\w+\*) (?:__restrict__|restrict) (p{k})\b", r"\1 \2", text, count=1)
    return text


def _lowering(*, tiled: bool) -> Any:
    """TVM's passes for a function that has no host code; nothing here rewrites what it does not understand.

    ``tiled``: threads wait for one another, so that conditions may not be moved around what they wait at; and vectors have to
    be seen to be neighbours, so that their places may not be named.
    """
    return tvm.transform.Sequential(
        [
            before_flattening(device=True),
            tirx.transform.FlattenBuffer(),
            show_divisions,
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.StorageRewrite(),
            *([] if tiled else [s_tir.transform.HoistIfThenElse()]),
            tirx.transform.UnrollLoop(),
            s_tir.transform.RenormalizeSplitPattern(),
            tirx.transform.StmtSimplify(),
            tirx.transform.RemoveNoOp(),
            *([] if tiled else [tirx.transform.CommonSubexprElim()]),
            s_tir.transform.ThreadSync("shared"),
            tirx.transform.LowerIntrin(),
            _our_words(),
        ]
    )


def _our_words() -> Any:
    def run(module: Any, _context: Any) -> Any:
        functions = {gv: f.with_body(_in_own_words(f.body)) for gv, f in module.functions_items()}
        return tvm.IRModule(functions, attrs=module.attrs)

    return tvm.transform.module_pass(run, opt_level=0, name="GpuOwnWords")


def _in_own_words(body: Any) -> Any:
    def select(expr: Any, mutator: Any) -> Any:
        expr = mutator.default_mutate(expr)
        return own_words(expr, expr.condition, expr.true_value, expr.false_value)

    def extremum(expr: Any, mutator: Any) -> Any:
        expr = mutator.default_mutate(expr)
        return own_words(expr, expr.a, expr.b)

    def call(expr: Any, mutator: Any) -> Any:
        expr = mutator.default_mutate(expr)
        ours = own_words(expr, *expr.args)
        return expr if ours is None else ours

    def invert(expr: Any, mutator: Any) -> Any:
        expr = mutator.default_mutate(expr)
        return own_words(expr, expr.a)

    callbacks = [(tirx.Select, select), ((tirx.Min, tirx.Max), extremum), (tirx.BitwiseNot, invert), (tvm.ir.Call, call)]
    return tvm_ffi.structural_mutate(body, callbacks)
