"""What PyTorch computes inside of a model; ``gensyn_tvm.evidence.modules`` compares a program with it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from gensyn_tvm.frontends.torch import array_of

try:
    import torch
except ImportError as error:
    raise ImportError("torch_trace needs PyTorch: pip install 'gensyn_tvm[torch]'") from error


def capture(module: torch.nn.Module, inputs: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """Outputs of a module and of all its submodules by module path (``""`` for the module itself).

    A copy of the module runs, in its modes, without gradients; the module and PyTorch's random numbers are left alone. Of a
    submodule that is called several times the last call is kept. Outputs that are no tensor are left out, and submodules that
    have several paths, because export names each call after one of them.

    Args:
        inputs: tensors or NumPy arrays, as ``forward`` takes them.
    """
    found: dict[str, np.ndarray] = {}

    def hook(path: str) -> Any:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            found.pop(path, None)
            if isinstance(output, torch.Tensor):
                # A copy: the next module may work in place.
                found[path] = array_of(output)

        return keep

    twin = copy.deepcopy(module)
    paths: dict[torch.nn.Module, list[str]] = {}
    for path, child in twin.named_modules(remove_duplicate=False):
        paths.setdefault(child, []).append(path)
    handles = [child.register_forward_hook(hook(names[0])) for child, names in paths.items() if len(names) == 1]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        twin(*(torch.from_numpy(np.array(x)) if isinstance(x, np.ndarray) else x for x in inputs))
    for handle in handles:
        handle.remove()
    return found
