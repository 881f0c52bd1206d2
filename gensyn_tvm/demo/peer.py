"""The same training in PyTorch, in a process of its own: ``python -m gensyn_tvm.demo.peer THREADS STEPS``.

The instruction set is chosen from outside by PyTorch's ``ATEN_CPU_CAPABILITY``. Prints one JSON object: for each model the time
and the digest of all parameters and buffers.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from gensyn_tvm.demo.data import batches, load_digits
from gensyn_tvm.demo.models import MLP_FILE, MODELS, Model, build_cnn
from gensyn_tvm.evidence.digests import state_digest


def build(model: Model) -> Any:
    """The model as a torch module with the initial weights that our side starts from."""
    import onnx
    import torch
    from torch import nn

    if model.name == "CNN":
        return build_cnn()
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in onnx.load(MLP_FILE).graph.initializer}
    layers: list[Any] = []
    for k in (1, 2, 3):
        weight, bias = (torch.from_numpy(weights[f"fc{k}.{part}"].copy()) for part in ("weight", "bias"))
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(model: Model, steps: int) -> dict[str, Any]:
    """Train for ``steps`` steps; seconds without the first step (which warms up), and the digest of all state."""
    import torch

    torch.manual_seed(0)
    module = build(model)
    optimizer = torch.optim.AdamW(module.parameters(), lr=model.learning_rate)
    start = time.perf_counter()
    for k, (x, y) in enumerate(batches(load_digits(), steps)):
        if k == 1:
            start = time.perf_counter()
        optimizer.zero_grad()
        logits = module(torch.from_numpy(np.ascontiguousarray(x.reshape(-1, *model.shape))))
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(y)).backward()
        optimizer.step()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "digest": state_digest({n: t.numpy() for n, t in module.state_dict().items()})}


def main(threads: int, steps: int) -> None:
    """Train both models and print the report."""
    import torch

    torch.set_num_threads(threads)
    report = {model.name: train(model, steps) for model in MODELS}
    print(json.dumps({"capability": torch.backends.cpu.get_cpu_capability(), "models": report}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
