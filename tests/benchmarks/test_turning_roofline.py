"""What the roofline of turned squares reads out of generated code."""

from __future__ import annotations

import pytest

from benchmarks.turning_roofline import bound, counts

#: A loop that turns two vectors, after one that only multiplies.
CODE = """
.LBB0_1:
	vfmadd231ps	%zmm1, %zmm2, %zmm3
	jne	.LBB0_1
.LBB0_2:
	vmovups	(%rsi,%rax), %xmm1
	vinsertf128	$1, 16(%rsi,%rax), %ymm1, %ymm1
	vinsertf32x4	$2, 32(%rsi,%rax), %zmm1, %zmm1
	vunpcklps	%zmm1, %zmm2, %zmm4
	vunpckhps	%zmm1, %zmm2, %zmm5
	vshufps	$68, %zmm4, %zmm5, %zmm6
	vfmadd231ps	(%rdx){1to16}, %zmm6, %zmm3
	vfmadd231ps	4(%rdx){1to16}, %zmm4, %zmm3
	addq	$64, %rax
	jne	.LBB0_2
"""


def test_instructions_of_the_loop_that_exchanges_are_counted() -> None:
    expected = {"multiply": 2, "exchange": 3, "insert": 1, "narrow": 1, "load": 5, "other": 0, "chain": 2}
    assert counts(CODE) == ("zmm", {kind: n / 2 / 16 for kind, n in expected.items()})


def test_squares_side_by_side_are_chains_of_their_own() -> None:
    code = CODE.replace("zmm", "ymm").replace("vfmadd231ps", "vfmadd231ps\t%ymm0, %ymm0, %ymm0\n\t" * 15 + "vfmadd231ps")
    registers, each = counts(code)
    assert registers == "ymm" and each["chain"] == 1 / 4 / 8 and each["multiply"] == 1 / 8


def test_the_busiest_unit_is_the_bound() -> None:
    each = {"multiply": 2.0, "exchange": 3.0, "insert": 1.0, "narrow": 1.0, "load": 5.0, "other": 0.0, "chain": 0.5}
    times = {"multiply": 0.25, "exchange": 0.25, "insert": 0.25, "narrow": 0.125, "load": 0.125, "any": 0.125, "chain": 1.0}
    assert bound(each, times) == (0.875, "any")
    assert bound(each, {**times, "load": 0.25}) == (1.25, "load")
    assert bound(each, {**times, "chain": 4.0}) == (2.0, "chain")


def test_code_without_exchanges_is_refused() -> None:
    with pytest.raises(SystemExit, match="no loop of exchanges"):
        counts(CODE.split(".LBB0_2")[0])
