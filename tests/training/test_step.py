"""Whole training steps, interpreted, against PyTorch; tolerances are stated at each test."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from tvm import relax
from tvm.relax import op

from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InvalidProgramError, UnsupportedOperatorError
from gensyn_tvm.frontends.torch import from_torch
from gensyn_tvm.interpreter import run, run_named
from gensyn_tvm.program import Program
from gensyn_tvm.training.emit import build_function
from gensyn_tvm.training.optimizers import SGD, Adam, AdamW, Optimizer
from gensyn_tvm.training.step import TrainingStep, inference_graph, training_step

Arrays = dict[str, np.ndarray]


def clock(step: int, seed: int = 3, lr: float = 0.1) -> Arrays:
    return {"step": np.array(step, "int64"), "seed": np.array(seed, "int64"), "learning_rate": np.array(lr, "float32")}


def initial(step: TrainingStep) -> Arrays:
    return {**step.parameters, **step.states, **step.optimizer_state}


def advance(step: TrainingStep, state: Arrays, batch: Arrays, count: int, **kwargs: Any) -> tuple[Arrays, Arrays]:
    """Next state and the shown outputs."""
    results = run_named(step.graph, {**state, **batch, **clock(count, lr=step.learning_rate, **kwargs)})
    return (
        {name: array for (name, updates), array in results.items() if updates},
        {name: array for (name, updates), array in results.items() if not updates},
    )


def mlp() -> nn.Module:
    first = [nn.Flatten(), nn.Linear(16, 12), nn.GELU(), nn.LayerNorm(12)]
    return nn.Sequential(*first, nn.Linear(12, 12), nn.SiLU(), nn.Linear(12, 5))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3, stride=2, padding=2, groups=2, dilation=2),
        nn.LeakyReLU(0.1),
        nn.AvgPool2d(2, padding=1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def global_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, (2, 3), bias=False),
        nn.BatchNorm2d(6, momentum=0.3, eps=1e-3),
        nn.Hardtanh(-0.5, 0.8),
        nn.Conv2d(6, 6, 1, groups=6, bias=False),
        nn.BatchNorm2d(6).eval(),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


# No bias before a batch normalisation: its true gradient is 0, and Adam makes steps of the rounding noise.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (7, 1, 4, 4)),
    "cnn": (cnn, (6, 1, 8, 8)),
    "global cnn": (global_cnn, (5, 1, 6, 7)),
}

OPTIMIZERS: dict[str, tuple[Optimizer, Callable[[Any], torch.optim.Optimizer]]] = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "sgd decay": (SGD(0.1, weight_decay=0.05), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.05)),
    "momentum": (SGD(0.1, 0.9, 0.01), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01)),
    "nesterov": (SGD(0.1, 0.9, 0.01, True), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01, nesterov=True)),
    "adam": (Adam(1e-2, weight_decay=0.01), lambda p: torch.optim.Adam(p, 1e-2, weight_decay=0.01)),
    "adamw": (AdamW(1e-2, (0.8, 0.99), 1e-6, 0.1), lambda p: torch.optim.AdamW(p, 1e-2, (0.8, 0.99), 1e-6, 0.1)),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_five_steps_against_torch(model: str, optimizer: str) -> None:
    """Losses to 2e-6, weights and running statistics to 2e-5 (relative and absolute), after every step."""
    torch.manual_seed(5)
    make, shape = MODELS[model]
    ours, theirs = OPTIMIZERS[optimizer]
    reference = make()
    x, target = torch.randn(shape), torch.randint(0, 5, shape[:1])
    program = from_torch(reference, (x,))
    step = training_step(program, optimizer=ours)
    state, torch_optimizer = initial(step), theirs(reference.parameters())
    for count in range(5):
        logits = reference(x)
        loss = F.cross_entropy(logits, target)
        torch_optimizer.zero_grad()
        loss.backward()
        torch_optimizer.step()
        state, shown = advance(step, state, {program.inputs[0]: x.numpy(), "target": target.numpy()}, count)
        np.testing.assert_allclose(shown["loss"], loss.detach().numpy(), rtol=2e-6, atol=2e-6)
        assert shown["accuracy"] == np.float32((logits.argmax(1) == target).float().mean())
        for name, tensor in [*reference.named_parameters(), *reference.named_buffers()]:
            np.testing.assert_allclose(state[name], tensor.detach().numpy(), rtol=2e-5, atol=2e-5, err_msg=name)


def test_mean_squared_error_against_torch() -> None:
    torch.manual_seed(1)
    reference = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))
    x, target = torch.randn(6, 3), torch.randn(6, 2)
    program = from_torch(reference, (x,))
    step = training_step(program, loss="mean_squared_error", optimizer=SGD(1.0))
    assert [o.name for o in step.graph.outputs if not o.updates] == ["loss"]
    state, shown = advance(step, initial(step), {program.inputs[0]: x.numpy(), "target": target.numpy()}, 0)
    loss = F.mse_loss(reference(x), target)
    loss.backward()
    np.testing.assert_allclose(shown["loss"], loss.detach().numpy(), rtol=2e-6)
    for name, p in reference.named_parameters():
        assert p.grad is not None
        np.testing.assert_allclose(state[name], (p - p.grad).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_dense_cross_entropy_with_int32_targets() -> None:
    torch.manual_seed(1)
    reference = nn.Conv2d(2, 3, 1)
    x, target = torch.randn(2, 2, 3, 4), torch.randint(0, 3, (2, 3, 4))
    program = from_torch(reference, (x,))
    step = training_step(program, optimizer="sgd", target=TensorType((2, 3, 4), "int32"))
    batch = {program.inputs[0]: x.numpy(), "target": target.numpy().astype("int32")}
    _, shown = advance(step, initial(step), batch, 0)
    logits = reference(x)
    np.testing.assert_allclose(shown["loss"], F.cross_entropy(logits, target).detach().numpy(), rtol=2e-6)
    np.testing.assert_allclose(shown["accuracy"], (logits.argmax(1) == target).float().mean().numpy(), rtol=1e-6)


def test_loss_of_ones_own() -> None:
    torch.manual_seed(1)
    reference = nn.Linear(3, 2)
    x, target = torch.randn(4, 3), torch.randn(4, 2)
    program = from_torch(reference, (x,))

    def l1(output: Any, wanted: Any) -> Any:
        return op.mean(op.abs(op.subtract(output, wanted)))

    step = training_step(program, loss=l1, optimizer=SGD(1.0), target=TensorType((4, 2), "float32"))
    state, shown = advance(step, initial(step), {program.inputs[0]: x.numpy(), "target": target.numpy()}, 0)
    loss = F.l1_loss(reference(x), target)
    loss.backward()
    np.testing.assert_allclose(shown["loss"], loss.detach().numpy(), rtol=2e-6)
    expected = (reference.weight - reference.weight.grad).detach().numpy()
    np.testing.assert_allclose(state["weight"], expected, rtol=1e-5, atol=1e-6)


# ---- the graph's interface ------------------------------------------------------------------------------------------


def test_inputs_and_outputs_in_the_stated_order() -> None:
    program = from_torch(cnn(), (torch.zeros(2, 1, 8, 8),))
    graph = training_step(program, optimizer=AdamW(1e-3)).graph
    roles = [i.role for i in graph.inputs]
    order = ["input", "target", "parameter", "buffer", "optimizer", "step", "seed", "learning_rate"]
    assert list(dict.fromkeys(roles)) == order and roles == sorted(roles, key=order.index)
    states = [i.name for i in graph.inputs if i.role in ("parameter", "buffer", "optimizer")]
    assert [(o.name, o.updates) for o in graph.outputs] == [("loss", False), ("accuracy", False), *((s, True) for s in states)]
    types = {i.name: str(i.type) for i in graph.inputs}
    assert types["step"] == types["seed"] == "int64[]" and types["learning_rate"] == "float32[]"
    assert types["optimizer.beta1_power"] == "float64[]" and types["0.weight.exp_avg"] == types["0.weight"]
    assert serialise.loads(serialise.dumps(graph)) == graph


def test_step_is_reproducible_and_its_digest_independent_of_arrays() -> None:
    digests = set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        digests.add(training_step(from_torch(cnn(), (torch.zeros(2, 1, 8, 8),)), optimizer=Adam()).digest)
    assert len(digests) == 1
    other = training_step(from_torch(cnn(), (torch.zeros(2, 1, 8, 8),)), optimizer=Adam(betas=(0.5, 0.999)))
    assert other.digest not in digests


def test_learning_rate_is_an_input_not_a_constant() -> None:
    program = from_torch(mlp(), (torch.zeros(2, 1, 4, 4),))
    one, two = (training_step(program, optimizer=SGD(lr)) for lr in (0.1, 0.2))
    assert one.digest == two.digest and (one.learning_rate, two.learning_rate) == (0.1, 0.2)


def test_sources_name_the_model_in_forward_and_backward() -> None:
    program = from_torch(cnn(), (torch.zeros(2, 1, 8, 8),))
    sources = {n.source for n in training_step(program, optimizer=SGD(0.1)).graph.nodes}
    assert {"0:conv2d", "loss", "gradient of 1:batch_norm", "SGD of 8.weight"} <= sources
    assert not any(s.startswith(("lv", "gv")) for s in sources)


def test_inference_of_the_same_program() -> None:
    torch.manual_seed(2)
    reference = nn.Sequential(cnn(), nn.Dropout(0.5))
    with torch.no_grad():
        for _ in range(3):
            reference(torch.randn(6, 1, 8, 8))
    x = torch.randn(6, 1, 8, 8)
    program = from_torch(reference, (x,))
    graph = inference_graph(program)
    assert list(dict.fromkeys(i.role for i in graph.inputs)) == ["input", "parameter", "buffer"]
    assert [o.name for o in graph.outputs] == list(program.outputs)
    (found,) = run(graph, {program.inputs[0]: x.numpy(), **program.parameters, **program.states})
    expected = copy.deepcopy(reference).eval()(x).detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# ---- errors ---------------------------------------------------------------------------------------------------------


def _program(body: Callable[..., Any], *, output_shape: bool = True) -> Program:
    """x (2, 3) and parameters w (3, 4), unused (2,) → body(x, w, unused)."""
    types = {"x": [2, 3], "w": [3, 4], "unused": [2]}
    variables = [relax.Var(n, relax.TensorType(s, "float32")) for n, s in types.items()]

    def write(e: Any) -> list[Any]:
        e.place = "layer:op"
        return [e(body(e, *variables))]

    arrays = {n: np.ones(s, "float32") for n, s in types.items() if n != "x"}
    return Program(build_function(variables, write), ("x",), ("y",), arrays, origin="test")


def _linear(e: Any, x: Any, w: Any, unused: Any) -> Any:
    return op.matmul(x, w)


def _everything(e: Any, x: Any, w: Any, unused: Any) -> Any:
    return op.multiply(e(op.matmul(x, w)), e(op.reshape(unused, [2, 1])))


def _rounded(e: Any, x: Any, w: Any, unused: Any) -> Any:
    return op.multiply(e(op.matmul(x, e(op.round(w)))), e(op.reshape(unused, [2, 1])))


def _cumulative(e: Any, x: Any, w: Any, unused: Any) -> Any:
    y = op.multiply(e(op.matmul(x, e(op.nn.selu(w)))), e(op.reshape(unused, [2, 1])))
    return op.nn.selu(e(y))


ERRORS: dict[str, tuple[Callable[..., Any], dict[str, Any], list[str]]] = {
    "no path": (_linear, {}, ["no path from unused to the loss", "requires_grad=False"]),
    "path of zero gradient": (_rounded, {}, ["no path from w to the loss", "only through relax.round at layer"]),
    "no deterministic variant": (
        _cumulative,
        {},
        ["unsupported operator 'relax.nn.selu'", "layer:op", "without a deterministic variant"],
    ),
    "unknown loss": (_everything, {"loss": "hinge"}, ["unknown loss 'hinge'", "cross_entropy, mean_squared_error"]),
    "unknown optimizer": (_everything, {"optimizer": "adamax"}, ["unknown optimizer 'adamax'", "sgd, adam, adamw"]),
    "unknown metric": (_everything, {"metrics": ("f1",)}, ["unknown metric 'f1'", "accuracy"]),
    "accuracy of a regression": (
        _everything,
        {"loss": "mean_squared_error", "metrics": ("accuracy",)},
        ["metric 'accuracy' needs class indices"],
    ),
    "target type": (
        _everything,
        {"target": TensorType((2, 3), "float32")},
        ["the target does not suit cross_entropy", "found: float32[2, 3]", "int64[2] or int32[2] or float32[2, 4]"],
    ),
    "loss of one's own without target": (_everything, {"loss": lambda y, t: op.mean(y)}, ["needs target=TensorType"]),
    "vector loss": (
        _everything,
        {"loss": lambda y, t: op.mean(y, [1]), "target": TensorType((), "float32")},
        ["the loss is not a scalar", "float scalar"],
    ),
    "logits of rank 1": (lambda e, x, w, u: op.sum(x, [1]), {}, ["cross_entropy cannot take this output", "float32[2]"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    body, arguments, texts = ERRORS[name]
    with pytest.raises((InvalidProgramError, UnsupportedOperatorError)) as info:
        training_step(_program(body), **{"optimizer": "sgd", **arguments})
    for text in texts:
        assert text in str(info.value)


def test_reserved_names() -> None:
    program = _program(_everything)
    clash = Program(program.module, ("seed",), ("y",), program.parameters)
    with pytest.raises(InvalidProgramError, match="used twice"):
        training_step(clash)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(-1.0),
        lambda: SGD(float("inf")),
        lambda: SGD("0.1"),  # type: ignore[arg-type]
        lambda: SGD(0.1, nesterov=True),
        lambda: Adam(betas=(0.9, 1.0)),
        lambda: Adam(eps=float("nan")),
        lambda: AdamW(weight_decay=-1.0),
    ],
)
def test_optimizer_settings_are_checked(make: Callable[[], Optimizer]) -> None:
    with pytest.raises(InvalidProgramError, match=r"SGD|Adam"):
        make()
