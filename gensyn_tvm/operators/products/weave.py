"""Images put together from their phases: element (y, x) is element (y // s, x // s) of phase (y mod s, x mod s)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.operators import terms
from gensyn_tvm.operators.nest import as_written, i64, kernel, load, unravel
from gensyn_tvm.operators.products.packing import vector

Expr = Any

#: Elements from which threads are worth their start.
_PARALLEL = 30_000


class _Weave:
    """One kernel: y (N, C, spatial…) from ``sources``, by phase; a phase without source is +0.0."""

    def __init__(self, sources: Mapping[tuple[int, ...], Any], y: Any, shape: Sequence[int], strides: Sequence[int]) -> None:
        self.sources, self.y, self.shape, self.strides = sources, y, list(shape), list(strides)

    def emit(self, dtype: str, lanes: int) -> None:
        """Threads over samples and channels; lines of each phase of the outer axes in turn."""
        *outer, width = self.shape[2:]
        number, channels = self.shape[:2]
        loop = T.parallel if math.prod(self.shape) >= _PARALLEL else T.serial
        with loop(i64(0), i64(number * channels)) as task:
            place = unravel(task, [number, channels])
            for phase in itertools.product(*(range(s) for s in self.strides[:-1])):
                counts = [len(range(p, e, s)) for p, e, s in zip(phase, outer, self.strides, strict=False)]
                if not math.prod(counts):
                    continue
                with T.serial(i64(0), i64(math.prod(counts))) as line:
                    index = unravel(line, counts)
                    at = [i * i64(s) + i64(p) for i, s, p in zip(index, self.strides, phase, strict=False)]
                    self._line([*place, *index], [*place, *at], phase, width, dtype, lanes)

    def _line(self, source: list[Expr], at: list[Expr], phase: tuple[int, ...], width: int, dtype: str, lanes: int) -> None:
        stride, done = self.strides[-1], 0
        pair = [self.sources.get((*phase, p)) for p in range(stride)]
        if stride == 2 and lanes > 1 and all(buffer is not None for buffer in pair):
            count = width // (2 * lanes)
            if count:
                with T.serial(i64(0), i64(count)) as k:
                    start = k * i64(lanes)
                    even, odd = (T.bind(load(buffer, [*source, vector(start, lanes)])) for buffer in pair)
                    for half in range(2):
                        order = [i64(h * lanes + half * lanes // 2 + p) for p in range(lanes // 2) for h in range(2)]
                        target = vector(start * i64(2) + i64(half * lanes), lanes)
                        T.buffer_store(self.y, tirx.Shuffle([even, odd], order), [*at, target])
            done = count * lanes
        for p, buffer in enumerate(pair):
            rest = len(range(p, width, stride)) - done
            if rest > 0:
                with T.serial(i64(0), i64(rest)) as k:
                    x = k + i64(done)
                    value = terms.zero(dtype) if buffer is None else load(buffer, [*source, x])
                    T.buffer_store(self.y, value, [*at, x * i64(stride) + i64(p)])


def weave(name: str, inputs: Sequence[TensorType], output: TensorType, attrs: Mapping[str, Any]) -> Any:
    """One (N, C, …) for each of ``phases`` -> (N, C, spatial…). Attributes: ``phases``, ``strides``, ``lanes`` of a vector."""
    with kernel(name, inputs, output) as k:
        sources = dict(zip(map(tuple, attrs["phases"]), k.inputs, strict=True))
        _Weave(sources, k.output, output.shape, attrs["strides"]).emit(output.carrier, attrs["lanes"])
    return as_written(k.result())
