"""Machine code: every instruction must be known, and the arithmetic that of the PTX it was made of.

Divisions, square roots and integer divisions are sequences with an approximate reciprocal inside, and subroutines of the
assembler for hard cases; both are recognised, and everything else that is approximate is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from gensyn_tvm.targets.gpu_lint.arithmetic import Arithmetic, Counts, disagreements

#: Subroutines that are IEEE-754 division and square root with subnormals, and division of integers.
_SUBROUTINE = re.compile(
    r"__cuda_sm\w+?_("
    r"(div|rem)_[su](16|32|64)|div_rn_noftz_f32_slowpath|div_rn_f64_full|sqrt_rn_f32_slowpath|rcp_rn_f32_slowpath"
    r"|dsqrt_rn_f64_mediumpath_v1|dblrcp_rn_slowpath_v3)"
)
#: Instructions, without modifiers, that neither round nor depend on anything but their operands. A U in front: of a whole warp.
_PLAIN = re.compile(
    "IABS|IADD3?|IDP|IDP4A|IMAD|IMUL|IMNMX|ISETP|ISCADD|LEA|LOP3?|POPC|FLO|BREV|BMSK|SGXT|SHF|SHL|SHR|VABSDIFF4?|VIADD"
    "|VIMNMX3?|VIADDMNMX|SEL|MOV|MOV32I|PRMT|P2R|R2P|PLOP3|PSETP|R2UR|UP2UR|UR2UP|LDC|LDCU|LD[GSL]?|ST[GSL]?|BAR|WARPSYNC|SHFL"
    "|BRA|BRX|BREAK|BSSY|BSYNC|BMOV|DEPBAR|CALL|RET|EXIT|NOP|YIELD|VOTEU?|ENDCOLLECTIVE|BPT|FSETP|FSEL|FMNMX3?|DSETP|DMNMX|I2FP?|F2I"
    "|FRND"
)
_COPIES = re.compile(r"U?HFMA2(\.MMA)?")
#: How ``HFMA2`` writes a constant: 0 times 0 plus it.
_CONSTANT = re.compile(r"U?R\w+,\s*-?U?RZ,\s*U?RZ,.*")
_ARITHMETIC = {
    "ADD": re.compile(r"U?([FD])ADD(2)?"),
    "MUL": re.compile(r"U?([FD])MUL(2)?"),
    "FMA": re.compile(r"U?([FD])FMA(2)?"),
}
_SPECIAL = re.compile(r"\bSR_(?!(?:TID|CTAID|NTID)\.[XYZ]\b|LANEID\b|CgaCtaId\b)\w+")
_RECIPROCALS = ("MUFU.RCP", "MUFU.RSQ", "MUFU.RCP64H", "MUFU.RSQ64H")
_REASONS = [
    (re.compile(text), reason)
    for text, reason in (
        (r"(ATOM|ATOMS|ATOMG|RED|REDG|REDUX|SUATOM|SURED|UREDGR|CREDUX)\b.*", "an atomic or unordered reduction"),
        (r".*(MMA|QMMA)\b.*", "a matrix instruction: its sums are of an order and precision that nobody states"),
        (r"MUFU\..*", "an approximation"),
        (r".*\.FTZ.*", "it flushes subnormals to zero"),
        (r".*\.SAT.*", "it clamps its result"),
        (r"H(ADD|MUL|FMA)2.*|F2FP.*|F2F.*", "arithmetic on a narrow float"),
    )
]
_UNKNOWN = "not among the instructions that are known to be exact"

_SECTION = re.compile(r"^\.text\.([\w$]+):$")
_SUBLABEL = re.compile(r"^\$__internal_\d+_\$(\w+):$")
_LINE = re.compile(r"^\s+/\*[0-9a-f]+\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")


@dataclass(frozen=True)
class Kernel:
    """A kernel's machine code with the functions that it calls, but without subroutines of the assembler.

    Attributes:
        name: of the kernel.
        listing: name and operands of all, in order.
        subroutines: those of the assembler that it contains.
    """

    name: str
    listing: tuple[tuple[str, str], ...] = field(repr=False)
    subroutines: frozenset[str]

    @property
    def numbers(self) -> Counter[str]:
        """How often each instruction occurs, modifiers included."""
        return Counter(name for name, _ in self.listing)


def parse(text: str) -> dict[str, Kernel]:
    """The kernels in what ``nvdisasm -c`` prints."""
    found: dict[str, Kernel] = {}
    name, subroutines, listing, inside = "", set[str](), list[tuple[str, str]](), False

    def close() -> None:
        if name:
            found[name] = Kernel(name, tuple(listing), frozenset(subroutines))

    for line in text.splitlines():
        if match := _SECTION.match(line):
            close()
            name, subroutines, listing, inside = match[1], set(), [], False
        elif match := _SUBLABEL.match(line):
            subroutines.add(match[1])
            inside = True
        elif line.startswith("$"):
            inside = False
        elif not inside and (match := _LINE.match(line)):
            listing.append((match[1], match[2]))
    close()
    return found


def problems(kernel: Kernel, ptx: Counts) -> Iterator[tuple[str, str]]:
    """Instruction and reason for everything in a kernel that is not known to be exact, or that its PTX does not explain."""
    for subroutine in sorted(kernel.subroutines):
        if not _SUBROUTINE.fullmatch(subroutine):
            yield f"CALL {subroutine}", "a subroutine that is not known to be exact"
    for (name, operands), _ in Counter(kernel.listing).items():
        reason = _reason(name, operands)
        if reason:
            yield f"{name} {operands}".strip(), reason
    numbers = kernel.numbers
    yield from _approximations(numbers, ptx)
    sequences = {"divisions": numbers["FCHK"], "roots": numbers["MUFU.RSQ"]}
    yield from disagreements(ptx, (replace(_arithmetic(numbers, "F"), **sequences), _arithmetic(numbers, "D")))


def _reason(name: str, operands: str) -> str:
    if name in ("S2R", "S2UR", "CS2R", "CS2R.32"):
        special = _SPECIAL.search(operands)
        return f"{special[0]} depends on time, or on where a block runs" if special else ""
    if _COPIES.fullmatch(name) and _CONSTANT.fullmatch(operands):
        return ""
    # Counted elsewhere: plain arithmetic, and the inside of divisions and roots.
    if any(pattern.fullmatch(name) for pattern in _ARITHMETIC.values()):
        return ""
    if name in (*_RECIPROCALS, "FCHK", "FMUL.FTZ", "F2I.FTZ.U32.TRUNC.NTZ", "F2F.F32.F64", "F2F.F64.F32"):
        return ""
    base, *modifiers = name.split(".")
    plain = _PLAIN.fullmatch(base) or _PLAIN.fullmatch(base.removeprefix("U"))
    if plain and not {"FTZ", "SAT"} & set(modifiers):
        return ""
    return next((reason for pattern, reason in _REASONS if pattern.fullmatch(name)), _UNKNOWN)


def _arithmetic(numbers: Counter[str], letter: str) -> Arithmetic:
    found = {}
    for kind, pattern in _ARITHMETIC.items():
        matches = ((pattern.fullmatch(name), count) for name, count in numbers.items())
        # A name that ends with 2 is two operations.
        found[kind] = sum(count * (2 if m[2] else 1) for m, count in matches if m and m[1] == letter)
    return Arithmetic(found["ADD"], found["MUL"], found["FMA"])


def _approximations(numbers: Counter[str], ptx: Counts) -> Iterator[tuple[str, str]]:
    """Approximate reciprocals and flushing products must belong to divisions and roots."""
    single, double = ptx
    integer = sum(count for name, count in numbers.items() if re.fullmatch(r"U?I2F\w*(\.\w+)*\.RP", name))
    checks = numbers["FCHK"]
    outside = "an approximation that belongs to no division or square root of the PTX"
    if numbers["MUFU.RCP"] > checks + integer:
        yield "MUFU.RCP", outside
    if checks < single.divisions:
        yield "FCHK", f"{checks} divisions, where the PTX has {single.divisions}"
    for name, reasons in (
        ("MUFU.RSQ", single.roots),
        ("MUFU.RCP64H", double.divisions + double.reciprocals),
        ("MUFU.RSQ64H", double.roots),
    ):
        if numbers[name] and not reasons:
            yield name, outside
    if numbers["FMUL.FTZ"] > 2 * numbers["MUFU.RSQ"]:
        yield "FMUL.FTZ", "it flushes subnormals to zero"
    if numbers["F2I.FTZ.U32.TRUNC.NTZ"] > integer:
        yield "F2I.FTZ.U32.TRUNC.NTZ", "it flushes subnormals to zero"
