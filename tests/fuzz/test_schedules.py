"""A sample of random schedules: each is refused or keeps the bits. ``make schedules`` tries thousands."""

from __future__ import annotations

import pytest

from .schedules import FAMILIES, draw, outcome


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_accepted_keeps_its_bits(family: str) -> None:
    drawn = [s for s in (draw(family, 10_000 + number) for number in range(8)) if s.applied]
    found = outcome([s for s in drawn if not s.refusal])
    assert found.different == ()


def test_schedules_are_functions_of_their_numbers() -> None:
    a, b = (draw("matmul", 3) for _ in range(2))
    assert (a.applied, a.refusal, a.function.script()) == (b.applied, b.refusal, b.function.script())
