"""Optimizers on a few odd parameters: the interpreted update against torch.optim, compiled updates against the interpreter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import nn

import gensyn_tvm
from gensyn_tvm.canonical import rules, serialise
from gensyn_tvm.errors import InputError, InvalidProgramError
from gensyn_tvm.interpreter import run_named
from gensyn_tvm.training.optimizers import (
    OPTIMIZERS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    ExponentialMovingAverage,
    Lion,
    Optimizer,
    RMSprop,
    averaged,
    from_dict,
    to_dict,
)
from tests.training.optimizer_cases import SHAPES, Arrays, advance, digests, draw, update_graph

GOLDEN = Path(__file__).parents[1] / "golden" / rules.NUMERICS_VERSION / "optimizers.json"


def torch_advance(
    make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
    dtype: str,
    steps: int,
    lr: float,
    groups: Mapping[str, Mapping[str, float]] | None = None,
) -> Arrays:
    """The same with torch, whose learning rate is the float32 that ours is given; ``groups``: settings by parameter."""
    tensors = {name: nn.Parameter(torch.tensor(value)) for name, value in draw(0, dtype).items()}
    optimizer = make([{"params": [tensor], **(groups or {}).get(name, {})} for name, tensor in tensors.items()])
    for group in optimizer.param_groups:
        scale = group.pop("scale", 1.0)
        group["lr"] = scale * float(np.float32(lr))
    for count in range(steps):
        for name, gradient in draw(count + 1, dtype).items():
            tensors[name].grad = torch.tensor(gradient)
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


CASES: dict[str, tuple[Optimizer, Callable[[Any], torch.optim.Optimizer]]] = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "sgd momentum": (SGD(0.1, 0.9, 0.01), lambda p: torch.optim.SGD(p, 0.1, 0.9, 0, 0.01)),
    "sgd nesterov": (SGD(0.1, 0.9, 0.01, True), lambda p: torch.optim.SGD(p, 0.1, 0.9, 0, 0.01, True)),
    "sgd dampening": (SGD(0.1, 0.9, 0.01, dampening=0.3), lambda p: torch.optim.SGD(p, 0.1, 0.9, 0.3, 0.01)),
    "adam": (Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    "adam decay": (Adam(0.01, (0.8, 0.99), 1e-6, 0.05), lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.99), 1e-6, 0.05)),
    "adam amsgrad": (Adam(0.01, amsgrad=True), lambda p: torch.optim.Adam(p, 0.01, amsgrad=True)),
    "adamw": (AdamW(0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1)),
    "adamw amsgrad": (AdamW(0.01, (0.5, 0.6), amsgrad=True), lambda p: torch.optim.AdamW(p, 0.01, (0.5, 0.6), amsgrad=True)),
    "adagrad": (Adagrad(0.1), lambda p: torch.optim.Adagrad(p, 0.1)),
    "adagrad decay": (Adagrad(0.1, 0.05, 0.02, 0.3, 1e-6), lambda p: torch.optim.Adagrad(p, 0.1, 0.05, 0.02, 0.3, 1e-6)),
    "rmsprop": (RMSprop(0.01), lambda p: torch.optim.RMSprop(p, 0.01)),
    "rmsprop momentum": (RMSprop(0.01, 0.9, 1e-6, 0.02, 0.9), lambda p: torch.optim.RMSprop(p, 0.01, 0.9, 1e-6, 0.02, 0.9)),
    "rmsprop centered": (RMSprop(0.01, centered=True), lambda p: torch.optim.RMSprop(p, 0.01, centered=True)),
    "rmsprop everything": (
        RMSprop(0.01, 0.9, 1e-6, 0.02, 0.5, True),
        lambda p: torch.optim.RMSprop(p, 0.01, 0.9, 1e-6, 0.02, 0.5, True),
    ),
}

#: Relative and absolute, after 20 steps; parameters are about 1.
TOLERANCE = {"float32": 2e-6, "float64": 1e-14}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_against_torch(name: str, dtype: str) -> None:
    ours, theirs = CASES[name]
    found, expected = advance(ours, dtype, 20), torch_advance(theirs, dtype, 20, ours.lr)
    for parameter, value in expected.items():
        assert found[parameter].dtype == dtype and np.isfinite(value).all()
        np.testing.assert_allclose(found[parameter], value, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], err_msg=parameter)


def lion_by_hand(steps: int, dtype: str, lr: float, betas: tuple[float, float], weight_decay: float) -> Arrays:
    """The authors' PyTorch code, line by line, on NumPy arrays; there is no Lion in torch."""
    parameters = draw(0, dtype)
    averages = {name: np.zeros_like(p) for name, p in parameters.items()}
    real = np.dtype(dtype).type
    for count in range(steps):
        for name, g in draw(count + 1, dtype).items():
            m = averages[name]
            p = parameters[name] * real(1 - lr * weight_decay)
            update = m * real(betas[0]) + g * real(1 - betas[0])
            parameters[name] = p - np.sign(update) * real(lr)
            averages[name] = m * real(betas[1]) + g * real(1 - betas[1])
    return parameters


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("betas", "weight_decay"), [((0.9, 0.99), 0.0), ((0.5, 0.7), 0.3)])
def test_lion_to_the_bit(betas: tuple[float, float], weight_decay: float, dtype: str) -> None:
    found = advance(Lion(0.01, betas, weight_decay), dtype, 20)
    for name, value in lion_by_hand(20, dtype, float(np.float32(0.01)), betas, weight_decay).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_lion_does_not_move_without_gradient() -> None:
    parameters = draw(0, "float32")
    optimizer = Lion()
    zeros = {f"{n} gradient": np.zeros_like(p) for n, p in parameters.items()}
    given = {**parameters, **zeros, **optimizer.initial_state(parameters), "learning_rate": np.array(0.1, np.float32)}
    found = run_named(update_graph(optimizer, "float32"), given)
    for (name, _), array in found.items():
        np.testing.assert_array_equal(array, given[name])


