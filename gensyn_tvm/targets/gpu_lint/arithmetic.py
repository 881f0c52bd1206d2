"""How many operations of each kind a kernel has, in PTX and in machine code, and whether the two agree.

An assembler that contracts a product and a sum takes one of each away and adds a fused one. Divisions and square roots are
sequences of fused operations in machine code, of fixed lengths; whatever else differs is a loop that was unrolled, which only
adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

BITS = (32, 64)


@dataclass(frozen=True)
class Arithmetic:
    """Numbers of instructions on floats of one width in a kernel, with the functions that it calls.

    Attributes:
        additions: with subtractions.
        products, fused: in machine code with those inside divisions and roots.
        divisions, roots, reciprocals: of machine code only those of 32 bits, by instructions that nothing else has.
    """

    additions: int = 0
    products: int = 0
    fused: int = 0
    divisions: int = 0
    roots: int = 0
    reciprocals: int = 0

    def __add__(self, other: Arithmetic) -> Arithmetic:
        return Arithmetic(*(a + b for a, b in zip(self.values(), other.values(), strict=True)))

    def values(self) -> tuple[int, ...]:
        """All numbers in order."""
        return (self.additions, self.products, self.fused, self.divisions, self.roots, self.reciprocals)


#: Both widths: of 32 and of 64 bits.
Counts = tuple[Arithmetic, Arithmetic]


def expected(ptx: Counts) -> Counts:
    """What machine code has for a PTX kernel if no loop is unrolled; divisions and roots taken apart."""
    single, double = ptx
    return (
        Arithmetic(
            single.additions,
            single.products,
            # Each double division takes a single-precision fma to see whether the fast path is good enough.
            single.fused + 5 * single.divisions + 2 * single.roots + double.divisions,
        ),
        Arithmetic(
            double.additions,
            double.products + double.divisions + 3 * double.roots,
            double.fused + 7 * double.divisions + 5 * double.roots + 5 * double.reciprocals,
        ),
    )


def disagreements(ptx: Counts, machine: Counts) -> Iterator[tuple[str, str]]:
    """Instruction and explanation for everything in a kernel's machine code that its PTX does not explain.

    ``machine`` counts what a kernel contains, without the subroutines of the assembler.
    """
    for bits, source, wanted, found in zip(BITS, ptx, expected(ptx), machine, strict=True):
        letter = "F" if bits == 32 else "D"
        for name, instruction in (("additions", "ADD"), ("products", "MUL"), ("fused", "FMA")):
            want, have = getattr(wanted, name), getattr(found, name)
            if have < want:
                yield f"{letter}{instruction}", f"{have} of them, where the PTX needs {want}: contracted or left out"
            elif have > _most(bits, name, source, wanted, found, ptx[1]):
                yield f"{letter}{instruction}", f"{have} of them, where the PTX explains {want}: contracted or approximated"


def _most(bits: int, name: str, source: Arithmetic, wanted: Arithmetic, found: Arithmetic, double: Arithmetic) -> float:
    """How many operations of a kind there may be, unrolled loops included; infinity where that cannot be told."""
    if not getattr(wanted, name):
        return 0
    if bits == 32 and name == "fused" and not source.fused and not double.divisions:
        return 5 * found.divisions + 2 * found.roots
    return float("inf")
