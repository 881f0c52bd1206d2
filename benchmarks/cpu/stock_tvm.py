"""Stock TVM as a peer: its importer of PyTorch programs and its own default pipeline for CPUs, untuned, for this processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.cpu.cases import Workload

#: Operations of a call beyond which it is left out: the default schedule of a product does about half of that each second.
LIMIT = 1e9


class StockTvm:
    """``relax.build`` of ``from_exported_program``; its default schedules use one thread, whatever number is asked for."""

    name = "stock tvm"

    def __init__(self, workload: Workload) -> None:
        import torch
        import tvm
        from torch.utils.flop_counter import FlopCounterMode
        from tvm import relax
        from tvm.relax.frontend.torch import from_exported_program

        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            workload.module(*workload.inputs)
        if counter.get_total_flops() > LIMIT:
            raise ValueError(f"{counter.get_total_flops():.1e} operations are seconds of its default schedule: left out")
        processor = tvm.get_global_func("target.llvm_get_system_cpu")()
        exported = torch.export.export(workload.module, workload.inputs)
        module = from_exported_program(exported, run_ep_decomposition=True)
        built = relax.build(module, target=tvm.target.Target({"kind": "llvm", "mcpu": processor}))
        self.machine = relax.VirtualMachine(built, tvm.cpu())
        self.inputs = [tvm.runtime.tensor(i.numpy()) for i in workload.inputs]

    def ready(self, threads: int) -> Callable[[], Any]:
        """A call of the program."""
        function = self.machine["main"]
        return lambda: function(*self.inputs)

    def arrays(self, value: Any) -> list[np.ndarray]:
        """The outputs."""
        return [o.numpy() for o in (value if hasattr(value, "__len__") else [value])]
