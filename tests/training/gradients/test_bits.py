"""The backward graph of every differentiable operator has the same bits in the interpreter and on every target."""

from __future__ import annotations

import pytest

from gensyn_tvm.training.gradients import CANONICAL

from ...fuzz.check import Case, Way, check
from .bits import TARGETS, cases, kinds

#: Which of each operator's graphs; ``make gradients`` takes more.
NUMBERS = (0,)


@pytest.fixture(scope="module")
def drawn() -> list[Case]:
    return cases(NUMBERS)


def test_inputs_are_awkward(drawn: list[Case]) -> None:
    assert len(drawn) == len(CANONICAL) * len(NUMBERS)
    assert min(kinds(drawn).values()) > 10


@pytest.mark.parametrize("way", TARGETS, ids=str)
def test_same_bits(drawn: list[Case], way: Way) -> None:
    """All in one program, which compiles much faster than each alone."""
    problems = [text for texts in check(drawn, way) for text in texts]
    assert not problems, "\n".join(problems[:10])
