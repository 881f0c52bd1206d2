"""Mixed precision against torch.autocast and torch.amp.GradScaler; which operators are rounded; exact skipping."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from tvm import relax
from tvm.relax import op

from gensyn_tvm import SGD, AdamW, DynamicLossScale, MixedPrecision, Program, StaticLossScale, training_step
from gensyn_tvm.canonical.from_relax import freeze
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.frontends.torch import from_torch
from gensyn_tvm.interpreter import run
from gensyn_tvm.training.emit import build_function, inline
from gensyn_tvm.training.plan import variable
from tests.training.running import advance, bits, initial


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 5)
    )


def case() -> tuple[nn.Module, Program, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    model = cnn()
    x, target = torch.randn(6, 1, 4, 4), torch.randint(0, 5, (6,))
    return model, from_torch(model, (x,)), x, target


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_against_autocast(dtype: str) -> None:
    """Ours and PyTorch's are equally far from float32: within 4 % (bfloat16) and 0.5 % (float16) of the gradient's norm.

    They are not nearer to one another, because PyTorch rounds activations too.
    """
    tolerance = {"bfloat16": 0.04, "float16": 0.005}[dtype]
    model, program, x, target = case()
    step = training_step(program, optimizer=SGD(1.0), precision=MixedPrecision(dtype))
    state, shown = advance(step, initial(step), (x.numpy(), target.numpy()))
    with torch.autocast("cpu", dtype=getattr(torch, dtype)):
        loss = F.cross_entropy(model(x), target)
    loss.backward()
    np.testing.assert_allclose(shown["loss"], loss.detach().numpy(), rtol=tolerance)
    for name, p in model.named_parameters():
        assert p.grad is not None and state[name].dtype == np.float32
        ours, theirs = p.detach().numpy() - state[name], p.grad.numpy()
        assert np.linalg.norm(ours - theirs) < tolerance * np.linalg.norm(theirs), name


def _rounded_products(graph: Graph, dtype: str) -> list[tuple[str, bool]]:
    """Each product, and whether its operands and its result are rounded."""
    made: dict[int, Any] = {}
    readers: dict[int, list[Any]] = {}
    number = len(graph.inputs)
    types = graph.value_types()
    for node in graph.nodes:
        made[number] = node
        for i in node.inputs:
            readers.setdefault(i, []).append(node)
        number += 1

    def comes_rounded(value: int) -> bool:
        node = made.get(value)
        while node is not None and node.op in ("transpose", "reshape", "broadcast"):
            node = made.get(node.inputs[0])
        return node is not None and node.op == "cast" and types[node.inputs[0]].dtype == dtype

    def goes_rounded(value: int) -> bool:
        return all(n.op == "cast" and n.attrs["dtype"] == dtype for n in readers.get(value, [])) and value in readers

    found = []
    for value, node in made.items():
        if node.op in ("matmul", "conv", "conv_backward_weight", "conv_backward_data"):
            found.append((node.op, all(comes_rounded(i) for i in node.inputs) and goes_rounded(value)))
    return found


def test_products_are_rounded_and_nothing_else() -> None:
    _, program, *_ = case()
    graph = training_step(program, optimizer=SGD(1.0), precision=MixedPrecision("bfloat16")).graph
    products = _rounded_products(graph, "bfloat16")
    assert len(products) == 8 and all(rounded for _, rounded in products), products
    assert {n.op for n in graph.nodes if any(t.dtype == "bfloat16" for t in n.types)} <= {"cast", "transpose", "reshape"}
    assert all(i.type.dtype != "bfloat16" for i in graph.inputs)


def test_operands_and_results_are_rounded_once() -> None:
    """(1 + 2^-9) and 1 + 2^-7 in bfloat16 are 1 and 1 + 2^-7; their products are added in float32."""
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1 + 2**-9, 2**-9]]))
    x = torch.tensor([[1 + 2**-7, 1.0]])
    program = from_torch(model, (x,))
    step = training_step(
        program,
        loss=lambda y, t: op.sum(y),
        optimizer=SGD(1.0),
        target=TensorType((), "float32"),
        precision=MixedPrecision("bfloat16"),
    )
    state, shown = advance(step, initial(step), (x.numpy(), np.float32(0.0)))
    assert shown["loss"] == np.float32(1 + 2**-7)
    np.testing.assert_array_equal(state["weight"], np.array([[1 + 2**-9 - (1 + 2**-7), 2**-9 - 1.0]], "float32"))


def test_products_with_constants_and_of_other_dtypes_stay() -> None:
    x, w = (relax.Var(n, relax.TensorType([3, 3], d)) for n, d in (("x", "float32"), ("w", "float64")))
    constant = relax.const(np.full((3, 3), 1 + 2**-9, "float32"))
    rewrite = MixedPrecision("bfloat16").rewrite
    inner = build_function([x, w], lambda e: [e(op.matmul(x, constant)), e(op.matmul(w, w)), e(op.matmul(x, x))])["main"]
    outer = build_function([x, w], lambda e: inline(e, inner, [x, w], rewrite))
    outputs = [(n, False) for n in "abc"]
    graph = freeze(outer, name="t", inputs=[("x", "input"), ("w", "input")], outputs=outputs)
    assert [rounded for _, rounded in _rounded_products(graph, "bfloat16")] == [False, False, True]


# ---- loss scaling ---------------------------------------------------------------------------------------------------


def test_a_static_scale_changes_no_bit_where_nothing_under_or_overflows() -> None:
    _, program, x, target = case()
    options: dict[str, Any] = {"optimizer": AdamW(1e-2), "metrics": ("accuracy", "gradient_norm")}
    plain = training_step(program, precision=MixedPrecision("bfloat16"), **options)
    scaled = training_step(program, precision=MixedPrecision("bfloat16", StaticLossScale(2.0**12)), **options)
    a, shown = advance(plain, initial(plain), (x.numpy(), target.numpy()))
    b, shown_scaled = advance(scaled, initial(scaled), (x.numpy(), target.numpy()))
    assert bits(a) == bits(b) and bits(shown) == bits(shown_scaled) and plain.digest != scaled.digest


def test_a_scale_saves_small_gradients_in_float16() -> None:
    """With the loss times 2^-30, its gradients vanish in float16 unless they are scaled."""
    _, program, x, target = case()
    options: dict[str, Any] = {
        "loss": lambda y, t: op.multiply(op.mean(y), op.astype(_power(-30), "float32")),
        "target": TensorType((6,), "int64"),
        "optimizer": SGD(2.0**30),
        "metrics": ("gradient_norm",),
    }
    norms = []
    for scale in (None, StaticLossScale(2.0**30)):
        step = training_step(program, precision=MixedPrecision("float16", scale), **options)
        norms.append(advance(step, initial(step), (x.numpy(), target.numpy()))[1]["gradient_norm"])
    full = training_step(program, **options)
    expected = advance(full, initial(full), (x.numpy(), target.numpy()))[1]["gradient_norm"]
    assert norms[0] < 0.9 * expected
    np.testing.assert_allclose(norms[1], expected, rtol=1e-3)


def _power(exponent: int) -> Any:
    return relax.const(np.float32(2.0**exponent))


SCALES = DynamicLossScale(initial=2.0**10, growth_interval=2, growth=4.0, backoff=0.5)


def test_dynamic_scale_against_grad_scaler() -> None:
    """Scales and skipped steps are equal; weights to 1e-3 (PyTorch rounds activations too)."""
    torch.manual_seed(4)
    model = nn.Linear(3, 4)
    x, target = torch.randn(5, 3), torch.randint(0, 4, (5,))
    program = from_torch(model, (x,))
    step = training_step(
        program, optimizer=SGD(0.1, 0.9), precision=MixedPrecision("float16", SCALES), metrics=("loss_scale", "skipped")
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    scaler = torch.amp.GradScaler("cpu", 2.0**10, 4.0, 0.5, 2)
    state, skipped = initial(step), []
    for count, factor in enumerate([1.0, 1.0, 1.0, float("inf"), 1.0, 1.0, float("nan"), 1e30, 1.0, 1.0]):
        batch = x.clone()
        batch[0, 0] *= factor
        before, old_scale = bits(state), scaler.get_scale()
        state, shown = advance(step, state, (batch.numpy(), target.numpy()), count)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(batch), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        skipped.append(float(shown["skipped"]))
        assert shown["loss_scale"] == old_scale and state["optimizer.loss_scale"] == scaler.get_scale()
        assert state["optimizer.good_steps"] == scaler.state_dict()["_growth_tracker"]
        if skipped[-1]:
            changed = {name for name, array in bits(state).items() if array != before[name]}
            assert changed <= {"optimizer.loss_scale", "optimizer.good_steps"}
        np.testing.assert_allclose(state["weight"], model.weight.detach().numpy(), rtol=1e-3, atol=1e-3)
    assert skipped == [0, 0, 0, 1, 0, 0, 1, 1, 0, 0]


def test_skipping_keeps_adam_and_goes_on_with_running_statistics() -> None:
    _, program, x, target = case()
    step = training_step(
        program, optimizer=AdamW(1e-2), precision=MixedPrecision("float16", DynamicLossScale(initial=2.0**100))
    )
    state = initial(step)
    new, shown = advance(step, state, (x.numpy(), target.numpy()))
    assert np.isfinite(shown["loss"])
    changed = {name for name, array in bits(new).items() if array != bits(state)[name]}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked", "optimizer.loss_scale"} & set(state)
    assert new["optimizer.loss_scale"] == np.float32(2.0**99)


def test_scale_never_grows_to_infinity() -> None:
    """The scale stays where the next would be infinite, as in PyTorch."""
    scaler = DynamicLossScale(initial=2.0**126, growth=4.0, growth_interval=1)
    state = {n: variable(n, TensorType(a.shape, a.dtype.name)) for n, a in scaler.initial_state().items()}
    finite = variable("finite", TensorType((), "bool"))
    module = build_function([*state.values(), finite], lambda e: list(scaler.update(e, state, finite).values()))
    inputs = [(n, "input") for n in (*state, "finite")]
    graph = freeze(module, name="t", inputs=inputs, outputs=[("a", False), ("b", False)])
    scale, good = run(graph, {**scaler.initial_state(), "finite": np.array(True)})
    assert scale == np.float32(2.0**126) and good == 0
