"""Random schedules: primitives of TVM with random arguments, applied to the kernels of every operator family.

What the order verifier accepts must compute the bits of the unscheduled kernel. Primitives that TVM itself refuses are not
counted. Number s of a family is a function of s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import tvm
from tvm import s_tir, tirx

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.operators.nest import AS_WRITTEN
from gensyn_tvm.passes.booleans import store_as_bytes
from gensyn_tvm.passes.order import check_order
from gensyn_tvm.passes.pipeline import kernels, run_phases
from gensyn_tvm.runtime.cpu import supported_levels
from gensyn_tvm.schedules.blocks import is_empty, live_blocks
from gensyn_tvm.schedules.cpu.sequences import has_sequence
from gensyn_tvm.targets.cpu import TARGETS
from gensyn_tvm.targets.expand import PIPELINE
from gensyn_tvm.targets.lowering import lowering_for

F = "float32"
Rng = np.random.Generator
Emit = Callable[[GraphBuilder], int]
_CONV = {"strides": (1, 1), "padding": ((1, 1), (1, 1)), "dilations": (1, 1), "groups": 1}
#: At most so many primitives in one schedule.
_MOST = 8


def _input(b: GraphBuilder, name: str, *shape: int, dtype: str = F) -> int:
    return b.add_input(name, "input", TensorType(shape, dtype))


def _product(b: GraphBuilder, m: int, k: int, n: int) -> int:
    x, w, bias = _input(b, "x", m, k), _input(b, "w", k, n), _input(b, "bias", n)
    return b.emit("tanh", b.emit("add", b.emit("matmul", x, w), bias))


def _softmax(b: GraphBuilder) -> int:
    x = _input(b, "x", 6, 40)
    e = b.emit("exp", b.emit("sub", x, b.emit("reduce_max", x, axes=(1,), keepdims=True)))
    return b.emit("div", e, b.emit("sum", e, axes=(1,), keepdims=True))


def _norm(b: GraphBuilder) -> int:
    x = _input(b, "x", 4, 70, 3)
    mean = b.emit("sum", x, axes=(1,), keepdims=True)
    c = b.emit("sub", x, mean)
    return b.emit("mul", c, b.emit("rsqrt", b.emit("sum", b.emit("mul", c, c), axes=(1,), keepdims=True)))


def _chain(b: GraphBuilder) -> int:
    x, y = _input(b, "x", 12, 1, 10), _input(b, "y", 7, 10)
    z = b.emit("div", b.emit("sqrt", x), b.emit("add", x, y))
    return b.emit("transpose", z, perm=(2, 0, 1))


def _moves(b: GraphBuilder) -> int:
    x, v = _input(b, "x", 6, 8), _input(b, "v")
    y = b.emit("pad", b.emit("reshape", x, shape=(4, 12)), v, padding=((1, 2), (0, 3)))
    return b.emit("concat", b.emit("slice", y, starts=(1, 0), limits=(7, 15), strides=(2, 1)), y, axis=0)


def _taken(b: GraphBuilder) -> int:
    x, i = _input(b, "x", 9, 8), _input(b, "i", 5, dtype="int64")
    return b.emit("neg", b.emit("take", b.emit("exp", x), i, axis=0))


def _conv(op: str, **more: Any) -> Emit:
    shapes = {
        "conv": ((2, 5, 6, 6), (8, 5, 3, 3)),
        "conv_backward_data": ((2, 8, 6, 6), (8, 5, 3, 3)),
        "conv_backward_weight": ((2, 5, 6, 6), (2, 8, 6, 6)),
    }[op]
    return lambda b: b.emit(op, _input(b, "x", *shapes[0]), _input(b, "w", *shapes[1]), **_CONV, **more)


FAMILIES: dict[str, Emit] = {
    "matmul": lambda b: _product(b, 10, 24, 18),
    "matmul of three chunks": lambda b: _product(b, 3, 1100, 8),
    "conv": _conv("conv"),
    "conv_backward_data": _conv("conv_backward_data", input_spatial=(6, 6)),
    "conv_backward_weight": _conv("conv_backward_weight", kernel=(3, 3)),
    "sum of rows": lambda b: b.emit("sum", _input(b, "x", 6, 100), axes=(1,), keepdims=False),
    "sum of columns": lambda b: b.emit("sum", _input(b, "x", 70, 12), axes=(0,), keepdims=True),
    "sum of blocks": lambda b: b.emit("sum", _input(b, "x", 2, 2100), axes=(1,), keepdims=False),
    "prod": lambda b: b.emit("prod", _input(b, "x", 5, 3, 14), axes=(1, 2), keepdims=False),
    "reduce_max": lambda b: b.emit("reduce_max", _input(b, "x", 9, 13), axes=(1,), keepdims=False),
    "argmin": lambda b: b.emit("argmin", _input(b, "x", 9, 13), axes=(1,), keepdims=False),
    "softmax": _softmax,
    "norm": _norm,
    "elementwise": _chain,
    "moves": _moves,
    "take": _taken,
    "max_pool": lambda b: b.emit(
        "max_pool", _input(b, "x", 1, 3, 8, 8), kernel=(3, 3), strides=(2, 2), padding=((1, 1), (1, 1)), dilations=(1, 1)
    ),
}


def graph_of(family: str) -> Graph:
    """The program of a family."""
    b = GraphBuilder("program")
    b.add_output("y", FAMILIES[family](b))
    return b.finish()


@cache
def variants(family: str) -> tuple[Any, ...]:
    """The unscheduled kernels of a family that TVM's primitives can be applied to, fused and not."""
    found: list[Any] = []

    def keep(phase: str, module: Any) -> None:
        if phase in ("legalise", "fuse"):
            found.extend(f for _, f in kernels(module))

    run_phases(graph_of(family), TARGETS[supported_levels()[-1]], "fast", keep)
    return tuple(f for f in found if AS_WRITTEN not in dict(f.attrs) and not has_sequence(f) and not _empty(f))


