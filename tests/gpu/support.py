"""Running graphs as OpenCL on PoCL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.passes.device import device_program
from gensyn_tvm.runtime.opencl import OpenClExecutable
from gensyn_tvm.targets.gpu import OPENCL, GpuTarget

#: Blocks and threads in descending order: what depends on their order has other bits then.
DESCENDING = (
    "GX_GROUP(d)=(get_num_groups(d)-1-get_group_id(d))",
    "GX_LOCAL(d)=(get_local_size(d)-1-get_local_id(d))",
)


def executed(
    graph: Graph,
    given: Mapping[str, np.ndarray],
    *,
    target: GpuTarget = OPENCL,
    style: str = "fast",
    definitions: Sequence[str] = (),
) -> list[np.ndarray]:
    """The outputs of a graph."""
    return OpenClExecutable(graph, device_program(graph, target, style), definitions).run(given)