def test_learning_rate_may_change_at_every_step() -> None:
    """Adagrad divides today's rate by 1 + t * lr_decay, with t counted in the state."""
    ours = Adagrad(0.1, lr_decay=0.5)
    found = advance(ours, "float64", 4, lambda t: 2.0**-t)
    value, total = draw(0, "float64")["temperature"], np.zeros(())
    for t in range(4):
        g = draw(t + 1, "float64")["temperature"]
        total = total + g * g
        value = value - (g * (2.0**-t / (t * 0.5 + 1.0))) / (np.sqrt(total) + 1e-10)
    assert found["temperature"] == value and found["optimizer.step"] == 4


# ---- drawn settings -------------------------------------------------------------------------------------------------

_small = st.sampled_from([0.0, 0.01, 0.3])
_beta = st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.99])
_eps = st.sampled_from([1e-8, 1e-3])


@st.composite
def settings_of_sgd(draw: Any) -> tuple[Optimizer, Callable[[Any], torch.optim.Optimizer]]:
    momentum, decay = draw(_beta), draw(_small)
    nesterov = momentum > 0 and draw(st.booleans())
    dampening = 0.0 if nesterov else draw(_small)
    ours = SGD(0.1, momentum, decay, nesterov, dampening=dampening)
    return ours, lambda p: torch.optim.SGD(p, 0.1, momentum, dampening, decay, nesterov)


@st.composite
def settings_of_adam(draw: Any) -> tuple[Optimizer, Callable[[Any], torch.optim.Optimizer]]:
    ours, theirs = draw(st.sampled_from([(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)]))
    betas, eps, decay, amsgrad = (draw(_beta), draw(_beta)), draw(_eps), draw(_small), draw(st.booleans())
    return ours(0.01, betas, eps, decay, amsgrad=amsgrad), lambda p: theirs(p, 0.01, betas, eps, decay, amsgrad)


@st.composite
def settings_of_the_others(draw: Any) -> tuple[Optimizer, Callable[[Any], torch.optim.Optimizer]]:
    eps, decay = draw(_eps), draw(_small)
    if draw(st.booleans()):
        lr_decay, initial = draw(_small), draw(_small)
        return Adagrad(0.1, lr_decay, decay, initial, eps), lambda p: torch.optim.Adagrad(p, 0.1, lr_decay, decay, initial, eps)
    alpha, momentum = draw(_beta), draw(_beta)
    return RMSprop(0.01, alpha, eps, decay, momentum), lambda p: torch.optim.RMSprop(p, 0.01, alpha, eps, decay, momentum)