def _empty(function: Any) -> bool:
    sch = s_tir.Schedule(function)
    return any(is_empty(sch, block) for block in live_blocks(sch))


# ---- primitives ------------------------------------------------------------------------------------------------------


def _any(rng: Rng, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


def _loop(sch: Any, rng: Rng) -> Any:
    return _any(rng, list(sch.get_loops(_block(sch, rng))))


def _block(sch: Any, rng: Rng) -> Any:
    return _any(rng, live_blocks(sch))


def _split(sch: Any, rng: Rng, *, bare: bool = False) -> None:
    factor = int(_any(rng, (2, 3, 4, 5, 7, 8, 16)))
    factors = [None, factor] if rng.random() < 0.7 else [factor, None]
    sch.split(_loop(sch, rng), factors, disable_predication=bare)


def _fuse(sch: Any, rng: Rng) -> None:
    loops = list(sch.get_loops(_block(sch, rng)))
    start = int(rng.integers(len(loops)))
    sch.fuse(*loops[start : start + 2 + int(rng.integers(2))])


def _reorder(sch: Any, rng: Rng) -> None:
    loops = list(sch.get_loops(_block(sch, rng)))
    chosen = [loops[int(k)] for k in rng.permutation(len(loops))[: 2 + int(rng.integers(3))]]
    sch.reorder(*chosen)


def _compute_at(sch: Any, rng: Rng) -> None:
    block = _block(sch, rng)
    sch.compute_at(block, _any(rng, list(sch.get_loops(_any(rng, list(sch.get_consumers(block)))))), bool(rng.integers(2)))


def _reverse_compute_at(sch: Any, rng: Rng) -> None:
    block = _block(sch, rng)
    producer = _any(rng, list(sch.get_producers(block)))
    sch.reverse_compute_at(block, _any(rng, list(sch.get_loops(producer))), bool(rng.integers(2)))


def _decompose(sch: Any, rng: Rng) -> None:
    block = _block(sch, rng)
    sch.decompose_reduction(block, _any(rng, list(sch.get_loops(block))))


def _reductions_first(sch: Any, rng: Rng) -> None:
    """Something else than a permutation of neighbours: a tile whose reduction loops are outside."""
    block = _block(sch, rng)
    loops = list(sch.get_loops(block))
    inner = loops.pop(int(rng.integers(len(loops))))
    _, inner = sch.split(inner, [None, int(_any(rng, (2, 4, 8)))])
    sch.reorder(*[loop for loop in loops if rng.random() < 0.7], inner)
    sch.vectorize(inner)


def _map(rng: Rng, rank: int) -> Callable[..., Any]:
    order = [int(k) for k in rng.permutation(rank)]
    axis, factor = int(rng.integers(rank)), int(_any(rng, (2, 4, 8)))

    def layout(*index: Any) -> list[Any]:
        whole = [i // factor if k == axis else i for k, i in enumerate(index)]
        return [*(whole[k] for k in order), index[axis] % factor]

    return layout


def _transform_layout(sch: Any, rng: Rng) -> None:
    block = _block(sch, rng)
    rank = len(sch.get(block).writes[0].region)
    sch.transform_layout(block, ("write", 0), tirx.IndexMap.from_func(_map(rng, rank), ndim=rank))


def _transform_block(sch: Any, rng: Rng) -> None:
    block = _block(sch, rng)
    rank = len(sch.get(block).iter_vars)
    sch.transform_block_layout(block, tirx.IndexMap.from_func(_map(rng, rank), ndim=rank))


def _reorder_axes(sch: Any, rng: Rng) -> None:
    block = _block(sch, rng)
    sch.reorder_block_iter_var(block, [int(k) for k in rng.permutation(len(sch.get(block).iter_vars))])


def _cache(kind: str) -> Callable[[Any, Rng], None]:
    def apply(sch: Any, rng: Rng) -> None:
        block = _block(sch, rng)
        regions = sch.get(block).reads if kind == "cache_read" else sch.get(block).writes
        getattr(sch, kind)(block, int(rng.integers(len(regions))), _any(rng, ("global", "local")))

    return apply


def _rolling(sch: Any, rng: Rng) -> None:
    sch.rolling_buffer(_block(sch, rng), 0)


def _epilogue(sch: Any, rng: Rng) -> None:
    block = _block(sch, rng)
    sch.fuse_reduction_epilogue(block, _any(rng, list(sch.get_consumers(block))))


def _pad(sch: Any, rng: Rng) -> None:
    block = _block(sch, rng)
    sch.pad_einsum(block, [int(_any(rng, (1, 4, 16))) for _ in sch.get(block).iter_vars])


def _annotate(sch: Any, rng: Rng) -> None:
    key = _any(rng, ("pragma_auto_unroll_max_step", "pragma_unroll_explicit", "software_pipeline_stage", "pragma_import_c"))
    sch.annotate(_loop(sch, rng), key, 1)


PRIMITIVES: dict[str, tuple[float, Callable[[Any, Rng], Any]]] = {
    "split": (4, _split),
    "split without predicate": (0.5, lambda s, r: _split(s, r, bare=True)),
    "fuse": (2, _fuse),
    "reorder": (4, _reorder),
    "vectorised tile": (2, _reductions_first),
    "parallel": (1.5, lambda s, r: s.parallel(_loop(s, r))),
    "vectorize": (1.5, lambda s, r: s.vectorize(_loop(s, r))),
    "unroll": (1, lambda s, r: s.unroll(_loop(s, r))),
    "add_unit_loop": (0.3, lambda s, r: s.add_unit_loop(_block(s, r))),
    "compute_at": (3, _compute_at),
    "reverse_compute_at": (2, _reverse_compute_at),
    "compute_inline": (2, lambda s, r: s.compute_inline(_block(s, r))),
    "reverse_compute_inline": (1, lambda s, r: s.reverse_compute_inline(_block(s, r))),
    "fuse_reduction_epilogue": (0.5, _epilogue),
    "cache_read": (1.5, _cache("cache_read")),
    "cache_write": (1.5, _cache("cache_write")),
    "cache_inplace": (0.2, lambda s, r: s.cache_inplace(_block(s, r), 0, "local")),
    "cache_index": (0.3, lambda s, r: s.cache_index(_block(s, r), "global")),
    "reindex": (0.5, lambda s, r: s.reindex(_block(s, r), (_any(r, ("read", "write")), 0))),
    "read_at": (0.2, lambda s, r: s.read_at(_loop(s, r), _block(s, r), 0, "local")),
    "write_at": (0.2, lambda s, r: s.write_at(_loop(s, r), _block(s, r), 0, "local")),
    "decompose_reduction": (2.5, _decompose),
    "rfactor": (0.5, lambda s, r: s.rfactor(_loop(s, r), 0)),
    "decompose_padding": (0.3, lambda s, r: s.decompose_padding(_block(s, r), _loop(s, r))),
    "pad_einsum": (0.3, _pad),
    "set_scope": (0.5, lambda s, r: s.set_scope(_block(s, r), 0, _any(r, ("local", "global", "shared")))),
    "storage_align": (0.3, lambda s, r: s.storage_align(_block(s, r), 0, 0, 32, 1)),
    "transform_layout": (1.5, _transform_layout),
    "transform_block_layout": (0.5, _transform_block),
    "reorder_block_iter_var": (0.5, _reorder_axes),
    "rolling_buffer": (0.5, _rolling),
    "blockize": (0.3, lambda s, r: s.blockize(_loop(s, r))),
    "unsafe_set_dtype": (0.2, lambda s, r: s.unsafe_set_dtype(_block(s, r), 0, "float64")),
    "unsafe_hide_buffer_access": (0.2, lambda s, r: s.unsafe_hide_buffer_access(_block(s, r), "read", [0])),
    "annotate": (0.3, _annotate),
}

_NAMES = list(PRIMITIVES)
_WEIGHTS = np.array([w for w, _ in PRIMITIVES.values()])
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Scheduled:
    """A random schedule.

    Attributes:
        name: family and number.
        variant, function: the kernel before and after.
        applied: names of the primitives.
        refusal: what the verifier says; empty if it accepts.
    """

    name: str
    variant: Any
    function: Any
    applied: tuple[str, ...]
    refusal: str


def draw(family: str, number: int) -> Scheduled:
    """Random schedule ``number`` of a family."""
    rng = np.random.default_rng([number, list(FAMILIES).index(family)])
    variant = _any(rng, variants(family))
    sch = s_tir.Schedule(variant, debug_mask="none", error_render_level="none")
    applied: list[str] = []
    for _ in range(1 + int(rng.integers(4 * _MOST))):
        name = str(rng.choice(_NAMES, p=_WEIGHTS))
        try:
            PRIMITIVES[name][1](sch, rng)
        except Exception:  # of many kinds: the arguments are random
            continue
        applied.append(name)
        if len(applied) == _MOST:
            break
    function = sch.mod["main"]
    try:
        check_order("k", function, variant)
    except ScheduleError as error:
        return Scheduled(f"{family} {number}", variant, function, tuple(applied), str(error))
    return Scheduled(f"{family} {number}", variant, function, tuple(applied), "")


# ---- execution -------------------------------------------------------------------------------------------------------


def arrays_for(function: Any, seed: int) -> list[np.ndarray]:
    """Random arguments, the output included, with a few special values."""
    rng = np.random.default_rng(seed)
    arrays = []
    for p in function.params:
        shape, dtype = tuple(int(e) for e in p.shape), str(p.dtype)
        dtype = "int8" if dtype == "bool" else dtype
        if dtype.startswith("float"):
            array = rng.standard_normal(shape).astype(dtype)
            if array.size > 8 and rng.random() < 0.3:
                array.flat[rng.integers(array.size, size=2)] = [-0.0, 0.0]
        else:
            array = rng.integers(0, 2 if dtype == "int8" else 5, shape).astype(dtype)
        arrays.append(np.asarray(array))
    return arrays


def run_all(functions: Sequence[Any], arguments: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """The bits of all arguments of every function after it has run on this machine; nothing is verified."""
    target = TARGETS[supported_levels()[-1]]
    module = tvm.IRModule({f"k{n}": store_as_bytes(f.with_attr("global_symbol", f"k{n}")) for n, f in enumerate(functions)})
    with target.to_tvm(), lowering_for(has_fma=target.has_fma):
        built = tvm.compile(module, target.to_tvm(), tir_pipeline=PIPELINE)
    results = []
    for n, given in enumerate(arguments):
        tensors = [_between_margins(a) for a in given]
        built[f"k{n}"](*tensors)
        found = [np.ascontiguousarray(a.numpy()) for a in tensors]
        results.append([a.view(f"u{a.dtype.itemsize}") if a.ndim else a for a in found])
    return results


def _between_margins(array: np.ndarray) -> Any:
    """A tensor with the array's values and known bytes on both sides, so that what reads beyond it reads no zeros."""
    margin = 4096
    memory = np.full(array.nbytes + 3 * margin, 0x3F, "uint8")
    start = margin + -(memory.ctypes.data + margin) % 64
    inner = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    inner[...] = array
    return tvm.runtime.from_dlpack(inner)


@dataclass
class Outcome:
    """What came of accepted schedules: numbers of equal ones and of those that TVM cannot compile, and the others."""

    equal: int = 0
    uncompiled: int = 0
    different: tuple[Scheduled, ...] = ()

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.equal + other.equal, self.uncompiled + other.uncompiled, (*self.different, *other.different))


def outcome(schedules: Sequence[Scheduled]) -> Outcome:
    """Compare the bits of schedules with those of their variants."""
    if not schedules:
        return Outcome()
    arguments = [arrays_for(s.variant, seed) for seed, s in enumerate(schedules)]
    before = run_all([s.variant for s in schedules], arguments)
    try:
        after = run_all([s.function for s in schedules], arguments)
    except (RuntimeError, ValueError, TypeError):  # TVM's lowering has limits of its own; find out which ones meet them
        if len(schedules) == 1:
            return Outcome(uncompiled=1)
        half = len(schedules) // 2
        return outcome(schedules[:half]) + outcome(schedules[half:])
    same = [all(map(np.array_equal, a, b)) for a, b in zip(before, after, strict=True)]
    return Outcome(sum(same), 0, tuple(s for s, equal in zip(schedules, same, strict=True) if not equal))
