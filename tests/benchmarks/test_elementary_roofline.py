"""What the roofline of elementary functions reads out of generated code."""

from __future__ import annotations

import pytest

from benchmarks.elementary_roofline import bound, counts

#: A loop of sixteen elements between others: a spill and a copy between registers are no work on elements.
CODE = """
.LBB0_1:
	vmovups	%ymm0, (%rdi)
	jne	.LBB0_1
	vmulps	%zmm1, %zmm1, %zmm1
.LBB0_2:
	vcvtps2pd	(%rsi,%rax), %zmm1
	vmovapd	%zmm2, %zmm3
	vfmadd213pd	%zmm1, %zmm2, %zmm3
	vmulpd	%zmm1, %zmm3, %zmm3
	vdivpd	%zmm1, %zmm3, %zmm3
	vmovups	%zmm3, -64(%rsp)
	vpaddq	%zmm3, %zmm4, %zmm3
	vmovups	%zmm3, 64(%rdi,%rax)
	addq	$64, %rax
	jne	.LBB0_2
"""


def test_instructions_of_the_longest_loop_are_counted() -> None:
    assert counts(CODE) == {"multiply": 2 / 16, "divide": 1 / 16, "convert": 1 / 16, "other": 3 / 16}


def test_the_busiest_unit_is_the_bound() -> None:
    times = {"multiply": 0.2, "divide": 3.2, "convert": 0.2, "any": 0.1}
    for given, expected, unit in ((times, 0.2, "divide"), ({**times, "any": 1.6}, 0.7, "any")):
        least, busiest = bound(counts(CODE), given)
        assert least == pytest.approx(expected)
        assert busiest == unit


def test_code_without_vectors_is_refused() -> None:
    with pytest.raises(SystemExit, match="no loop of vectors"):
        counts("\taddss\t%xmm0, %xmm1\n")
