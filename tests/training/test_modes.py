"""Batch normalisation and dropout in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from tvm import relax
from tvm.relax import op

from gensyn_tvm.canonical.from_relax import freeze
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.interpreter import run
from gensyn_tvm.program import Program
from gensyn_tvm.training import ops
from gensyn_tvm.training.emit import build_function
from gensyn_tvm.training.modes import for_inference, for_training
from gensyn_tvm.training.optimizers import SGD
from gensyn_tvm.training.step import training_step

SHAPE = (64, 257)


def dropouts(*ps: float, shape: tuple[int, ...] = SHAPE) -> Program:
    """x → one dropout of x for each probability."""
    x = relax.Var("x", relax.TensorType(list(shape), "float32"))
    module = build_function([x], lambda e: [e(ops.dropout(x, p=p)) for p in ps])
    return Program(module, ("x",), tuple(f"y{k}" for k in range(len(ps))), {})


def training_graph(program: Program) -> Graph:
    inputs = [*((n, "input") for n in program.inputs), *((n, "buffer") for n in program.states)]
    inputs += [("seed", "seed"), ("step", "step")]
    outputs = [*((n, False) for n in program.outputs), *((n, True) for n in program.state_updates)]
    return freeze(for_training(program).module, name="t", inputs=inputs, outputs=outputs)


def drop(program: Program, x: np.ndarray, seed: int, step: int) -> list[np.ndarray]:
    values = {"x": x, "seed": np.array(seed, "int64"), "step": np.array(step, "int64")}
    return run(training_graph(program), values)


def test_dropout_keeps_the_stated_fraction_and_scales() -> None:
    x = np.full(SHAPE, 3.0, "float32")
    for p, y in zip((0.1, 0.5, 0.9), drop(dropouts(0.1, 0.5, 0.9), x, 1, 2), strict=True):
        kept = y != 0
        assert set(np.unique(y)) == {np.float32(0), np.float32(3.0) * np.float32(1 / (1 - p))}
        deviation = (p * (1 - p) / x.size) ** 0.5
        assert abs(kept.mean() - (1 - p)) < 5 * deviation
        assert not np.signbit(y).any()


def test_dropout_is_a_function_of_seed_step_and_operator() -> None:
    program = dropouts(0.5, 0.5)
    x = np.ones(SHAPE, "float32")
    base = drop(program, x, 5, 9)
    again = drop(program, x, 5, 9)
    for a, b in zip(base, again, strict=True):
        np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))
    for other in (base[1], *(drop(program, x, s, t)[0] for s, t in ((6, 9), (5, 10), (5 + 2**32, 9)))):
        differing = (base[0] != other).mean()
        assert 0.45 < differing < 0.55


def test_gradient_goes_through_the_same_mask() -> None:
    """With loss = sum(dropout(x + b)), the gradient of b counts what was kept, times the scale."""
    types = {"x": [30, 8], "b": [8]}
    x, b = (relax.Var(n, relax.TensorType(s, "float32")) for n, s in types.items())
    module = build_function([x, b], lambda e: [e(ops.dropout(e.add(x, b), p=0.25))])
    program = Program(module, ("x",), ("y",), {"b": np.zeros(8, "float32")})
    step = training_step(program, loss=lambda y, t: op.sum(y), optimizer=SGD(1.0), target=TensorType((), "float32"))
    values = {"x": np.ones((30, 8), "float32"), "target": np.array(0, "float32"), "b": np.zeros(8, "float32")}
    clock = {"seed": np.array(7, "int64"), "step": np.array(3, "int64"), "learning_rate": np.array(1.0, "float32")}
    _, moved = run(step.graph, {**values, **clock})
    (kept,) = drop(dropouts(0.25, shape=(30, 8)), values["x"], 7, 3)
    np.testing.assert_allclose(-moved, kept.sum(0), rtol=1e-6)


def test_dropout_operator_ids_count_in_order() -> None:
    nodes = training_graph(dropouts(0.5, 0.0, 0.25)).nodes
    assert [n.attrs["op_id"] for n in nodes if n.op == "random_bits"] == [0, 2]


def shared(*axes: int, p: float = 0.5, shape: tuple[int, ...] = (200, 5, 3)) -> Program:
    x = relax.Var("x", relax.TensorType(list(shape), "float32"))
    module = build_function([x], lambda e: [e(ops.dropout(x, p=p, shared_axes=axes)), e(ops.dropout(x, p=p))])
    return Program(module, ("x",), ("y", "z"), {})


@pytest.mark.parametrize(("axes", "drawn"), [((1, 2), (200, 1, 1)), ((-1,), (200, 5, 1)), ((0, 1, 2), (1, 1, 1))])
def test_shared_axes_share_one_decision(axes: tuple[int, ...], drawn: tuple[int, ...]) -> None:
    """Stochastic depth of rows, dropout of channels: the decisions are those of a dropout of the smaller shape."""
    x = np.random.default_rng(1).uniform(1, 2, (200, 5, 3)).astype("float32")
    y, _ = drop(shared(*axes), x, 5, 9)
    (decided,) = drop(dropouts(0.5, shape=drawn), np.ones(drawn, "float32"), 5, 9)
    np.testing.assert_array_equal(y.view(np.uint32), (x * decided).view(np.uint32))
    nodes = [n for n in training_graph(shared(*axes)).nodes if n.op == "random_bits"]
    assert [(n.attrs["op_id"], n.attrs["shape"]) for n in nodes] == [(0, drawn), (1, (200, 5, 3))]


def test_gradient_of_stochastic_depth() -> None:
    """With loss = sum(dropout(x * b)) the gradient of b is the sum of x over the rows that were kept, times the scale."""
    types = {"x": [30, 8], "b": [8]}
    x, b = (relax.Var(n, relax.TensorType(s, "float32")) for n, s in types.items())
    module = build_function([x, b], lambda e: [e(ops.dropout(e.mul(x, b), p=0.25, shared_axes=[1]))])
    program = Program(module, ("x",), ("y",), {"b": np.ones(8, "float32")})
    step = training_step(program, loss=lambda y, t: op.sum(y), optimizer=SGD(1.0), target=TensorType((), "float32"))
    values = {"x": np.ones((30, 8), "float32"), "target": np.array(0, "float32"), "b": np.ones(8, "float32")}
    clock = {"seed": np.array(7, "int64"), "step": np.array(3, "int64"), "learning_rate": np.array(1.0, "float32")}
    _, moved = run(step.graph, {**values, **clock})
    (kept,) = drop(dropouts(0.25, shape=(30, 1)), np.ones((30, 1), "float32"), 7, 3)
    np.testing.assert_allclose(1 - moved, np.full(8, kept.sum()), rtol=1e-6)


def test_shared_axes_must_exist() -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"shared_axes=\(3,\)\n  expected: axes of a tensor of rank 3"):
        for_training(shared(3))


def test_dropout_limits() -> None:
    x = np.array([[1.0, np.nan, -np.inf, -0.0]], "float32")
    none, everything, tiny = drop(dropouts(0.0, 1.0, 1e-12, shape=(1, 4)), x, 0, 0)
    np.testing.assert_array_equal(none.view(np.uint32), [[0x3F800000, 0x7FC00000, 0xFF800000, 0x80000000]])
    np.testing.assert_array_equal(everything.view(np.uint32), np.zeros((1, 4)))
    np.testing.assert_array_equal(tiny.view(np.uint32), none.view(np.uint32))
    with pytest.raises(UnsupportedOperatorError, match=r"p=1\.5"):
        for_training(dropouts(1.5))


def test_dropout_is_the_identity_in_inference() -> None:
    program = for_inference(dropouts(0.5))
    graph = freeze(program.module, name="t", inputs=[("x", "input")], outputs=[("y", False)])
    assert graph.nodes == () and graph.outputs[0].value == 0


def test_program_without_modes_cannot_be_frozen() -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"gensyn\.dropout"):
        freeze(dropouts(0.5).module, name="t", inputs=[("x", "input")], outputs=[("y", False)])


def batch_norm(shape: tuple[int, ...], **attrs: Any) -> Program:
    channels = shape[1]
    names = ("x", "gamma", "beta", "mean", "var")
    variables = [relax.Var(n, relax.TensorType(list(shape) if n == "x" else [channels], "float32")) for n in names]

    def write(e: Any) -> list[Any]:
        e.place = "bn"
        y = e(ops.batch_norm(*variables, **attrs))
        return [e(relax.TupleGetItem(y, k)) for k in range(3)]

    states = {n: np.zeros(channels, "float32") for n in names[1:]}
    return Program(build_function(variables, write), ("x",), ("y",), {}, states, ("mean", "var"))


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 5, 7), (2, 3, 2, 3, 4)])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_running_statistics(shape: tuple[int, ...], unbiased: bool, frozen: bool) -> None:
    """Against torch to 1e-5; a biased running variance against NumPy."""
    rng = np.random.default_rng(3)
    x = (rng.standard_normal(shape) * 2 + 5).astype("float32")
    state = {n: rng.uniform(0.5, 2, shape[1]).astype("float32") for n in ("gamma", "beta", "mean", "var")}
    program = batch_norm(shape, epsilon=1e-3, momentum=0.3, unbiased=unbiased, frozen=frozen)
    values = {"x": x, **state, "seed": np.array(0, "int64"), "step": np.array(0, "int64")}
    y, mean, var = run(training_graph(program), values)
    reference = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](shape[1], 1e-3, 0.3)
    with torch.no_grad():
        tensors = (reference.weight, reference.bias, reference.running_mean, reference.running_var)
        for tensor, name in zip(tensors, ("gamma", "beta", "mean", "var"), strict=True):
            tensor.copy_(torch.from_numpy(state[name]))
        reference.train(not frozen)
        expected = reference(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mean, reference.running_mean.numpy(), rtol=1e-5)
    if unbiased or frozen:
        np.testing.assert_allclose(var, reference.running_var.numpy(), rtol=1e-5)
    else:
        axes = (0, *range(2, len(shape)))
        np.testing.assert_allclose(var, 0.7 * state["var"] + 0.3 * x.var(axis=axes, dtype="float64"), rtol=1e-5)


def test_batch_norm_statistics_are_computed_once() -> None:
    graph = training_graph(batch_norm((4, 3, 5), epsilon=1e-3, momentum=0.1, unbiased=True, frozen=False))
    assert [n.op for n in graph.nodes].count("sum") == 2


def test_batch_norm_over_one_value() -> None:
    with pytest.raises(UnsupportedOperatorError, match="1 values per channel") as info:
        for_training(batch_norm((1, 3), epsilon=1e-3, momentum=0.1, unbiased=True, frozen=False))
    assert "in: bn" in str(info.value) and "larger batch" in str(info.value)


def test_inference_mode_returns_outputs_only() -> None:
    program = for_inference(batch_norm((4, 3), epsilon=1e-3, momentum=0.1, unbiased=True, frozen=False))
    assert program.state_updates == () and len(program.module["main"].body.body.fields) == 1


def test_modes_leave_other_operators_alone() -> None:
    x = relax.Var("x", relax.TensorType([2, 3], "float32"))
    program = Program(build_function([x], lambda e: [e(op.exp(x))]), ("x",), ("y",), {})
    assert [n.op for n in training_graph(program).nodes] == ["exp"]
