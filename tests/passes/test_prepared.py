"""What depends on parameters only is not fused into what runs in each call."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import gensyn_tvm


def _normalised() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(5, 7, 3, bias=False), nn.BatchNorm2d(7), nn.ReLU())
    for p in [*module.parameters(), *(b for b in module.buffers() if b.dtype.is_floating_point)]:
        p.data.uniform_(0.5, 2.0)
    return module.eval(), torch.randn(2, 5, 9, 11)


def test_the_root_of_a_variance_is_prepared() -> None:
    module, x = _normalised()
    program = gensyn_tvm.from_torch(module, (x,))
    exe = gensyn_tvm.compile(program)
    rows = exe.profile(x.numpy())
    assert [r.kernel for r in rows if "sqrt" in r.kernel and not r.prepared] == []
    assert [r for r in rows if "sqrt" in r.kernel and r.prepared]
    plain = gensyn_tvm.compile(program, schedule="none")
    assert np.array_equal(exe(x.numpy()).view("u4"), plain(x.numpy()).view("u4"))


def test_statistics_that_a_step_updates_are_not_prepared() -> None:
    module, x = _normalised()
    step = gensyn_tvm.training_step(
        gensyn_tvm.from_torch(nn.Sequential(module, nn.Flatten(), nn.Linear(7 * 7 * 9, 3)).train(), (x,)),
        loss="cross_entropy",
        optimizer=gensyn_tvm.SGD(lr=0.1),
    )
    exe = gensyn_tvm.compile(step)
    batch = {"input": x.numpy(), "target": np.array([1, 2])}
    state = exe.init(seed=0)
    assert not [r for r in exe.profile(state, batch) if r.prepared and "sqrt" in r.kernel]
