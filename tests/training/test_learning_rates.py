"""Learning rates by step: golden bits, the formulas in decimal arithmetic, and torch's schedulers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from gensyn_tvm.errors import InputError, InvalidProgramError
from gensyn_tvm.evidence.digests import array_digest
from gensyn_tvm.training.learning_rates import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    InverseSquareRoot,
    LearningRate,
    Linear,
    OneCycle,
    Piecewise,
    Polynomial,
    Sequential,
    Step,
    Warmup,
    from_dict,
    from_json,
    to_dict,
    to_json,
)
from gensyn_tvm.training.rationals import cos_pi, float32, power

#: Schedule, float32 bits by step, digest of the first 64 steps.
GOLDEN: dict[str, tuple[LearningRate, dict[int, int], str]] = {
    "constant": (
        Constant(3e-4),
        {0: 0x399D4952, 1: 0x399D4952, 17: 0x399D4952, 63: 0x399D4952, 1000: 0x399D4952},
        "c30ea2658ddbedbc059ad6e294a98beae2f8afdd4b276d31f2f1e3e5cd9b7fd5",
    ),
    "linear": (
        Linear(1e-6, 3e-4, 37),
        {0: 0x358637BD, 1: 0x37185AF2, 17: 0x391119AA, 63: 0x399D4952, 1000: 0x399D4952},
        "2f73f628856b8602900fb4b360223262500d2a0e7c0327db560eb2372553ea5b",
    ),
    "cosine": (
        Cosine(3e-4, 61, 1e-6),
        {0: 0x399D4952, 1: 0x399D2EB7, 17: 0x39811D9F, 63: 0x358637BD, 1000: 0x358637BD},
        "c047250e9aaa23566574c86128550cec0b2e1fdcf2248816b3385a3913d54aee",
    ),
    "polynomial": (
        Polynomial(3e-4, 61, 1e-6, power=0.9),
        {0: 0x399D4952, 1: 0x399AF8BB, 17: 0x396AB506, 63: 0x358637BD, 1000: 0x358637BD},
        "4654fccd5752a5d716a44075527881c532ff3212442040df20ce94930827ca24",
    ),
    "exponential": (
        Exponential(3e-4, 0.97),
        {0: 0x399D4952, 1: 0x3998915C, 17: 0x393B6E40, 63: 0x3838ABF7, 1000: 0x23A395EE},
        "c621cd9706bb0c492e3f5baa493296432eb351a208abeffceb11dd8fac1324f3",
    ),
    "step": (
        Step(3e-4, 7, 0.3),
        {0: 0x399D4952, 1: 0x399D4952, 17: 0x37E27E0F, 63: 0x31CAE40D, 1000: 0x00000000},
        "81ea0ca03239ec9711847a1f4d76da36166ffd2373b2cd03ae9ae9b727432a4f",
    ),
    "inverse square root": (
        InverseSquareRoot(3e-4, 11),
        {0: 0x399D4952, 1: 0x3996971B, 17: 0x39452B3F, 63: 0x38F29124, 1000: 0x38034034},
        "85508c2b968061b180a434ea6a6a48d61f815c01a93305586bd705b20e4743e3",
    ),
    "one cycle": (
        OneCycle(3e-4, 64),
        {0: 0x3749539C, 1: 0x376D3AC7, 17: 0x399BAC2B, 63: 0x30A4ED3F, 1000: 0x30A4ED3F},
        "eeffe780c4dbddb5d0a8900a89626c9433994c6d2d867f87c2ed82fd08bbbf02",
    ),
    "one cycle, linear": (
        OneCycle(3e-4, 64, 0.43, 10.0, 100.0, "linear"),
        {0: 0x37FBA882, 1: 0x38288804, 17: 0x3954F10C, 63: 0x34A10FB0, 1000: 0x34A10FB0},
        "0c7da7f5cbd93071e9df2fdcea328f13386000280952afc35c003fc262ae39e0",
    ),
    "piecewise": (
        Piecewise((5, 50), (1e-3, 3e-4, 1e-5)),
        {0: 0x3A83126F, 1: 0x3A83126F, 17: 0x399D4952, 63: 0x3727C5AC, 1000: 0x3727C5AC},
        "c6fee6edb38e4a2f913559dec1bd2232a2161bab0f0ec0069013a12d5d66b3f7",
    ),
    "sequential": (
        Sequential((Constant(3e-4), Exponential(3e-4, 0.7)), (20,)),
        {0: 0x399D4952, 1: 0x399D4952, 17: 0x399D4952, 63: 0x2E901159, 1000: 0x00000000},
        "8ed4043dc7123c4fe98d882d01c5e25132ad7da80a1ca33439726e10b0bb1c53",
    ),
    "warmup, cosine": (
        Warmup(10, Cosine(3e-4, 1000), 1e-7),
        {0: 0x33D6BF95, 1: 0x37FC69C8, 17: 0x399D4473, 63: 0x399C32E3, 1000: 0x339EF2B2},
        "5aeb70b508b60ebd1f963b16c595de42f5c506fda319b65e586cc0e580e165d5",
    ),
}


def bits(value: np.ndarray | np.generic) -> int:
    return int(np.asarray(value, np.float32).view(np.uint32))


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bits(name: str) -> None:
    schedule, values, digest = GOLDEN[name]
    table = schedule.table(64)
    assert table.dtype == np.float32 and table.shape == (64,)
    for step, expected in values.items():
        assert bits(schedule(step)) == expected, f"step {step}: {bits(schedule(step)):#010x}"
        assert step >= 64 or bits(table[step]) == expected
    assert schedule.digest(64) == array_digest(table) == digest


def test_mpmath_on_pythons_integers_gives_the_same() -> None:
    """mpmath computes with gmpy2 where that is installed, which users need not have."""
    program = (
        "import sys, mpmath, json; from gensyn_tvm.training.learning_rates import from_json; "
        "assert mpmath.libmp.BACKEND == 'python'; print(*(from_json(s).digest(64) for s in json.load(sys.stdin)))"
    )
    texts = json.dumps([to_json(schedule) for schedule, _, _ in GOLDEN.values()])
    environment = {**os.environ, "MPMATH_NOGMPY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], input=texts, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [digest for _, _, digest in GOLDEN.values()]


def test_every_schedule_has_golden_bits() -> None:
    assert {type(schedule) for schedule, _, _ in GOLDEN.values()} == set(SCHEDULES.values())


# ---- formulas, in another arithmetic --------------------------------------------------------------------------------


def decimal_cos(x: Decimal) -> Decimal:
    """Taylor's series, as in the documentation of Python's decimal."""
    term = total = Decimal(1)
    n = 0
    while True:
        n += 2
        term *= -x * x / (n * (n - 1))
        if total + term == total:
            return total
        total += term


def decimal_pi() -> Decimal:
    """Machin: 16 arctan(1/5) - 4 arctan(1/239)"""

    def arctan_of_inverse(k: int) -> Decimal:
        return sum((Decimal((-1) ** n) / ((2 * n + 1) * Decimal(k) ** (2 * n + 1)) for n in range(120)), Decimal(0))

    return 16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)


def test_against_decimal_arithmetic() -> None:
    """cos, roots and powers from the decimal module, with 100 digits; the same bits after one rounding."""
    lr, end, steps = 3e-4, 1e-5, 77
    schedules = Cosine(lr, steps, end), InverseSquareRoot(lr, 40), Exponential(lr, 0.97), Polynomial(lr, steps, end, power=0.9)
    with localcontext(Context(prec=100)):
        a, b, factor, exponent, pi = *map(Decimal, (lr, end, 0.97, 0.9)), decimal_pi()
        for step in range(0, steps + 3):
            t = Decimal(min(step, steps)) / steps
            expected = (
                b + (a - b) * (1 + decimal_cos(pi * t)) / 2,
                a * (Decimal(40) / (40 + step)).sqrt(),
                a * factor**step,
                b + (a - b) * ((1 - t) ** exponent if t < 1 else Decimal(0)),
            )
            for schedule, value in zip(schedules, expected, strict=True):
                assert bits(schedule(step)) == bits(float32(Fraction(value))), (schedule, step)


PEERS: dict[str, tuple[LearningRate, Callable[[Any], torch.optim.lr_scheduler.LRScheduler]]] = {
    "constant": (Constant(0.1), lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0)),
    "linear": (Linear(0.025, 0.1, 7), lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.25, 1.0, 7)),
    "cosine": (Cosine(0.1, 20, 0.003), lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20, 0.003)),
    "step": (Step(0.1, 6, 0.3), lambda o: torch.optim.lr_scheduler.StepLR(o, 6, 0.3)),
    "exponential": (Exponential(0.1, 0.9), lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9)),
    "polynomial": (Polynomial(0.1, 15, power=1.7), lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 15, 1.7)),
    "one cycle": (OneCycle(0.1, 20), lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, 20)),
    "one cycle, linear": (
        OneCycle(0.1, 20, 0.43, 10.0, 100.0, "linear"),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, 0.1, 20, pct_start=0.43, anneal_strategy="linear", div_factor=10.0, final_div_factor=100.0
        ),
    ),
    "piecewise": (Piecewise((4, 9), (0.1, 0.01, 0.001)), lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [4, 9], 0.1)),
    "sequential": (
        Sequential((Constant(0.1), Exponential(0.1, 0.5)), (5,)),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o, [torch.optim.lr_scheduler.ConstantLR(o, 1.0), torch.optim.lr_scheduler.ExponentialLR(o, 0.5)], [5]
        ),
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_against_torch(name: str) -> None:
    """torch computes in float64, mostly by recursion; 1e-7 relative is one float32 rounding and a little."""
    ours, make = PEERS[name]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)
    theirs = make(optimizer)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < 20:
            theirs.step()
    np.testing.assert_allclose(ours.table(20), expected, rtol=1e-7, atol=1e-12)


def test_warmup_then_another_schedule() -> None:
    schedule = Warmup(10, Cosine(1e-3, 50), start=1e-4)
    assert schedule(0) == np.float32(1e-4) and schedule(10) == np.float32(1e-3) and schedule(60) == 0
    np.testing.assert_array_equal(schedule.table(70)[10:], Cosine(1e-3, 50).table(60))
    assert np.all(np.diff(schedule.table(11)) > 0)
    halves = Sequential((Linear(1e-4, 1e-3, 10), Cosine(1e-3, 50)), (10,))
    np.testing.assert_array_equal(schedule.table(70), halves.table(70))
    whole = [np.float32(0.5) * min(1.0, np.sqrt(16 / step)) for step in range(16, 40)]
    np.testing.assert_allclose(Warmup(16, InverseSquareRoot(0.5, 16)).table(40)[16:], whole, rtol=2e-7)


# ---- roundings ------------------------------------------------------------------------------------------------------


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
@hypothesis.given(st.floats(width=64, allow_nan=False, min_value=0, max_value=3e38))
def test_rounding_of_a_double(value: float) -> None:
    assert bits(float32(Fraction(value))) == bits(np.float32(value))


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
@hypothesis.given(st.integers(1, 2**149 * 3), st.integers(1, 2**40), st.integers(-150, 100))
def test_rounding_is_to_the_nearest(numerator: int, denominator: int, shift: int) -> None:
    """No neighbour is nearer, and of two that are as near the even one is taken."""
    x = Fraction(numerator, denominator * 2**149) * Fraction(2) ** shift
    found = float32(x)
    distance = abs(Fraction(float(found)) - x)
    for neighbour in (np.nextafter(found, np.float32(np.inf)), np.nextafter(found, np.float32(-np.inf))):
        other = abs(Fraction(float(neighbour)) - x)
        assert distance < other or (distance == other and bits(found) % 2 == 0)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (Fraction(1) + Fraction(1, 2**24), 0x3F800000),  # a tie, to even
        (Fraction(1) + Fraction(3, 2**24), 0x3F800002),
        (Fraction(1) + Fraction(1, 2**24) + Fraction(1, 2**200), 0x3F800001),  # through float64 it would be the tie
        (Fraction(1, 2**150), 0x00000000),
        (Fraction(3, 2**150), 0x00000002),
        (Fraction(2**24 - 1, 2**150), 0x00800000),  # the largest subnormal and a half
        (Fraction(0), 0x00000000),
        (Fraction(2**24 - 1) * 2**104, 0x7F7FFFFF),
    ],
)
def test_rounding_of_awkward_fractions(x: Fraction, expected: int) -> None:
    assert bits(float32(x)) == expected
    assert bits(float32(-x)) == (expected | 0x80000000 if expected else 0)


def test_exact_values_stay_exact() -> None:
    assert [cos_pi(Fraction(n, 6)) for n in (0, 2, 3, 4, 6)] == [1, Fraction(1, 2), 0, Fraction(-1, 2), -1]
    assert power(Fraction(9, 16), Fraction(1, 2)) == Fraction(3, 4)
    assert power(Fraction(1, 3), Fraction(16)) == Fraction(1, 3**16)
    assert power(Fraction(3, 4), Fraction(100)) == Fraction(3, 4) ** 100
    assert power(Fraction(0), Fraction(1, 2)) == 0 and power(Fraction(0), Fraction(0)) == 1
    assert power(Fraction(0), Fraction(100)) == 0


# ---- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_json_round_trip(name: str) -> None:
    schedule = GOLDEN[name][0]
    assert from_json(to_json(schedule)) == schedule
    assert to_dict(schedule)["kind"] == next(kind for kind, c in SCHEDULES.items() if c is type(schedule))


def test_dictionary_of_a_configuration_file() -> None:
    found = from_dict({"kind": "warmup", "steps": 100, "then": {"kind": "cosine", "lr": 1e-3, "steps": 900}})
    assert found == Warmup(100, Cosine(1e-3, 900)) == Warmup(np.int64(100), Cosine(np.float64(1e-3), 900))
    parts = [{"kind": "constant", "lr": 1}, {"kind": "step", "lr": 1, "every": 3}]
    assert from_dict({"kind": "sequential", "schedules": parts, "boundaries": [4]}) == Sequential(
        (Constant(1), Step(1, 3)), (4,)
    )


def test_document_has_every_schedule() -> None:
    text = (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text(encoding="utf-8")
    for kind, schedule in SCHEDULES.items():
        assert f"| `{kind}` | `{schedule.__name__}({', '.join(f.name for f in fields(schedule))})` |" in text


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown kind": (lambda: from_dict({"kind": "cyclic"}), "unknown learning-rate schedule 'cyclic'"),
    "unknown setting": (lambda: from_dict({"kind": "constant", "lr": 1, "end": 0}), "does not have the setting 'end'"),
    "missing setting": (lambda: from_json(json.dumps({"kind": "cosine", "lr": 1})), "needs the setting 'steps'"),
    "negative": (lambda: Constant(-1.0), "Constant: lr must be finite"),
    "infinite": (lambda: Cosine(float("inf"), 3), "Cosine: lr and end must be finite"),
    "text": (lambda: Linear("0", 1.0, 3), "Linear: start and end"),  # type: ignore[arg-type]
    "no steps": (lambda: Polynomial(0.1, 0), "Polynomial: steps must be an integer >= 1"),
    "half a step": (lambda: Linear(0.0, 1.0, 2.5), "Linear: steps must be"),  # type: ignore[arg-type]
    "power": (lambda: Polynomial(0.1, 3, power=0.0), "power must be finite and > 0"),
    "factor": (lambda: Exponential(0.1, -0.5), "lr and factor"),
    "every": (lambda: Step(0.1, 0), "every must be"),
    "timescale": (lambda: InverseSquareRoot(0.1, 0), "timescale must be"),
    "rise": (lambda: OneCycle(0.1, 10, 0.1), "rise must be in"),
    "divisor": (lambda: OneCycle(0.1, 10, divisor=0.0), "divisor and final_divisor"),
    "anneal": (lambda: OneCycle(0.1, 10, anneal="cos"), "anneal must be"),
    "boundaries": (lambda: Piecewise((4, 4), (1.0, 2.0, 3.0)), "ascending integers"),
    "values": (lambda: Piecewise((4, 5), (1.0, 2.0)), "one value more"),
    "schedules": (lambda: Sequential((Constant(1.0), 0.1), (3,)), "must be learning-rate schedules"),  # type: ignore[arg-type]
    "one schedule": (lambda: Sequential((Constant(1.0),), (3,)), "one schedule more"),
    "then": (lambda: Warmup(3, 0.1), "then must be"),  # type: ignore[arg-type]
    "abstract": (lambda: to_dict(LearningRate.__new__(LearningRate)), "settings without a name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_are_refused(name: str) -> None:
    make, text = REFUSED[name]
    with pytest.raises(InvalidProgramError) as info:
        make()
    assert text in str(info.value)


@pytest.mark.parametrize("step", [-1, 1.0, True, "3"])
def test_what_is_no_step(step: Any) -> None:
    with pytest.raises(InputError, match="expected an integer >= 0"):
        Constant(0.1)(step)
    with pytest.raises(InputError, match="expected an integer >= 0"):
        Constant(0.1).table(step)


def test_rates_beyond_float32() -> None:
    growing = Exponential(1.0, 2.0)
    assert growing(127) == np.float32(2.0**127)
    with pytest.raises(InputError, match=r"3\.40282e\+38 is beyond the largest float32"):
        growing(128)
