"""Values computed again in the kernels of the gradients: the same bits, nothing costly twice, less memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gensyn_tvm
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.rules import validate
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import Source
from gensyn_tvm.interpreter import run_named
from gensyn_tvm.passes.pipeline import run_phases
from gensyn_tvm.passes.recompute import backward_nodes, estimated_peak, recompute
from gensyn_tvm.passes.rederive import _CHEAP, _FAR, rederived
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.targets.cpu import resolve_target

N = 6
SPECIAL = np.array([0, 0x80000000, 1, 0x80000001, 0x7F800000, 0xFF800000, 0x7FC00001, 0x00800000, 0x7F7FFFFF], np.uint32)
CHEAP, COSTLY = ("add", "sub", "mul", "maximum", "div"), ("exp", "tanh")


def drawn(seed: int, forward: int = 25, backward: int = 25) -> Graph:
    """A loss made of arithmetic, functions, moves and products, and updates that read whatever the loss is made of."""
    rng = np.random.default_rng(seed)
    b = GraphBuilder("drawn")
    values = [b.add_input(n, role, TensorType((N, N), "float32")) for n, role in (("x", "input"), ("p", "parameter"))]

    def pick() -> int:
        return values[-1 - min(int(rng.geometric(0.2)) - 1, len(values) - 1)]

    def step() -> None:
        kind = rng.choice(["cheap", "cheap", "cheap", "costly", "move", "product"])
        if kind == "cheap":
            values.append(b.emit(str(rng.choice(CHEAP)), pick(), pick()))
        elif kind == "costly":
            values.append(b.emit(str(rng.choice(COSTLY)), pick()))
        elif kind == "move":
            flat = b.emit("reshape", pick(), shape=(N * N,))
            values.append(b.emit("reshape", flat, shape=(N, N)))
        else:
            values.append(b.emit("matmul", pick(), pick()))

    for _ in range(forward):
        step()
    loss = b.emit("sum", b.emit("reshape", values[-1], shape=(N * N,)), axes=(0,), keepdims=False)
    for _ in range(backward):
        step()
    b.add_output("loss", loss)
    b.add_output("p", values[-1], updates=True)
    return b.finish()


def arrays(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {n: rng.standard_normal((N, N)).astype(np.float32) for n in ("x", "p")}
    for k, a in enumerate(found.values()):
        a.reshape(-1)[5 * k : 5 * k + len(SPECIAL)] = SPECIAL.view(np.float32)
    return found


def test_drawn_graphs_keep_their_bits_and_compute_nothing_costly_twice() -> None:
    chosen = 0
    for seed in range(150):
        graph = drawn(seed)
        found = rederived(graph)
        assert all(graph.nodes[k].op in _CHEAP for k in found)
        assert not found & backward_nodes(graph)
        written = recompute(graph, found)
        validate(written)
        assert len(written.nodes) <= len(graph.nodes) + len(found)
        assert estimated_peak(written) <= estimated_peak(graph)
        expected, again = run_named(graph, arrays(seed)), run_named(written, arrays(seed))
        assert {n: a.tobytes() for n, a in expected.items()} == {n: a.tobytes() for n, a in again.items()}
        chosen += len(found)
    assert chosen > 150


def test_compiled_graphs_have_the_bits_of_the_interpreter() -> None:
    graphs = {seed: drawn(seed, 12, 12) for seed in range(60)}
    for seed in [k for k, graph in graphs.items() if len(rederived(graph)) > 1][:8]:
        graph, given = graphs[seed], arrays(seed)
        exe = gensyn_tvm.compile(Source(graph, State({"p": given["p"]})))
        state, metrics = exe(exe.init(), {"x": given["x"]})
        expected = run_named(graph, given)
        assert metrics["loss"].tobytes() == expected["loss", False].tobytes()
        assert state["p"].tobytes() == expected["p", True].tobytes()


def chain(length: int, last: str) -> tuple[Graph, int]:
    """A chain of cheap operators from the input, whose end only ``last`` reads again; and the node of that end."""
    b = GraphBuilder("chain")
    x, p = (b.add_input(n, r, TensorType((N, N), "float32")) for n, r in (("x", "input"), ("p", "parameter")))
    value = b.emit("mul", x, p)
    for _ in range(length - 1):
        value = b.emit("add", value, x)
    b.add_output("loss", b.emit("sum", b.emit("exp", value), axes=(0, 1), keepdims=False))
    b.add_output("p", b.emit("add", b.emit(last, value, x), p), updates=True)
    return b.finish(), length - 1


def test_what_a_product_reads_is_kept_and_so_is_what_is_far() -> None:
    graph, end = chain(3, "sub")
    assert end in rederived(graph)
    assert rederived(chain(3, "matmul")[0]) == frozenset()
    assert chain(_FAR, "sub")[1] in rederived(chain(_FAR, "sub")[0])
    assert rederived(chain(_FAR + 1, "sub")[0]) == frozenset()


def test_an_inference_program_computes_nothing_again() -> None:
    b = GraphBuilder("inference")
    x = b.add_input("x", "input", TensorType((N, N), "float32"))
    b.add_output("y", b.emit("mul", b.emit("add", x, x), x))
    assert rederived(b.finish()) == frozenset()


class Block(nn.Module):
    """An inverted residual's normalisations, and the activation of GPT-2."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 8, 16, 16) → logits."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nn.functional.relu6(norm(convolution(x)))
        x = 0.5 * x * (1.0 + torch.tanh(0.8 * (x + 0.04 * torch.pow(x, 3.0))))
        return self.head(x.mean((2, 3)))


def test_less_is_kept_for_the_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    step = gensyn_tvm.training_step(gensyn_tvm.from_torch(Block().train(), (torch.zeros(4, 8, 16, 16),)))

    def workspace() -> int:
        return run_phases(step.graph, resolve_target("x86-64"), "fast").plan.areas["workspace"]

    def nothing(*_: Any) -> frozenset[int]:
        return frozenset()

    less = workspace()
    monkeypatch.setattr("gensyn_tvm.passes.pipeline.rederived", nothing)
    assert less * 1.15 < workspace()
