"""Recomputation for the gradients: the digest and every bit stay, the memory that is alive at once falls."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gensyn_tvm
from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.rules import validate
from gensyn_tvm.errors import InvalidProgramError
from gensyn_tvm.frontends.torch import from_torch
from gensyn_tvm.interpreter import run_named
from gensyn_tvm.passes.pipeline import run_phases
from gensyn_tvm.passes.recompute import backward_nodes, estimated_peak, recompute
from gensyn_tvm.program import Program
from gensyn_tvm.runtime.cpu import supported_levels
from gensyn_tvm.targets.cpu import resolve_target
from gensyn_tvm.training.recomputation import forward_nodes, nodes_to_recompute
from gensyn_tvm.training.step import TrainingStep, training_step

DEPTH, SHALLOW, BATCH, WIDTH = 6, 2, 33, 10


class Deep(nn.Module):
    """Layers with everything that must not happen twice or differently: dropout and running statistics."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.GELU(), nn.Dropout(0.3))
            for _ in range(depth)
        )
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Residual layers and a head."""
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


@functools.cache
def program(depth: int) -> Program:
    torch.manual_seed(7)
    return from_torch(Deep(depth), (torch.randn(BATCH, WIDTH),))


@functools.cache
def step(checkpoint: Any, depth: int = DEPTH) -> TrainingStep:
    return training_step(program(depth), loss="cross_entropy", optimizer="adamw", checkpoint=checkpoint)


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.standard_normal((BATCH, WIDTH)).astype(np.float32), rng.integers(0, 3, BATCH)


def arguments(s: TrainingStep) -> dict[str, np.ndarray]:
    x, y = batch()
    clock = {"step": np.array(2, "int64"), "seed": np.array(9, "int64"), "learning_rate": np.array(0.01, "float32")}
    return {**s.parameters, **s.states, **s.optimizer_state, s.graph.inputs[0].name: x, "target": y, **clock}


CHECKPOINTS = ["sqrt", ("layers.*",), ("layers.1", "layers.2", "layers.4.2"), ("head", "layers.*.*")]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=str)
def test_the_digest_stays_and_the_interpreter_gets_the_same_bits_from_the_written_out_graph(checkpoint: Any) -> None:
    plain, saving = step(None), step(checkpoint)
    assert saving.digest == plain.digest and not plain.recomputed and saving.recomputed
    written = recompute(saving.graph, saving.recomputed)
    validate(written)
    assert len(written.nodes) > len(plain.graph.nodes)
    assert serialise.digest(written) != plain.digest
    expected, found = run_named(plain.graph, arguments(plain)), run_named(written, arguments(plain))
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        assert array.tobytes() == found[name].tobytes(), name


@pytest.mark.parametrize("target", [*supported_levels(), "c"])
def test_compiled_steps_keep_their_bits(target: str) -> None:
    """Two steps, so that the second reads running statistics, parameters and moments of the first."""
    digests = set()
    for checkpoint in (None, ("layers.*",)):
        exe = gensyn_tvm.compile(step(checkpoint, SHALLOW), target, threads=2)
        state = exe.init(seed=3)
        for _ in range(2):
            state, metrics = exe(state, batch())
        digests.add((exe.digest, state.digest(), metrics["loss"].tobytes()))
    assert len(digests) == 1


@pytest.mark.parametrize(("checkpoint", "factor"), [("sqrt", 2.0), (("layers.*",), 2.0)], ids=str)
def test_less_is_alive_at_once(checkpoint: Any, factor: float) -> None:
    plain, saving = step(None), step(checkpoint)
    assert estimated_peak(recompute(saving.graph, saving.recomputed)) * factor < estimated_peak(plain.graph)


def arena_bytes(s: TrainingStep) -> int:
    return run_phases(s.graph, resolve_target("x86-64"), "fast", recomputed=s.recomputed).plan.areas["workspace"]


def test_the_memory_plan_of_a_compiled_step_shrinks() -> None:
    """Neither fusion nor the order of kernels undoes the recomputation."""
    assert arena_bytes(step("sqrt")) * 1.4 < arena_bytes(step(None))


def test_random_bits_are_copied_and_updates_of_statistics_are_not() -> None:
    s = step(("layers.*",))
    written = recompute(s.graph, s.recomputed)

    def count(op: str, graph: Any) -> int:
        return sum(n.op == op for n in graph.nodes)

    assert count("random_bits", s.graph) == DEPTH
    assert DEPTH < count("random_bits", written) <= 2 * DEPTH
    updates = [o.value for o in written.outputs if o.updates and "running" in o.name]
    assert len(updates) == len(set(updates)) == 2 * DEPTH


def test_forward_and_backward_parts() -> None:
    graph = step(None).graph
    forward, backward = set(forward_nodes(graph)), backward_nodes(graph)
    assert not forward & backward
    assert all("gradient" not in graph.nodes[k].source for k in forward)
    beside = [graph.nodes[k] for k in range(len(graph.nodes)) if k not in forward | backward]
    assert beside and all("gradient" not in n.source for n in beside)


def test_the_last_segment_is_kept() -> None:
    """What the loss reads is needed at once; computing it again would only cost time."""
    graph, chosen = step("sqrt").graph, step("sqrt").recomputed
    assert not any(graph.nodes[k].source.startswith(("loss", "head")) for k in chosen)


@pytest.mark.parametrize("checkpoint", ["layers.*", "", 3.5, (), ("layers.*", 3)], ids=repr)
def test_other_settings_are_refused(checkpoint: Any) -> None:
    with pytest.raises(InvalidProgramError, match="unknown checkpoint"):
        nodes_to_recompute(step(None).graph, checkpoint)


def test_patterns_without_a_match_are_named() -> None:
    with pytest.raises(InvalidProgramError, match=r"(?s)encoder\.\*.*layers\.0\.0:linear.*sqrt") as error:
        nodes_to_recompute(step(None).graph, ("layers.*", "encoder.*"))
    assert "matches: encoder.*" in str(error.value)


def test_a_pattern_stands_for_whole_components() -> None:
    with pytest.raises(InvalidProgramError):
        nodes_to_recompute(step(None).graph, ("layer",))
    assert nodes_to_recompute(step(None).graph, ("layers.1",)) < nodes_to_recompute(step(None).graph, ("layers.*",))
