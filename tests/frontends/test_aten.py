"""Core ATen: every operator is imported with PyTorch's results, or refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from gensyn_tvm import interpreter
from gensyn_tvm.conversion.framework_steps import of_torch
from gensyn_tvm.conversion.training import RATE
from gensyn_tvm.conversion.verify import difference
from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.evidence.samples import sample
from gensyn_tvm.frontends.torch import array_of, from_torch, import_exported
from gensyn_tvm.frontends.torch_core import core_operators, status_of
from gensyn_tvm.frontends.torch_export import export_module
from gensyn_tvm.training.optimizers import SGD
from gensyn_tvm.training.step import inference_graph, training_step
from tests.frontends.aten_samples import GROUPS, REFUSED, SAMPLES, TOLERANCE, ULPS, Sample

_SIZE = 24  # samples in a program

CHUNKS = [(kind, list(group)[k : k + _SIZE]) for kind, group in GROUPS.items() for k in range(0, len(group), _SIZE)]


class Calls(torch.nn.Module):
    """Each sample on its own inputs."""

    def __init__(self, samples: list[Sample]) -> None:
        super().__init__()
        self.samples = samples

    def forward(self, *inputs: torch.Tensor) -> list[Any]:
        rest, results = iter(inputs), []
        for function, own in self.samples:
            results.append(function(*(next(rest) for _ in own)))
        return results


def _import(samples: list[Sample]) -> tuple[Any, dict[str, np.ndarray], list[list[torch.Tensor]]]:
    inputs = tuple(t.clone() for _, own in samples for t in own)
    program = from_torch(Calls(samples), inputs)
    expected = [torch.utils._pytree.tree_leaves(function(*(t.clone() for t in own))) for function, own in samples]
    return program, dict(zip(program.inputs, map(array_of, inputs), strict=True)), expected


def _check_exact(found: np.ndarray, wanted: np.ndarray, where: str) -> None:
    """The same bits; a NaN is a NaN, whose bits PyTorch leaves open."""
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted), err_msg=where)
    ours, theirs = (np.where(np.isnan(y), 0, y.view(f"u{y.dtype.itemsize}")) for y in (found, wanted))
    np.testing.assert_array_equal(ours, theirs, err_msg=where)


def _check_zeros(found: np.ndarray, wanted: np.ndarray, where: str) -> None:
    _check_exact(found + 0.0, wanted + 0.0, where)


def _check_ulps(found: np.ndarray, wanted: np.ndarray, where: str) -> None:
    np.testing.assert_allclose(found, wanted, rtol=ULPS * 2.0**-23, atol=ULPS * 2.0**-149, err_msg=where)


def _check_scale(found: np.ndarray, wanted: np.ndarray, where: str) -> None:
    if found.dtype.kind != "f":
        _check_exact(found, wanted, where)
        return
    atol = TOLERANCE * max(float(np.abs(wanted).max(initial=0)), 1e-3)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=atol, err_msg=where)


CHECKS: dict[str, Callable[[np.ndarray, np.ndarray, str], None]] = {
    "exact": _check_exact,
    "zeros": _check_zeros,
    "ulp": _check_ulps,
    "scale": _check_scale,
}


@pytest.mark.parametrize(("kind", "names"), CHUNKS, ids=[f"{kind}-{names[0]}" for kind, names in CHUNKS])
def test_results_are_those_of_pytorch(kind: str, names: list[str]) -> None:
    program, arrays, expected = _import([SAMPLES[name] for name in names])
    graph = inference_graph(program)
    results = iter(interpreter.run(graph, {i.name: arrays[i.name] for i in graph.inputs}))
    for name, tensors in zip(names, expected, strict=True):
        for tensor in tensors:
            found, wanted = np.asarray(next(results)), array_of(tensor)
            assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), name
            CHECKS[kind](found, wanted, name)


class Trained(torch.nn.Module):
    """Operators that have no gradient of their own here, of parameters that contain equal rows and zeros."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.image = torch.nn.Parameter(torch.randn(2, 3, 5, 4))
        self.grid = torch.nn.Parameter(torch.rand(2, 4, 3, 2) * 2 - 1)
        self.table, self.weights = torch.nn.Parameter(torch.randn(6, 4)), torch.nn.Parameter(torch.randn(6))
        self.rows = torch.nn.Parameter(torch.randn(5, 4) * torch.tensor([1.0, 0, 1, 1, 0])[:, None])
        self.norm = torch.nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        indices, offsets = torch.tensor([0, 2, 2, 5, 1, 3]), torch.tensor([0, 2, 2, 4])
        results = [
            F.grid_sample(self.image, self.grid, align_corners=False),
            F.grid_sample(self.image, self.grid, mode="bicubic", padding_mode="reflection", align_corners=True),
            torch.cdist(self.rows, self.table),
            torch.cdist(self.rows, self.rows, p=3.0),
            torch.pdist(self.rows),
            F.embedding_bag(indices, self.table, offsets, mode="sum", per_sample_weights=self.weights),
            F.embedding_bag(indices, self.table, offsets, padding_idx=2),
            F.embedding_bag(indices, self.table, offsets, mode="max"),
            self.image.masked_scatter(self.image > 0.5, self.image.exp()),
            F.adaptive_avg_pool2d(self.image, (3, 3)),
            F.max_unpool2d(*F.max_pool2d(self.image[:, :, :4], 2, return_indices=True), 2),
            self.norm(self.table),
            self.rows.as_strided((3, 2), (4, 1), 2),
            F.normalize(self.rows, dim=1),
            torch.linalg.vector_norm(self.rows, 1.5, dim=1),
        ]
        return torch.cat([y.reshape(-1) for y in results]) * x


