"""Gradient accumulation: together, one by one, interpreted and compiled are the same bits; values against PyTorch."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from tvm.relax import op

import gensyn_tvm
from gensyn_tvm import SGD, AdamW, ClipNorm, DynamicLossScale, MixedPrecision, Program, accumulated_step, training_step
from gensyn_tvm.errors import InputError
from gensyn_tvm.frontends.torch import from_torch
from gensyn_tvm.interpreter import run
from gensyn_tvm.passes.recompute import recompute
from gensyn_tvm.training.pairwise import PairwiseSum
from tests.training.running import advance, advance_one_by_one, bits, initial

SHAPE = (4, 7)


def make(dropout: float = 0.4) -> tuple[nn.Module, Program]:
    torch.manual_seed(2)
    layers = [nn.Linear(7, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(dropout), nn.Linear(6, 5)]
    model = nn.Sequential(*layers)
    return model, from_torch(model, (torch.zeros(SHAPE),))


def data(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, *SHAPE)).astype("float32"), rng.integers(0, 5, (n, SHAPE[0]))


EVERYTHING: dict[str, Any] = {
    "optimizer": AdamW(1e-2),
    "clip": ClipNorm(0.5),
    "frozen": ("4.bias",),
    "metrics": {"accuracy": "accuracy", "norm": "gradient_norm", "mine": lambda y, t: op.mean(y)},
}


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_together_and_one_by_one_are_the_same_bits(n: int) -> None:
    """Two steps with dropout, batch normalisation, clipping and a frozen parameter."""
    _, program = make()
    together = training_step(program, microbatches=n, **EVERYTHING)
    apart = accumulated_step(program, microbatches=n, **EVERYTHING)
    a, b = initial(together), apart.arrays
    for count in range(2):
        x, target = data(n, count)
        a, shown = advance(together, a, (x, target), count)
        b, shown_apart = advance_one_by_one(apart, b, zip(x, target, strict=True), count)
        assert bits(a) == bits(b) and bits(shown) == bits(shown_apart)
    assert bits(a) != bits(initial(together))


def test_compiled_both_ways_and_interpreted_are_the_same_bits() -> None:
    _, program = make()
    options = {**EVERYTHING, "precision": MixedPrecision("float16", DynamicLossScale(initial=2.0**40, backoff=2.0**-10))}
    together = training_step(program, microbatches=3, **options)
    apart = accumulated_step(program, microbatches=3, **options)
    one, two = gensyn_tvm.compile(together, "c", threads=1), gensyn_tvm.compile(apart, "c", threads=1)
    a, b, c = one.init(3), two.init(3), initial(together)
    for count in range(3):
        x, target = data(3, count)
        a, shown = one(a, (x, target))
        b, shown_apart = two(b, ({"target": t, program.inputs[0]: v} for v, t in zip(x, target, strict=True)))
        c, shown_interpreted = advance(together, c, (x, target), count)
        assert a.digest() == b.digest() and bits(a) == bits(c)
        assert bits(shown) == bits(shown_apart) == bits(shown_interpreted)
    assert (a.step, b.step, b.seed) == (3, 3, 3)
    assert a["optimizer.loss_scale"] < 2.0**40, "the first steps were skipped"


@pytest.mark.parametrize("n", [3, 4])
def test_gradients_are_the_mean_over_microbatches(n: int) -> None:
    """Against torch: backward of loss / n for each microbatch, running statistics updated by each; 2e-5."""
    model, program = make(dropout=0.0)
    step = training_step(program, microbatches=n, optimizer=SGD(1.0))
    x, target = data(n)
    state, shown = advance(step, initial(step), (x, target))
    losses, hits = [], []
    for one, t in zip(torch.from_numpy(x), torch.from_numpy(target), strict=True):
        logits = model(one)
        loss = F.cross_entropy(logits, t)
        (loss / n).backward()
        losses.append(loss.item())
        hits.append((logits.argmax(1) == t).float().mean().item())
    np.testing.assert_allclose(shown["loss"], np.mean(losses), rtol=2e-6)
    np.testing.assert_allclose(shown["accuracy"], np.mean(hits), rtol=1e-6)
    for name, p in model.named_parameters():
        assert p.grad is not None
        np.testing.assert_allclose(state[name], (p - p.grad).detach().numpy(), rtol=2e-5, atol=2e-6, err_msg=name)
    for name, buffer in model.named_buffers():
        np.testing.assert_allclose(state[name], buffer.numpy(), rtol=2e-5, err_msg=name)


def test_one_microbatch_is_a_step_without() -> None:
    _, program = make()
    plain, one = (training_step(program, microbatches=n, optimizer=SGD(0.1)) for n in (None, 1))
    x, target = data(1)
    expected, _ = advance(plain, initial(plain), (x[0], target[0]), count=5)
    found, _ = advance(one, initial(one), (x, target), count=5)
    assert bits(found) == bits(expected)
    assert str(one.graph.input_named("target").type) == "int64[1, 4]"


def test_recomputation_of_microbatches_changes_no_bit() -> None:
    _, program = make()
    plain = training_step(program, microbatches=3, **EVERYTHING)
    saving = training_step(program, microbatches=3, checkpoint=("0", "1", "3"), **EVERYTHING)
    assert saving.recomputed and saving.digest == plain.digest
    written = replace(saving, graph=recompute(saving.graph, saving.recomputed))
    (a, shown), (b, shown_saving) = (advance(s, initial(s), data(3)) for s in (plain, written))
    assert bits(a) == bits(b) and bits(shown) == bits(shown_saving)


def test_each_microbatch_draws_its_own_dropout() -> None:
    """Microbatch m of step s draws what a program draws in step s * n + m."""
    _, program = make()
    apart = accumulated_step(program, microbatches=2, optimizer=SGD(0.1))
    x, target = data(1)
    arrays = {**apart.parameters, **apart.states, program.inputs[0]: x[0], "target": target[0], "seed": np.array(3)}
    losses = [run(apart.gradient, {**arrays, "step": np.array(s)})[0] for s in (8, 9)]
    assert losses[0] != losses[1]
    together = training_step(program, microbatches=2, optimizer=SGD(0.1))
    _, shown = advance(together, initial(together), (np.stack([x[0]] * 2), np.stack([target[0]] * 2)), count=4)
    assert shown["loss"] == (losses[0] + losses[1]) * np.float32(0.5)


# ---- the order of the sum -------------------------------------------------------------------------------------------


def _tree(parts: list[str]) -> str:
    """The tree, level by level."""
    while len(parts) > 1:
        pairs = [parts[k : k + 2] for k in range(0, len(parts), 2)]
        parts = [f"({p[0]}+{p[1]})" if len(p) == 2 else p[0] for p in pairs]
    return parts[0]


def test_order_is_pairwise() -> None:
    for n in range(1, 40):
        sums: PairwiseSum[str] = PairwiseSum(lambda a, b: f"({a}+{b})")
        for k in range(n):
            sums.push(str(k))
        assert sums.total() == _tree([str(k) for k in range(n)])
    assert _tree([str(k) for k in range(7)]) == "(((0+1)+(2+3))+((4+5)+6))"


def test_few_partial_sums_wait() -> None:
    class Part:
        pass

    living: weakref.WeakSet[Part] = weakref.WeakSet()

    def part() -> Part:
        made = Part()
        living.add(made)
        return made

    sums: PairwiseSum[Part] = PairwiseSum(lambda a, b: part())
    most = 0
    for _ in range(100):
        sums.push(part())
        most = max(most, len(living))
    assert most <= 7


# ---- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "text"), [(1, "found: 1\n  expected: 2 batches"), (3, "more than 2"), (0, "found: 0")])
def test_number_of_microbatches(given: int, text: str) -> None:
    _, program = make()
    apart = accumulated_step(program, microbatches=2, optimizer=SGD(0.1))
    x, target = data(3)
    with pytest.raises(InputError) as info:
        advance_one_by_one(apart, apart.arrays, list(zip(x, target, strict=True))[:given])
    assert text in str(info.value)
