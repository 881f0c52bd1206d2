"""PTX: every instruction must be one that is known to be exact; what is not known is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from gensyn_tvm.targets.gpu_lint.arithmetic import Arithmetic, Counts

_F = r"\.f(32|64)"
_I = r"\.[sub](8|16|32|64)"
_SPACE = r"(\.(global|shared|local|param|const|shared::cta))?"
_CACHE = r"(\.(nc|ca|cg|cs|lu|wb|wt|L1::\w+|L2::\w+))*"
_COMPARED = r"(eq|ne|lt|le|gt|ge|lo|ls|hi|hs|equ|neu|ltu|leu|gtu|geu|num|nan)"
#: Instructions that may occur. On floats: one rounding, to nearest even, subnormals kept, never to be contracted (``.rn`` says
#: so); or no rounding at all.
_EXACT = [
    re.compile(text)
    for text in (
        rf"(add|sub|mul|fma|div|sqrt)\.rn{_F}",
        r"rcp\.rn\.f(32|64)",
        rf"(min|max|abs|neg|copysign){_F}",
        rf"setp\.{_COMPARED}(\.(and|or|xor))?({_F}|{_I})",
        rf"selp({_F}|{_I})",
        rf"mov({_F}|{_I}|\.pred|\.b128)",
        rf"(ld|st){_SPACE}{_CACHE}(\.v[248])?({_F}|{_I})",
        r"cvt\.f64\.f32",
        rf"cvt\.(rn|rz|rm|rp){_F}({_F}|{_I})",
        rf"cvt\.(rni|rzi|rmi|rpi)({_F}|{_I}){_F}",
        rf"cvt(\.sat)?{_I}{_I}",
        rf"(add|sub|mul|mad)(\.(lo|hi|wide))?(\.sat)?(\.cc)?{_I}",
        rf"(addc|subc|madc)(\.(lo|hi))?(\.cc)?{_I}",
        rf"(mul24|mad24)\.(lo|hi){_I}",
        rf"(div|rem|abs|neg|min|max|sad|popc|clz|brev|bfi|bfe|prmt|cnot){_I}",
        rf"bfind(\.shiftamt)?{_I}",
        r"(and|or|xor|not)(\.[b](16|32|64)|\.pred)",
        rf"(shl|shr){_I}",
        r"shf\.[lr]\.(clamp|wrap)\.b32",
        r"lop3\.b32",
        r"dp[24]a(\.(lo|hi))?\.[su]32\.[su]32",
        r"cvta(\.to)?\.(global|shared|local|param|const)\.u64",
        r"(bar|barrier)(\.cta)?\.sync(\.aligned)?|bar\.warp\.sync",
        r"shfl\.sync\.(up|down|bfly|idx)\.b32",
        r"bra(\.uni)?|brx\.idx(\.uni)?|call(\.uni)?|ret(\.uni)?|exit|trap",
    )
]
#: Why others are refused, where there is more to say than that they are unknown; the first that fits.
_REASONS = [
    (re.compile(text), reason)
    for text, reason in (
        (r"(atom|red)\b.*", "an atomic: its order is not fixed"),
        (r".*(mma|tcgen05|wgmma).*", "a matrix instruction: its sums are of an order and precision that nobody states"),
        (r".*\.ftz.*", "it flushes subnormals to zero"),
        (r".*\.(approx|full).*", "an approximation"),
        (r".*\.sat\.f.*", "it clamps its result"),
        (r"(add|sub|mul|fma|mad)(\.(rz|rm|rp))?\.f.*", "no rounding to nearest that the assembler must keep (.rn)"),
        (r".*\.(f16|bf16|tf32|e4m3|e5m2|f16x2|bf16x2|e4m3x2|f32x2)\b.*", "arithmetic on a narrow or packed float"),
        (r"(vote|match|activemask|elect|redux)\b.*", "its result depends on which lanes take part"),
        (r"shfl\b.*", "a shuffle of whichever lanes are there; expected shfl.sync of a whole warp"),
        (
            r"(membar|fence)\b.*|(ld|st)\.(volatile|relaxed|acquire|release|weak|mmio).*",
            "it talks to other blocks, in no fixed order",
        ),
        (r"cp\.reduce.*|multimem.*", "a reduction in memory: its order is not fixed"),
    )
]
_UNKNOWN = "not among the instructions that are known to be exact"
#: Registers that do not depend on time, or on where a block happens to run.
_SPECIAL = re.compile(r"%(tid|ntid|ctaid|nctaid)\.[xyz]|%laneid|%warpsize|%envreg\d+")
_ALL_LANES = ("-1", "4294967295", "0xffffffff")

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_FUNCTION = re.compile(r"^\s*(?:\.visible|\.weak|\.extern)?\s*\.(entry|func)\b([^{;]*)", re.MULTILINE)
_NAME = re.compile(r"(?:\([^()]*\)\s*)?([\w$]+)\s*\(?")
_STATEMENT = re.compile(r"(?:@!?%\w+\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Statement:
    """An instruction with its operands as text."""

    instruction: str
    operands: str

    def __str__(self) -> str:
        return f"{self.instruction} {self.operands}".strip()


@dataclass(frozen=True)
class Function:
    """A kernel, or a function that kernels call.

    Attributes:
        name: of the function.
        is_kernel: whether it can be launched.
        statements: its instructions in order.
        registers: prefixes of the registers that it declares.
    """

    name: str
    is_kernel: bool
    statements: tuple[Statement, ...] = field(repr=False)
    registers: frozenset[str] = field(repr=False)


def parse(text: str) -> dict[str, Function]:
    """All functions of a PTX module that have a body, by name."""
    text = _COMMENT.sub(" ", text)
    found: dict[str, Function] = {}
    for match in _FUNCTION.finditer(text):
        start = match.end()
        name = _NAME.match(match[2].strip())
        if name is None or text[start : start + 1] != "{":
            continue
        body = text[start : _closing(text, start)]
        registers = frozenset(re.findall(r"\.reg\s+\.\w+\s+(%\w+?)(?:<\d+>|\d*)\s*;", body))
        found[name[1]] = Function(name[1], match[1] == "entry", tuple(_statements(body)), registers)
    return found


def _closing(text: str, start: int) -> int:
    depth = 0
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return start + brace.start()
    return len(text)


def _statements(body: str) -> Iterator[Statement]:
    # Operands in braces are vectors; all other braces are scopes.
    body = re.sub(r"\{([\s%\w,.-]*)\}", r"<\1>", body[1:])
    for part in re.split(r"[;{}]", body):
        part = re.sub(r"^\s*(?:[$\w]+:\s*)+", "", part).strip()
        match = _STATEMENT.fullmatch(part)
        if match and not part.startswith("."):
            yield Statement(match[1], re.sub(r"\s+", " ", match[2]))


def problems(functions: dict[str, Function], function: Function) -> Iterator[tuple[str, str]]:
    """Instruction and reason for everything in a function that is not known to be exact."""
    constants = dict(re.findall(r"(%\w+), (-?\w+)", "\n".join(s.operands for s in function.statements if _moves(s))))
    for statement in function.statements:
        reason = _reason(statement, functions, constants)
        if reason:
            yield str(statement), reason
        for special in re.findall(r"%[a-z_]\w*(?:\.[xyz])?", statement.operands):
            if not _SPECIAL.fullmatch(special) and special.rstrip("0123456789") not in function.registers:
                yield str(statement), f"{special} depends on time, or on where a block runs"


def _moves(statement: Statement) -> bool:
    return bool(re.fullmatch(r"mov\.[sub]32", statement.instruction))


def _reason(statement: Statement, functions: dict[str, Function], constants: dict[str, str]) -> str:
    name = statement.instruction
    if not any(pattern.fullmatch(name) for pattern in _EXACT):
        return next((reason for pattern, reason in _REASONS if pattern.fullmatch(name)), _UNKNOWN)
    if name.startswith("shfl"):
        mask = statement.operands.split(",")[-1].strip()
        if constants.get(mask, mask) not in _ALL_LANES:
            return "a shuffle of a part of a warp, or of lanes that only the run knows; expected all 32"
    if name.startswith("call"):
        callee = called(statement)
        if callee not in functions:
            return f"it calls {callee or 'whatever a register points to'}, which is not in this program"
    return ""


def called(statement: Statement) -> str:
    """The function that a call names."""
    match = re.match(r"(?:\([^()]*\)\s*,\s*)?([A-Za-z_$][\w$]*)", statement.operands)
    return match[1] if match else ""


def counts(functions: dict[str, Function], function: Function, _above: tuple[str, ...] = ()) -> Counts:
    """Arithmetic of a function and, once each, of those that it calls."""
    single, double = (_arithmetic(function, bits) for bits in (32, 64))
    callees = {called(s) for s in function.statements if s.instruction.startswith("call")}
    for name in sorted(callees & set(functions) - {*_above, function.name}):
        more = counts(functions, functions[name], (*_above, function.name))
        single, double = single + more[0], double + more[1]
    return single, double


def _arithmetic(function: Function, bits: int) -> Arithmetic:
    names = [s.instruction for s in function.statements if s.instruction.endswith(f".f{bits}")]
    kinds = [name.split(".")[0] for name in names if ".rn." in name]
    return Arithmetic(kinds.count("add") + kinds.count("sub"), *(kinds.count(k) for k in ("mul", "fma", "div", "sqrt", "rcp")))
