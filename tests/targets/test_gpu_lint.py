"""The lint of PTX and machine code: exact kernels pass, and whatever an attacker or a careless compiler does is named."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from gensyn_tvm.errors import ExactnessError, TargetError
from gensyn_tvm.targets import gpu_lint, nvcc
from gensyn_tvm.targets.gpu_lint import Finding, lint, require_exact, sass
from gensyn_tvm.targets.gpu_lint.source import fused

EXACT = """
static __device__ __noinline__ float helper(float a, float b) { return __fadd_rn(__fmul_rn(a, b), __fdiv_rn(a, b)); }
static __device__ float fuse(float a, float b) { return __fmaf_rn(a, b, a); }
extern "C" __global__ void __launch_bounds__(128) k(const float* x, const double* y, float* z, double* w, const int* q) {
  __shared__ float tile[128];
  int i = blockIdx.x * 128 + threadIdx.x;
  tile[threadIdx.x] = helper(x[i], x[i + 1]);
  __syncthreads();
  float v = __fadd_rn(tile[127 - threadIdx.x], __fsqrt_rn(x[i]));
  for (int d = 16; d; d >>= 1) v = __fadd_rn(v, __shfl_xor_sync(0xffffffffu, v, d));
  z[i] = fuse(v, __fdiv_rn(1.0f, x[i]));
  w[i] = __fma_rn(__ddiv_rn(y[i], y[i + 1]), __dsqrt_rn(y[i]), __ddiv_rn(1.0, y[i + 2]));
  w[i + 1] = (double)(long long)z[i] + (double)(q[i] / q[i + 1] + q[i + 2] % 7);
}
"""


def kernel(body: str, name: str = "k") -> str:
    """A kernel on x, y and z at i."""
    parameters = "const float* x, const float* y, float* z"
    place = "int i = blockIdx.x * 128 + threadIdx.x;"
    return f'extern "C" __global__ void __launch_bounds__(128) {name}({parameters}) {{ {place} {body} }}\n'


#: Name of a kernel: its body, and what PTX and machine code are refused for; empty where the machine code shows nothing.
ATTACKS: dict[str, tuple[str, str, str]] = {
    "fast_division": ("z[i] = __fdividef(x[i], y[i]);", "div.approx.f32", "MUFU.RCP"),
    "fast_exponential": ("z[i] = __expf(x[i]);", "ex2.approx.f32", "MUFU.EX2"),
    "fast_sine": ("z[i] = __sinf(x[i]);", "sin.approx.f32", "MUFU.SIN"),
    "fast_root": ("z[i] = rsqrtf(x[i]);", "rsqrt.approx.f32", "MUFU.RSQ"),
    "fast_tanh": ('asm("tanh.approx.f32 %0, %1;" : "=f"(z[i]) : "f"(x[i]));', "tanh.approx.f32", "MUFU.TANH"),
    "atomic_sum": ("atomicAdd(z, x[i]);", "atom.global.add.f32", "RED"),
    "atomic_sum_in_shared_memory": (
        "__shared__ float s; s = 0; __syncthreads(); atomicAdd(&s, x[i]); __syncthreads(); z[i] = s;",
        *("atom.shared.add.f32", "ATOMS"),
    ),
    "atomic_count": ("z[atomicAdd((int*)z, 1)] = x[i];", "atom.global.add.u32", "ATOMG"),
    "compare_and_swap": ("z[i] = atomicCAS((int*)z, 1, i);", "atom.global.cas.b32", "ATOMG"),
    "half_a_warp": ("z[i] = __shfl_down_sync(0xffffu, x[i], 1);", "shfl.sync.down.b32", ""),
    "active_lanes": ("z[i] = __shfl_xor_sync(__activemask(), x[i], 1);", "activemask.b32", ""),
    "vote": ("z[i] = __ballot_sync(0xffffffffu, x[i] > 0);", "vote.sync.ballot.b32", ""),
    "time": ("z[i] = clock64();", "mov.u64", "CS2R"),
    "multiprocessor": ('int n; asm("mov.u32 %0, %smid;" : "=r"(n)); z[i] = n;', "mov.u32", "S2"),
    "towards_zero": ("z[i] = __fadd_rz(x[i], y[i]);", "add.rz.f32", "FADD.RZ"),
    "clamping": ("z[i] = __saturatef(x[i]);", "cvt.sat.f32.f32", "FADD.SAT"),
    "half_precision": ("z[i] = __hadd(__float2half(x[i]), __float2half(y[i]));", "", "HADD2"),
    "other_blocks": ("z[0] = x[i]; __threadfence(); z[i] = *(volatile float*)(z + 1);", "membar.gl", "MEMBAR"),
    "printing": ('if (x[i] > 1) printf("x");', "call.uni", ""),
    "may_contract": (
        'float t; asm("mul.f32 %0, %1, %2;" : "=f"(t) : "f"(x[i]), "f"(y[i])); z[i] = __fadd_rn(t, 1.0f);',
        *("mul.f32", ""),
    ),
}
HEAD = "#include <cuda_fp16.h>\n#include <cstdio>\n"
ATTACK = HEAD + "".join(kernel(body, f"k_{name}") for name, (body, _, _) in ATTACKS.items())
SAMPLE = (75, 90, 120)


@cache
def exact() -> nvcc.Built:
    return nvcc.compile_cuda(EXACT)


def instructions(findings: list[Finding], code: str) -> list[str]:
    return [f.instruction for f in findings if f.code == code]


def test_exact_kernels_pass_on_all_architectures() -> None:
    assert lint(exact()) == []
    require_exact(exact())


@cache
def attacked() -> list[Finding]:
    return lint(nvcc.compile_cuda(ATTACK, [90]))


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused_with_kernel_and_instruction(name: str) -> None:
    _, in_ptx, in_sass = ATTACKS[name]
    mine = [f for f in attacked() if f.kernel == f"k_{name}"]
    assert any(i.startswith(in_ptx) for i in instructions(mine, "PTX"))
    if in_sass:
        assert any(i.startswith(in_sass) for i in instructions(mine, "sm_90"))


def test_the_error_names_kernel_and_instruction() -> None:
    with pytest.raises(ExactnessError, match=r"k \(PTX\): div\.approx\.f32 .*: an approximation\n(.|\n)*k \(sm_90\): MUFU"):
        require_exact(nvcc.compile_cuda(kernel("z[i] = __fdividef(x[i], y[i]);"), [90]))


def hostile(monkeypatch: pytest.MonkeyPatch, source: str, *flags: str) -> nvcc.Built:
    monkeypatch.setattr(nvcc, "ARITHMETIC_FLAGS", flags)
    built = nvcc.compile_cuda(source, SAMPLE)
    monkeypatch.undo()
    return built


PLAIN = kernel("z[i] = x[i] * y[i] + sqrtf(x[i]) / y[i];")


def test_fast_math_is_refused_in_ptx_and_in_the_code_(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = lint(hostile(monkeypatch, PLAIN, "--use_fast_math"))
    assert {i.split()[0] for i in instructions(findings, "PTX")} >= {
        "sqrt.approx.ftz.f32",
        "div.approx.ftz.f32",
        "fma.rn.ftz.f32",
    }
    for architecture in SAMPLE:
        names = {i.split()[0] for i in instructions(findings, f"sm_{architecture}")}
        assert "MUFU.RCP" in names or "MUFU.RSQ" in names, architecture
        assert "FFMA.FTZ" in names, architecture


def test_flushing_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = lint(hostile(monkeypatch, PLAIN, "-ftz=true", "-fmad=false"))
    assert "mul.rn.ftz.f32" in {i.split()[0] for i in instructions(findings, "PTX")}
    assert all(any("FTZ" in i for i in instructions(findings, f"sm_{a}")) for a in SAMPLE)


def test_contraction_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    built = hostile(monkeypatch, kernel("z[i] = x[i] * y[i] + x[i + 1];"), "-fmad=true")
    assert "fma.rn.f32" in built.ptx
    findings = lint(built)
    assert [(f.kernel, f.code, f.instruction) for f in findings] == [("k", "PTX", "fma.rn")]
    assert "contracted" in findings[0].reason


def test_contraction_by_the_assembler_is_seen_in_the_code_(monkeypatch: pytest.MonkeyPatch) -> None:
    source = kernel("z[i] = x[i] * y[i] + x[i + 1];")
    honest, contracted = nvcc.compile_cuda(source, SAMPLE), hostile(monkeypatch, source, "-fmad=true")
    findings = lint(replace(honest, cubins=contracted.cubins))
    for architecture in SAMPLE:
        assert instructions(findings, f"sm_{architecture}") == ["FADD", "FMUL", "FFMA"], architecture


def test_division_of_lower_precision_is_seen_without_the_ptx(monkeypatch: pytest.MonkeyPatch) -> None:
    source = kernel("z[i] = sqrtf(x[i]) / y[i];")
    honest, fast = nvcc.compile_cuda(source, SAMPLE), hostile(monkeypatch, source, "-prec-div=false", "-prec-sqrt=false")
    findings = lint(replace(honest, cubins=fast.cubins))
    for architecture in SAMPLE:
        assert {"MUFU.RCP", "FCHK"} <= {i.split()[0] for i in instructions(findings, f"sm_{architecture}")}, architecture


def test_matrix_instructions_in_tf32_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvcc, "ARCHITECTURES", (80, 90, 120))
    instruction = "mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32"
    body = f"""unsigned a = __float_as_uint(x[i]), b = __float_as_uint(y[i]); float c = 0, d = 0, e = 0, f = 0;
    asm volatile("{instruction} {{%0, %1, %2, %3}}, {{%4, %4}}, {{%5}}, {{%0, %1, %2, %3}};"
    : "+f"(c), "+f"(d), "+f"(e), "+f"(f) : "r"(a), "r"(b)); z[i] = c;"""
    findings = lint(nvcc.compile_cuda(kernel(body), (80, 90, 120)))
    assert instructions(findings, "PTX")[0].startswith(instruction)
    assert all(instructions(findings, f"sm_{a}")[0].startswith("HMMA") for a in (80, 90, 120))
    assert {f.reason for f in findings if f.instruction.startswith(("mma", "HMMA"))} == {
        "a matrix instruction: its sums are of an order and precision that nobody states"
    }


def test_code_that_belongs_to_other_ptx_is_refused() -> None:
    other = nvcc.compile_cuda(EXACT.replace("void __launch_bounds__(128) k(", "void __launch_bounds__(128) other("), [90])
    found = lint(replace(exact(), cubins=other.cubins))
    assert [(f.kernel, f.reason) for f in found] == [
        ("other", "a kernel that is not in the PTX"), ("k", "the kernel has no machine code")
    ]  # fmt: skip


def test_instructions_that_nobody_knows_are_refused() -> None:
    listing = (
        ".text.k:\n        /*0000*/                   FNEW R1, R2 ;\n        /*0010*/              @P0 MUFU.COS R1, R2 ;\n"
    )
    (found,) = sass.parse(listing).values()
    none = (gpu_lint.ptx.Arithmetic(), gpu_lint.ptx.Arithmetic())
    assert list(sass.problems(found, none)) == [
        ("FNEW R1, R2", "not among the instructions that are known to be exact"),
        ("MUFU.COS R1, R2", "an approximation"),
    ]


def test_functions_of_the_source_that_fuse_are_found_through_calls() -> None:
    assert fused(EXACT) == {"fuse", "k"}
    assert fused('// fmaf(1, 2, 3)\nextern "C" __global__ void k(float* z) { z[0] = 1; }') == set()


def test_a_missing_disassembler_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_lint.find_disassembler.cache_clear()
    monkeypatch.setattr(nvcc, "package_folders", lambda: iter(()))
    with pytest.raises(TargetError, match="pip install nvidia-cuda-nvdisasm"):
        gpu_lint.find_disassembler()


def test_a_file_that_is_no_machine_code_is_an_error() -> None:
    with pytest.raises(TargetError, match="nvdisasm cannot read"):
        gpu_lint.disassemble(b"nothing")