@hypothesis.settings(max_examples=40, deadline=None, derandomize=True)
@hypothesis.given(pair=st.one_of(settings_of_sgd(), settings_of_adam(), settings_of_the_others()))
def test_drawn_settings_against_torch(pair: tuple[Optimizer, Callable[[Any], torch.optim.Optimizer]]) -> None:
    """In float64, where rounding leaves nothing to hide behind: 1e-12."""
    ours, theirs = pair
    found, expected = advance(ours, "float64", 4), torch_advance(theirs, "float64", 4, ours.lr)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12, err_msg=f"{ours}: {name}")
    assert from_dict(json.loads(json.dumps(to_dict(ours)))) == ours


# ---- bits -----------------------------------------------------------------------------------------------------------

COMPILED: dict[str, Optimizer] = {
    "sgd": SGD(0.1, 0.9, 0.01, dampening=0.3),
    "adam": Adam(0.01, weight_decay=0.1, amsgrad=True),
    "adamw": ExponentialMovingAverage(AdamW(0.01, no_decay="bias_and_norm", lr_scale={"body.*": 0.3}), 0.9),
    "adagrad": Adagrad(0.1, 0.05, 0.02, 0.3),
    "rmsprop": RMSprop(0.01, 0.9, 1e-6, 0.02, 0.5, True),
    "lion": Lion(0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_update_has_the_interpreters_bits(name: str) -> None:
    optimizer = COMPILED[name]
    graph = update_graph(optimizer, "float32")
    exe = gensyn_tvm.compile(graph, "x86-64", threads=1)
    state = advance(optimizer, "float32", 3)
    gradients = {f"{n} gradient": g for n, g in draw(9, "float32").items()}
    gradients["body.bias gradient"][:] = [0.0, -0.0, 1e-42, 1e30, -np.inf, np.nan, -1e-30]
    given = {**gradients, "learning_rate": np.array(0.01, np.float32)}
    interpreted = run_named(graph, {**state, **given})
    for declared, array in zip(graph.outputs, exe.run(given, state), strict=True):
        expected = interpreted[declared.name, True]
        assert array.numpy().tobytes() == expected.tobytes(), declared.name


def test_every_optimizer_is_compiled_somewhere() -> None:
    assert set(COMPILED) == set(OPTIMIZERS)


def test_programs_and_states_are_as_recorded() -> None:
    recorded = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert digests() == recorded, "new cases are added by python scripts/record_golden.py; changed bits are a new version"


# ---- groups of parameters -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_masks_and_scales_against_parameter_groups(dtype: str) -> None:
    ours = AdamW(0.01, weight_decay=0.3, no_decay=("*.bias", "norm.*"), lr_scale={"body.w*": 0.5, "body.*": 3, "temp*": 0.0})
    groups: dict[str, dict[str, float]] = {
        "body.weight": {"scale": 0.5},
        "body.bias": {"scale": 3.0, "weight_decay": 0.0},
        "norm.weight": {"weight_decay": 0.0},
        "temperature": {"scale": 0.0},
    }
    found = advance(ours, dtype, 10)
    expected = torch_advance(lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.3), dtype, 10, 0.01, groups)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], err_msg=name)
    np.testing.assert_array_equal(found["temperature"], draw(0, dtype)["temperature"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_model_learns_by_name(name: str) -> None:
    """Eight steps of a whole training step, with the default learning rate times ten."""
    torch.manual_seed(0)
    program = gensyn_tvm.from_torch(nn.Linear(3, 2), (torch.zeros(6, 3),))
    step = gensyn_tvm.training_step(program, optimizer=name)
    state = {**step.parameters, **step.states, **step.optimizer_state}
    batch: Arrays = {program.inputs[0]: np.linspace(-1, 1, 18, dtype=np.float32).reshape(6, 3), "target": np.arange(6) // 3}
    losses = []
    for count in range(8):
        clock = {"step": np.array(count), "seed": np.array(0), "learning_rate": np.array(10 * step.learning_rate, "float32")}
        found = run_named(step.graph, {**state, **batch, **clock})
        state = {key: array for (key, updates), array in found.items() if updates}
        losses.append(float(found["loss", False]))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


@pytest.mark.parametrize("make", [SGD, Adam, AdamW, Adagrad, RMSprop, Lion])
def test_vectors_and_scalars_without_decay(make: Any) -> None:
    """``bias_and_norm`` is every parameter of rank < 2, and nothing else changes."""
    masked, everything, nothing = (
        advance(make(0.01, weight_decay=d, no_decay=n), "float32", 3) for d, n in ((0.3, "bias_and_norm"), (0.3, ()), (0.0, ()))
    )
    for name, shape in SHAPES.items():
        assert not np.array_equal(everything[name], nothing[name])
        np.testing.assert_array_equal(masked[name], (everything if len(shape) >= 2 else nothing)[name])


def test_a_scale_of_one_and_an_unused_mask_change_no_program() -> None:
    plain = serialise.digest(update_graph(AdamW(), "float32"))
    assert serialise.digest(update_graph(AdamW(lr_scale={"*": 1.0}), "float32")) == plain
    assert serialise.digest(update_graph(AdamW(no_decay=("body.*",)), "float32")) != plain
    assert serialise.digest(update_graph(AdamW(weight_decay=0.0, no_decay=("body.*",)), "float32")) == serialise.digest(
        update_graph(AdamW(weight_decay=0.0), "float32")
    )


# ---- averages of the parameters -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_average_to_the_bit_and_unseen_by_the_optimizer(dtype: str) -> None:
    inner = SGD(0.1, 0.9)
    average = ExponentialMovingAverage(inner, 0.9)
    assert average.lr == 0.1
    averages = draw(0, dtype)
    weight = np.dtype(dtype).type(1 - 0.9)
    for steps in range(1, 5):
        found, alone = advance(average, dtype, steps), advance(inner, dtype, steps)
        for name in SHAPES:
            averages[name] = averages[name] + weight * (alone[name] - averages[name])
            np.testing.assert_array_equal(found[name], alone[name])
            np.testing.assert_array_equal(averaged(found)[name], averages[name])


def test_averages_replace_the_parameters_of_a_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    program = gensyn_tvm.from_torch(model, (torch.zeros(6, 3),))
    step = gensyn_tvm.training_step(program, optimizer=ExponentialMovingAverage(AdamW(0.1, no_decay="bias_and_norm"), 0.5))
    exe = gensyn_tvm.compile(step, "x86-64", threads=1)
    state = exe.init()
    x, y = np.random.default_rng(1).normal(size=(6, 3)).astype("float32"), np.arange(6) % 2
    for _ in range(3):
        state, _ = exe(state, (x, y))
    averages = averaged(state)
    assert list(averages) == list(program.parameters)
    assert not np.array_equal(averages["0.weight"], state["0.weight"])
    model.load_state_dict({n: torch.tensor(averages.get(n, state.arrays.get(n, 0))) for n in model.state_dict()}, strict=True)
    evaluated = replace(program, parameters=averages, states={name: state[name] for name in program.states})
    found = gensyn_tvm.compile(evaluated, "x86-64", threads=1)(x)
    np.testing.assert_allclose(found, model.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_state_without_averages() -> None:
    with pytest.raises(InputError, match=r"no averages of parameters\n  found: w, w.momentum"):
        averaged({"w": np.zeros(3), "w.momentum": np.zeros(3)})


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS.values(), *COMPILED.values()], ids=repr)
def test_dictionaries_have_every_setting(optimizer: Optimizer) -> None:
    description = json.loads(json.dumps(to_dict(optimizer)))
    assert from_dict(description) == optimizer
    assert next(iter(description)) == "kind"


def test_dictionary_of_a_configuration_file() -> None:
    found = from_dict({"kind": "adamw", "lr": 3e-4, "betas": [0.9, 0.95], "no_decay": ["*.bias"], "lr_scale": {"head.*": 0.1}})
    assert found == AdamW(3e-4, (0.9, 0.95), no_decay=("*.bias",), lr_scale=(("head.*", 0.1),))
    assert found == replace(AdamW(np.float64(3e-4), (0.9, 0.95), no_decay="*.bias"), lr_scale={"head.*": 0.1})
    nested = from_dict({"kind": "exponential_moving_average", "optimizer": {"kind": "lion"}})
    assert nested == ExponentialMovingAverage(Lion())


def test_document_has_every_setting_and_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text(encoding="utf-8")
    for kind, optimizer in OPTIMIZERS.items():
        (row,) = (line for line in text.splitlines() if line.startswith(f"| `{kind}` | `{type(optimizer).__name__}` |"))
        for field in fields(optimizer):
            if not field.kw_only or field.name not in ("no_decay", "lr_scale"):
                shown = f"`{field.name}={field.default!r}`" if field.default is not MISSING else f"`{field.name}` (no default"
                assert shown in row


DESCRIPTIONS: dict[str, tuple[Any, str]] = {
    "no dictionary": (["adamw"], "optimizer is no dictionary"),
    "no kind": ({"lr": 0.1}, "unknown optimizer None"),
    "unknown kind": ({"kind": "adamax"}, "unknown optimizer 'adamax'\n  expected: kind = one of sgd, adam, adamw"),
    "unknown setting": ({"kind": "sgd", "lr": 0.1, "beta": 1}, "'sgd' does not have the setting 'beta'\n  expected: lr, "),
    "missing setting": ({"kind": "sgd"}, "'sgd' needs the setting 'lr'"),
    "no optimizer": ({"kind": "exponential_moving_average", "optimizer": "sgd"}, "optimizer must be an optimizer"),
    "out of range": ({"kind": "adam", "betas": [0.9, 1.0]}, "Adam: two betas in"),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_dictionaries_that_are_refused(name: str) -> None:
    description, text = DESCRIPTIONS[name]
    with pytest.raises(InvalidProgramError) as info:
        from_dict(description)
    assert text in str(info.value)


SETTINGS: dict[str, tuple[Callable[[], Any], str]] = {
    "negative rate": (lambda: Adagrad(-1.0), "Adagrad: lr must be finite"),
    "truth value": (lambda: SGD(True), "SGD: lr must be finite"),
    "dampening": (lambda: SGD(0.1, 0.9, dampening=1.5), "dampening must be in [0, 1]"),
    "nesterov with dampening": (lambda: SGD(0.1, 0.9, 0.0, True, dampening=0.1), "nesterov needs dampening = 0"),
    "decay of the rate": (lambda: Adagrad(lr_decay=float("inf")), "lr_decay, weight_decay"),
    "alpha": (lambda: RMSprop(alpha=1.1), "alpha must be in [0, 1]"),
    "momentum": (lambda: RMSprop(momentum=-0.1), "eps, weight_decay and momentum"),
    "betas": (lambda: Lion(betas=(0.9,)), "Lion: two betas"),  # type: ignore[arg-type]
    "average of averages": (lambda: ExponentialMovingAverage(ExponentialMovingAverage(SGD(0.1))), "no average itself"),
    "decay": (lambda: ExponentialMovingAverage(SGD(0.1), 1.5), "decay must be in [0, 1]"),
    "mask": (lambda: SGD(0.1, no_decay=(3,)), "no_decay must be patterns"),  # type: ignore[arg-type]
    "scales": (lambda: SGD(0.1, lr_scale=("a", "b")), "lr_scale must map patterns"),  # type: ignore[arg-type]
    "scale": (lambda: SGD(0.1, lr_scale={"*": -1.0}), "factors of lr_scale"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_are_refused(name: str) -> None:
    make, text = SETTINGS[name]
    with pytest.raises(InvalidProgramError) as info:
        make()
    assert text in str(info.value)


@pytest.mark.parametrize("setting", ["no_decay", "lr_scale"])
def test_patterns_that_match_nothing(setting: str) -> None:
    wrong: Any = {"no_decay": ("*.bias", "*.gain"), "lr_scale": {"*.gain": 0.1}}[setting]
    with pytest.raises(InvalidProgramError) as info:
        AdamW(**{setting: wrong}).initial_state(draw(0, "float32"))
    assert f"{setting} of AdamW names no parameter: '*.gain'\n  found: the parameters body.weight" in str(info.value)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("optimizer", [SGD(0.1), ExponentialMovingAverage(AdamW())], ids=["sgd", "average"])
def test_narrow_parameters_are_refused(optimizer: Optimizer, dtype: str) -> None:
    import ml_dtypes

    narrow = np.zeros(3, getattr(ml_dtypes, dtype, dtype))
    with pytest.raises(InvalidProgramError) as info:
        optimizer.initial_state({"layer.weight": narrow})
    for text in ("cannot update a parameter of this dtype", "in: layer.weight", f"found: {dtype}", "mixed precision"):
        assert text in str(info.value)
