"""Fusion: neighbours become one kernel. Every element keeps its own scalar operations, so fusing cannot change a bit."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax


def fuse(module: Any) -> Any:
    """Merge elementwise, broadcasting and data-moving kernels into their neighbours."""
    passes = tvm.transform.Sequential(
        [
            relax.transform.FuseOps(fuse_opt_level=2),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
        ]
    )
    with tvm.transform.PassContext(opt_level=2):
        return passes(module)