def test_gradients_are_those_of_pytorch() -> None:
    """Also where PyTorch takes 0 for a gradient that does not exist."""
    x, exported = torch.ones(1), export_module(Trained(), (torch.ones(1),), "model")
    program = import_exported(exported, "model")
    step = training_step(program, loss="mean_squared_error", optimizer=SGD(lr=RATE), metrics=())
    target = sample(next(i.type for i in step.graph.inputs if i.role == "target"), 0, 0)
    trained = of_torch(exported, program, lambda _, module, arrays: module(*map(torch.from_numpy, arrays)))
    wanted = trained.step([x.numpy()], target, "mean_squared_error")
    arrays = {program.inputs[0]: x.numpy(), "target": target, **step.parameters, **step.states}
    arrays |= {"step": np.array(0), "seed": np.array(0), "learning_rate": np.array(RATE, np.float32)}
    results = interpreter.run(step.graph, {i.name: arrays[i.name] for i in step.graph.inputs})
    after = {o.name: np.asarray(r) for o, r in zip(step.graph.outputs, results, strict=True)}
    assert set(wanted.gradients) == set(step.parameters)
    for name, gradient in wanted.gradients.items():
        found = (step.parameters[name].astype(np.float64) - after[name].astype(np.float64)) / RATE
        assert difference(found, gradient.astype(np.float64)) <= 1e-5, name


#: Its shape is refused before operators are looked at.
_OF_DATA = ["nonzero.default"]


@pytest.mark.parametrize("names", [_OF_DATA, [name for name in REFUSED if name not in _OF_DATA]], ids=["shape", "others"])
def test_refused_with_the_reasons(names: list[str]) -> None:
    """All of them at once."""
    samples = [REFUSED[name] for name in names]
    with pytest.raises(UnsupportedOperatorError) as info:
        from_torch(Calls(samples), tuple(t for _, own in samples for t in own))
    for name in names:
        assert f"aten.{name}" in info.value.operator
        assert status_of(name).note in str(info.value)


def test_every_operator_has_a_sample() -> None:
    names = core_operators()
    assert len(names) > 180
    assert sorted(set(names) - {*SAMPLES, *REFUSED}) == []
    assert {n for n in names if status_of(n).kind == "refused"} == set(REFUSED)
