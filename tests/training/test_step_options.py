"""Frozen parameters, clipping and metrics of training steps, against PyTorch; errors by their text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from tvm import relax
from tvm.relax import op

import gensyn_tvm
from gensyn_tvm import SGD, Adam, ClipNorm, ClipValue, DynamicLossScale, MixedPrecision, Program, StaticLossScale
from gensyn_tvm.canonical import rules
from gensyn_tvm.canonical.from_relax import freeze
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InvalidProgramError
from gensyn_tvm.frontends.torch import from_torch
from gensyn_tvm.interpreter import run
from gensyn_tvm.training.accumulation import accumulated_step
from gensyn_tvm.training.clipping import global_norm
from gensyn_tvm.training.emit import build_function
from gensyn_tvm.training.step import training_step
from tests.training.running import advance, bits, initial
from tests.training.step_cases import STEP_CASES, step_digests

SHAPE = (6, 7)
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / rules.NUMERICS_VERSION / "steps.json"


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 9, bias=False), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 5))


def case(seed: int = 1) -> tuple[nn.Module, Program, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    model = mlp()
    x, target = torch.randn(SHAPE) * 3, torch.randint(0, 5, SHAPE[:1])
    return model, from_torch(model, (x,)), x, target


@pytest.mark.parametrize("name", STEP_CASES)
def test_programs_have_the_recorded_digests(name: str) -> None:
    assert step_digests(name) == json.loads(GOLDEN.read_text(encoding="utf-8"))[name]


def compare(state: dict[str, np.ndarray], model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        np.testing.assert_allclose(state[name], tensor.detach().numpy(), rtol=2e-5, atol=2e-6, err_msg=name)


# ---- frozen parameters ----------------------------------------------------------------------------------------------


def test_frozen_parameters_against_torch() -> None:
    """Three steps; running statistics go on, as in PyTorch."""
    model, program, x, target = case()
    step = training_step(program, optimizer=Adam(1e-2), frozen=("0.*", "1.bias"))
    frozen = {"0.weight", "1.bias"}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    state = initial(step)
    before = bits(state)
    for count in range(3):
        loss = F.cross_entropy(model(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state, shown = advance(step, state, (x.numpy(), target.numpy()), count)
        np.testing.assert_allclose(shown["loss"], loss.detach().numpy(), rtol=2e-6)
    compare(state, model)
    assert {name for name in before if bits(state)[name] == before[name]} == frozen


def test_frozen_parameters_are_buffers_without_update_or_optimizer_state() -> None:
    _, program, *_ = case()
    step = training_step(program, optimizer=Adam(), frozen=("0.*", "1.bias"))
    roles = {i.name: i.role for i in step.graph.inputs}
    assert roles["0.weight"] == roles["1.bias"] == "buffer" and roles["3.weight"] == "parameter"
    updated = {o.name for o in step.graph.outputs if o.updates}
    assert not {"0.weight", "1.bias"} & updated and "1.running_mean" in updated
    assert set(step.parameters) == {"1.weight", "3.weight", "3.bias"}
    assert not any(name.startswith(("0.", "1.bias")) for name in step.optimizer_state)
    first_product = [n for n in step.graph.nodes if n.op == "matmul" and "0" in n.source.split(":")[0]]
    assert len(first_product) == 1, "no gradient of the frozen first layer"


def test_frozen_parameters_stay_in_the_state_of_an_executable() -> None:
    _, program, x, target = case()
    exe = gensyn_tvm.compile(training_step(program, optimizer=SGD(0.1), frozen=["0.weight"]), "c")
    state, _ = exe(exe.init(), (x.numpy(), target.numpy()))
    assert set(state) == {*program.parameters, *program.states}
    assert state["0.weight"].tobytes() == program.parameters["0.weight"].tobytes()


def test_no_frozen_parameters_change_nothing() -> None:
    _, program, *_ = case()
    assert training_step(program, frozen=()).digest == training_step(program).digest


# ---- clipping -------------------------------------------------------------------------------------------------------

CLIPS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "norm": (ClipNorm(0.125), lambda p: nn.utils.clip_grad_norm_(p, 0.125)),
    "norm above": (ClipNorm(1e3), lambda p: nn.utils.clip_grad_norm_(p, 1e3)),
    "value": (ClipValue(0.02), lambda p: nn.utils.clip_grad_value_(p, 0.02)),
}


@pytest.mark.parametrize("name", CLIPS)
def test_clipping_against_torch(name: str) -> None:
    """The gradients are what a step of SGD(1) subtracts."""
    ours, theirs = CLIPS[name]
    model, program, x, target = case()
    step = training_step(program, optimizer=SGD(1.0), clip=ours, metrics=("gradient_norm",))
    state, shown = advance(step, initial(step), (x.numpy(), target.numpy()))
    F.cross_entropy(model(x), target).backward()
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    theirs(model.parameters())
    np.testing.assert_allclose(shown["gradient_norm"], norm.numpy(), rtol=1e-6)
    with torch.no_grad():
        for p in model.parameters():
            p -= p.grad
    compare(state, model)


def test_clipping_changes_the_gradients() -> None:
    _, program, x, target = case()
    states = [
        bits(advance(s, initial(s), (x.numpy(), target.numpy()))[0])
        for s in (
            training_step(program, optimizer=SGD(1.0), clip=c) for c in (None, ClipNorm(1e3), ClipNorm(0.1), ClipValue(0.02))
        )
    ]
    assert states[0] == states[1] and states[0] != states[2] and states[0] != states[3]


def _emitted(body: Callable[..., Any], *arrays: np.ndarray) -> list[np.ndarray]:
    variables = [relax.Var(f"x{k}", relax.TensorType(list(a.shape), a.dtype.name)) for k, a in enumerate(arrays)]
    module = build_function(variables, lambda e: body(e, {v.name: v for v in variables}))
    outputs = [(f"y{k}", False) for k in range(len(module["main"].body.body.fields))]
    graph = freeze(module, name="t", inputs=[(v.name, "input") for v in variables], outputs=outputs)
    return run(graph, {v.name: a for v, a in zip(variables, arrays, strict=True)})


def test_norm_adds_in_the_order_of_the_parameters() -> None:
    """((2^24 + 1) + 1) + … = 2^24 in float32, 16 + 2^24 is larger."""
    large, one = np.array([4096.0], "float32"), np.array([1.0], "float32")
    (first,) = _emitted(lambda e, x: [global_norm(e, x)], large, *[one] * 16)
    (last,) = _emitted(lambda e, x: [global_norm(e, x)], *[one] * 16, large)
    assert first == np.float32(4096.0) and last == np.sqrt(np.float32(2**24 + 16)) and last != first


def test_norm_is_float64_if_a_tensor_is() -> None:
    (norm,) = _emitted(lambda e, x: [global_norm(e, x)], np.array([3.0], "float32"), np.array([[1e-30, 4.0]], "float64"))
    assert norm.dtype == np.float64 and norm == 5.0


def test_clipping_of_special_values() -> None:
    """A NaN spreads through the norm but not through a limit; so do the operators of PyTorch."""
    gradients = [np.array([np.nan, 1.0, -np.inf], "float32"), np.array([[5.0]], "float32")]

    def both(e: Any, x: Any) -> list[Any]:
        norm = global_norm(e, x)
        return [*ClipNorm(1.0).emit(e, x, norm).values(), *ClipValue(2.0).emit(e, x, norm).values()]

    n0, n1, v0, v1 = _emitted(both, *gradients)
    assert np.isnan(n0).all() and np.isnan(n1).all()
    np.testing.assert_array_equal(v0, np.array([np.nan, 1.0, -2.0], "float32"))
    np.testing.assert_array_equal(v1, np.array([[2.0]], "float32"))


# ---- metrics --------------------------------------------------------------------------------------------------------


def test_metrics_of_the_step_and_of_ones_own() -> None:
    model, program, x, target = case()
    metrics: dict[str, Any] = {
        "norm": "gradient_norm",
        "gradient_norm": lambda y, t: op.min(y),
        "largest": lambda y, t: op.max(y),
        "accuracy": "accuracy",
        "weights": "parameter_norm",
        "rate": "learning_rate",
    }
    step = training_step(program, optimizer=SGD(0.25), metrics=metrics, clip=ClipValue(0.01))
    assert [o.name for o in step.graph.outputs if not o.updates] == ["loss", *metrics]
    _, shown = advance(step, initial(step), (x.numpy(), target.numpy()))
    logits = model(x)
    F.cross_entropy(logits, target).backward()
    total = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    np.testing.assert_allclose(shown["norm"], total.numpy(), rtol=1e-6)
    np.testing.assert_allclose(shown["weights"], nn.utils.get_total_norm(list(model.parameters())).detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(shown["gradient_norm"], logits.min().detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(shown["largest"], logits.max().detach().numpy(), rtol=1e-6)
    assert shown["accuracy"] == np.float32((logits.argmax(1) == target).float().mean()) and shown["rate"] == np.float32(0.25)


# ---- errors ---------------------------------------------------------------------------------------------------------

ERRORS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "pattern without a match": (
        {"frozen": ("0.*", "encoder.*")},
        ["no parameter matches the frozen pattern 'encoder.*'", "0.weight, 1.weight"],
    ),
    "a pattern instead of several": ({"frozen": "0.*"}, ["frozen= takes a sequence of patterns", "'0.*'"]),
    "everything frozen": ({"frozen": ("*",)}, ["every parameter is frozen", "nothing to train"]),
    "clip": ({"clip": 1.0}, ["cannot be clipped by this", "found: 1.0", "ClipNorm(max_norm) or ClipValue(limit)"]),
    "precision": ({"precision": "bfloat16"}, ["unknown precision", "'bfloat16'", 'MixedPrecision("bfloat16")']),
    "microbatches": ({"microbatches": 0}, ["found: microbatches=0", "a positive integer"]),
    "microbatches as a bool": ({"microbatches": True}, ["microbatches=True"]),
    "unknown metric": (
        {"metrics": ("f1",)},
        ["unknown metric 'f1'", "one of accuracy", "gradient_norm, parameter_norm, learning_rate"],
    ),
    "a metric instead of several": ({"metrics": "accuracy"}, ["metrics are given as a sequence", "'accuracy'"]),
    "metric that this step lacks": ({"metrics": ("skipped",)}, ["this step has no metric 'skipped'", "DynamicLossScale"]),
    "metric twice": ({"metrics": ("accuracy", "accuracy")}, ["metric name 'accuracy' is used twice"]),
    "metric called loss": ({"metrics": {"loss": "accuracy"}}, ["metric name 'loss' is used twice"]),
    "metric of a shape": ({"metrics": {"all": lambda y, t: y}}, ["metric 'all' is not a scalar", "a float scalar"]),
    "accuracy of a function": (
        {"loss": "mean_squared_error", "metrics": {"a": "accuracy"}},
        ["metric 'accuracy' needs class indices"],
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    arguments, texts = ERRORS[name]
    _, program, *_ = case()
    with pytest.raises(InvalidProgramError) as info:
        training_step(program, **arguments)
    for text in texts:
        assert text in str(info.value)


def test_accumulated_step_has_the_same_errors() -> None:
    _, program, *_ = case()
    with pytest.raises(InvalidProgramError, match="microbatches=-1"):
        accumulated_step(program, microbatches=-1)
    with pytest.raises(InvalidProgramError, match="frozen pattern"):
        accumulated_step(program, microbatches=2, frozen=("nothing",))


SETTINGS: dict[str, tuple[Callable[[], Any], str]] = {
    "norm 0": (lambda: ClipNorm(0.0), "ClipNorm cannot clip"),
    "infinite norm": (lambda: ClipNorm(float("inf")), "ClipNorm cannot clip"),
    "norm as text": (lambda: ClipNorm("1"), "found: '1'"),  # type: ignore[arg-type]
    "NaN limit": (lambda: ClipValue(float("nan")), "ClipValue cannot clip"),
    "dtype": (lambda: MixedPrecision("float8_e5m2"), "bfloat16 or float16"),
    "scale": (lambda: MixedPrecision("float16", 1024.0), r"StaticLossScale\(scale\) or DynamicLossScale"),  # type: ignore[arg-type]
    "static scale": (lambda: StaticLossScale(1000.0), "StaticLossScale: scale cannot scale a loss exactly"),
    "negative scale": (lambda: StaticLossScale(-2.0), "a power of two"),
    "scale without an inverse": (lambda: StaticLossScale(2.0**127), r"2\^-126 to 2\^126"),
    "initial": (lambda: DynamicLossScale(initial=3.0), "initial cannot scale"),
    "growth": (lambda: DynamicLossScale(growth=1.5), "growth cannot scale"),
    "backoff": (lambda: DynamicLossScale(backoff=1.0), "backoff < 1"),
    "interval": (lambda: DynamicLossScale(growth_interval=0), "growth_interval an integer >= 1"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_checked(name: str) -> None:
    make, text = SETTINGS[name]
    with pytest.raises(InvalidProgramError, match=text):
        make()


def test_mixed_precision_needs_float32_parameters() -> None:
    model = nn.Linear(3, 2).double()
    program = from_torch(model, (torch.zeros(4, 3, dtype=torch.float64),))
    with pytest.raises(InvalidProgramError, match="weight is float64; bias is float64"):
        training_step(
            program, loss=lambda y, t: op.mean(y), target=TensorType((), "float64"), precision=MixedPrecision("bfloat16")
        )
