from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from gensyn_tvm.errors import TargetError
from gensyn_tvm.targets import nvcc

SOURCE = """
extern "C" __global__ void __launch_bounds__(128) muladd(const float* x, const float* y, float* z) {
  __shared__ float tile[128];
  int i = blockIdx.x * 128 + threadIdx.x;
  tile[threadIdx.x] = x[i] * y[i];
  __syncthreads();
  z[i] = tile[127 - threadIdx.x] * x[i] + y[i];
}
extern "C" __global__ void __launch_bounds__(128) quotient(const float* x, const float* y, float* z) {
  int i = blockIdx.x * 128 + threadIdx.x;
  z[i] = sqrtf(x[i]) / y[i];
}
"""


@pytest.fixture(scope="module")
def toolkit() -> nvcc.Toolkit:
    return nvcc.find_toolkit()


@pytest.fixture(scope="module")
def built(toolkit: nvcc.Toolkit) -> nvcc.Built:
    return nvcc.compile_cuda(SOURCE, toolkit=toolkit)


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def bare_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A machine with no toolkit but what is in ``folder``."""
    monkeypatch.setattr(nvcc, "_candidates", lambda: iter([folder]))


def test_a_fat_binary_has_code_for_seven_architectures_and_its_ptx(built: nvcc.Built) -> None:
    assert list(built.cubins) == [75, 80, 86, 89, 90, 100, 120]
    assert all(cubin.startswith(b"\x7fELF") for cubin in built.cubins.values())
    assert built.fatbin[:4] == (0xBA55ED50).to_bytes(4, "little")
    assert sum(built.fatbin.count(cubin) for cubin in built.cubins.values()) == 7
    assert ".target sm_75" in built.ptx


def test_nothing_is_contracted_flushed_or_approximated(built: nvcc.Built) -> None:
    assert re.findall(r"(?:mul|add|fma|mad|sqrt|div)\S*\.f32", built.ptx) == [
        *("mul.rn.f32", "mul.rn.f32", "add.rn.f32"), *("sqrt.rn.f32", "div.rn.f32")
    ]  # fmt: skip


def test_the_same_source_gives_the_same_bytes_whatever_the_environment_says(
    built: nvcc.Built, toolkit: nvcc.Toolkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "--use_fast_math")
    monkeypatch.setenv("NVCC_PREPEND_FLAGS", "--fmad=true")
    again = nvcc.compile_cuda(SOURCE, toolkit=toolkit, jobs=1)
    assert (again.ptx, again.fatbin) == (built.ptx, built.fatbin)


def test_resources_are_reported_for_each_kernel(built: nvcc.Built) -> None:
    for kernels in built.resources.values():
        assert set(kernels) == {"muladd", "quotient"}
        assert kernels["muladd"].shared == 512
        assert 8 <= kernels["quotient"].registers <= 64
        assert kernels["quotient"].spill_stores == 0


def test_spills_are_read_from_the_report() -> None:
    report = """ptxas info    : Compiling entry function 'k' for 'sm_90'
ptxas info    : Function properties for k
    104 bytes stack frame, 96 bytes spill stores, 92 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 104 bytes cumulative stack size, 2048 bytes smem"""
    assert nvcc.parse_resources(report) == {"k": nvcc.Resources(32, 2048, 104, 96, 92)}


def test_only_the_architectures_asked_for_are_built(toolkit: nvcc.Toolkit) -> None:
    assert list(nvcc.compile_cuda(SOURCE, [90], toolkit=toolkit).cubins) == [90]


@pytest.mark.parametrize(("architectures", "found"), [([70, 90], "sm_70"), ([], "none")])
def test_unknown_architectures_are_refused(toolkit: nvcc.Toolkit, architectures: list[int], found: str) -> None:
    with pytest.raises(TargetError, match=rf"found: {found}\n  expected: sm_75, .*sm_120"):
        nvcc.compile_cuda(SOURCE, architectures, toolkit=toolkit)


def test_errors_of_the_compiler_are_shown(toolkit: nvcc.Toolkit) -> None:
    with pytest.raises(TargetError, match=r'nvcc could not compile(.|\n)*program.cu\(1\): error: .*"nonsense" is undefined'):
        nvcc.compile_cuda('extern "C" __global__ void k(float* z) { z[0] = nonsense; }', toolkit=toolkit)


def test_a_machine_without_a_toolkit_hears_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare_machine(monkeypatch, tmp_path)
    with pytest.raises(TargetError, match=r"no CUDA compiler(.|\n)*pip install 'gensyn_tvm\[cuda\]'"):
        nvcc.find_toolkit()


@pytest.mark.parametrize("release", ["12.4", "14.0"])
def test_releases_that_are_too_old_or_unknown_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str
) -> None:
    program(tmp_path, "nvcc", f"echo 'Cuda compilation tools, release {release}, V{release}.1'")
    bare_machine(monkeypatch, tmp_path)
    with pytest.raises(TargetError, match=rf"CUDA {release} cannot be used(.|\n)*12.8 or newer"):
        nvcc.find_toolkit()


def test_a_toolkit_without_its_assembler_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program(tmp_path, "nvcc", "echo 'release 13.0, V13.0.1'")
    bare_machine(monkeypatch, tmp_path)
    with pytest.raises(TargetError, match=r"incomplete\n  found: no ptxas, fatbinary in"):
        nvcc.find_toolkit()


def test_an_nvcc_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nvcc").write_text("", encoding="ascii")
    bare_machine(monkeypatch, tmp_path)
    with pytest.raises(TargetError, match="nvcc cannot be started"):
        nvcc.find_toolkit()


def test_a_missing_host_compiler_is_named(toolkit: nvcc.Toolkit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TargetError, match="apt-get install gcc"):
        nvcc.compile_cuda(SOURCE, [90], toolkit=toolkit)


def test_cuda_home_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toolkit: nvcc.Toolkit) -> None:
    (tmp_path / "bin").mkdir()
    program(tmp_path / "bin", "nvcc", f'echo "#\\$ _HERE_={toolkit.folder}"; echo "release 13.1, V13.1.1"')
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert nvcc.find_toolkit() == nvcc.Toolkit(toolkit.folder, (13, 1))


def test_packages_of_pypi_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nvidia" / "cu13" / "bin").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert tmp_path / "nvidia" / "cu13" / "bin" in list(nvcc.package_folders())
    monkeypatch.setenv("PATH", os.pathsep)
    assert tmp_path / "nvidia" / "cu13" / "bin" in list(nvcc._candidates())


def test_tvm_cannot_compile_at_launch() -> None:
    import tvm_ffi

    nvcc.refuse_launch_compile()
    callback = tvm_ffi.get_global_func("tvm_callback_cuda_compile")
    with pytest.raises(RuntimeError, match=r"--use_fast_math(.|\n)*target='cuda'"):
        callback('extern "C" __global__ void k() {}')
