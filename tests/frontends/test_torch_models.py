"""The models of benchmarks/training_models.py against PyTorch: inference of what was exported in training mode, dropouts."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gensyn_tvm
from gensyn_tvm import interpreter
from gensyn_tvm.frontends.torch import from_torch
from gensyn_tvm.program import Program
from gensyn_tvm.training.step import inference_graph

pytest.importorskip("transformers")

_PATH = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "training_models.py"
_spec = importlib.util.spec_from_file_location("training_models", _PATH)
assert _spec is not None and _spec.loader is not None
training_models: Any = importlib.util.module_from_spec(_spec)
sys.modules["training_models"] = training_models  # dataclasses look up their module
_spec.loader.exec_module(training_models)
MODELS = training_models.MODELS

TOLERANCE = 2e-6  # of the largest magnitude in the output; both sides are float32 with different orders of summation

#: Model, options, number of dropouts in the graph: one for each place where PyTorch drops something.
CASES: list[tuple[str, dict[str, Any], int]] = [
    ("mlp", {"dropout": 0.1}, 1),
    ("resnet18", {}, 0),
    ("mobilenetv2", {"dropout": 0.1}, 1),
    ("unet", {"dropout": 0.1}, 1),
    ("vit", {"dropout": 0.1}, 7),
    ("vit", {"dropout": 0.1, "attention": "sdpa"}, 7),
    ("bert", {"dropout": 0.1}, 8),
    ("bert", {"dropout": 0.1, "attention": "sdpa"}, 8),
    ("gpt2", {"dropout": 0.1}, 7),
    ("gpt2", {"dropout": 0.0, "attention": "sdpa"}, 0),
    ("llama", {"dropout": 0.1}, 2),
    ("llama", {"dropout": 0.1, "attention": "sdpa"}, 2),
    ("t5", {"dropout": 0.1}, 24),
    ("t5", {"dropout": 0.0, "attention": "sdpa"}, 0),
    ("lstm", {"dropout": 0.1}, 1),
    ("lstm", {"dropout": 0.1, "bidirectional": True}, 1),
    ("gru", {"dropout": 0.1}, 1),
    ("gru", {"dropout": 0.1, "bidirectional": True}, 1),
]


def _imported(name: str, options: dict[str, Any]) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], Program]:
    module, x = MODELS[name].build(3, **options), MODELS[name].example(5)
    for child in module.modules():
        if isinstance(child, torch.nn.modules.batchnorm._BatchNorm):
            child.running_mean.normal_(generator=torch.Generator().manual_seed(0))
            child.running_var.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(1))
    return module, x, from_torch(module, x, input_names=MODELS[name].inputs)


def _interpreted(program: Program, x: tuple[torch.Tensor, ...]) -> np.ndarray:
    arrays = {**program.parameters, **program.states, **dict(zip(program.inputs, (t.numpy() for t in x), strict=True))}
    graph = inference_graph(program)
    return interpreter.run(graph, {i.name: arrays[i.name] for i in graph.inputs})[0]


_IDS = ["-".join(map(str, (name, *options.values()))) for name, options, _ in CASES]


@pytest.mark.parametrize(("name", "options", "dropouts"), CASES, ids=_IDS)
def test_inference_equals_pytorch(name: str, options: dict[str, Any], dropouts: int, inspect: Any) -> None:
    module, x, program = _imported(name, options)
    assert list(program.parameters) == [n for n, _ in module.named_parameters()]
    assert len(inspect.calls(program, "gensyn.dropout")) == dropouts
    found, expected = _interpreted(program, x), module.eval()(*x).detach().numpy()
    assert found.shape == expected.shape and found.dtype == np.float32
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize(("name", "options"), [("mlp", {}), ("bert", {"attention": "sdpa"})])
def test_compiled_gives_the_interpreters_bits(name: str, options: dict[str, Any]) -> None:
    _, x, program = _imported(name, options)
    found = gensyn_tvm.compile(program)(*(t.numpy() for t in x))
    np.testing.assert_array_equal(np.asarray(found).view(np.int32), _interpreted(program, x).view(np.int32))


def test_masks_that_depend_on_constants_only_are_folded(inspect: Any) -> None:
    """GPT-2's causal mask is made of ranges, comparisons and gathers, which no step has to compute again."""
    _, _, program = _imported("gpt2", {})
    assert not {"relax.less_equal", "relax.logical_and", "gensyn.op.cumsum", "relax.equal"} & set(inspect.operators(program))


def test_weights_and_batches_depend_on_the_seed_only() -> None:
    model = MODELS["gpt2"]
    state = torch.random.get_rng_state()
    first, second, other = (model.build(seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["model.transformer.wte.weight"], other["model.transformer.wte.weight"])
    (inputs, target), (again, _), (different, _) = model.batch(1), model.batch(1), model.batch(2)
    np.testing.assert_array_equal(inputs["ids"], again["ids"])
    assert (inputs["ids"] != different["ids"]).any()
    np.testing.assert_array_equal(inputs["ids"][:, 1:], target[:, :-1])


@pytest.mark.parametrize("name", MODELS)
def test_batches_suit_the_models(name: str) -> None:
    model = MODELS[name]
    logits, (inputs, target) = model.build(0)(*model.example(0)), model.batch(0)
    assert tuple(inputs) == model.inputs
    assert target.dtype == np.int64 and target.shape == (logits.shape[0], *logits.shape[2:])
    assert target.min() >= 0 and target.max() < logits.shape[1]
    assert torch.isfinite(torch.nn.functional.cross_entropy(logits, torch.from_numpy(target)))
