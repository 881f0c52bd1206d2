"""Running graphs as OpenCL on PoCL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.canonical.types import from_carrier, to_carrier
from gensyn_tvm.passes.device import device_program
from gensyn_tvm.runtime.opencl import OpenClMachine
from gensyn_tvm.targets.gpu import OPENCL, GpuTarget


def executed(
    graph: Graph,
    given: Mapping[str, np.ndarray],
    *,
    target: GpuTarget = OPENCL,
    style: str = "fast",
    definitions: Sequence[str] = (),
) -> list[np.ndarray]:
    """The outputs of a graph."""
    machine = OpenClMachine(device_program(graph, target, style), definitions)
    found = machine.run([np.asarray(to_carrier(np.asarray(given[i.name]))) for i in graph.inputs])
    types, extents = graph.value_types(), iter(found[len(graph.outputs) :])
    results = []
    for output, array in zip(graph.outputs, found, strict=False):
        for axis, _ in output.extents:
            array = array[(slice(None),) * axis + (slice(0, max(int(next(extents)), 0)),)]
        results.append(from_carrier(np.array(array, order="C"), types[output.value].dtype))
    return results
