"""Reading the processor's features."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gensyn_tvm.runtime.cpu import (
    COMMON_WAYS,
    TARGET_LEVELS,
    X86_64_LEVELS,
    core_count,
    cpu_features,
    first_level_ways,
    processor_maker,
    required_features,
    supported_levels,
)

V3 = required_features("x86-64-v3")
V4 = required_features("x86-64-v4")


@pytest.mark.parametrize(
    ("features", "levels"),
    [
        (frozenset(), ("x86-64",)),
        (V3 - {"fma"}, ("x86-64",)),
        (V3, ("x86-64", "x86-64-v3")),
        (V4, ("x86-64", "x86-64-v3", "x86-64-v4")),
        (V4 - {"avx512dq"}, ("x86-64", "x86-64-v3")),
        (V4 - {"avx2"}, ("x86-64",)),
        (V4 - {"popcnt"}, ("x86-64",)),
    ],
)
def test_levels_follow_the_flags(features: frozenset[str], levels: tuple[str, ...]) -> None:
    assert supported_levels(features, "x86_64") == levels


def test_no_levels_elsewhere() -> None:
    assert supported_levels(V4, "aarch64") == ()


def test_features_are_those_that_every_core_has(tmp_path: Path) -> None:
    x86 = tmp_path / "x86"
    x86.write_text("processor\t: 0\nflags\t\t: fpu sse2 avx2\nvmx flags\t: ept\n\nprocessor\t: 1\nflags\t\t: fpu sse2\n")
    assert cpu_features(x86) == {"fpu", "sse2"}
    arm = tmp_path / "arm"
    arm.write_text("processor\t: 0\nFeatures\t: fp asimd fphp\n")
    assert cpu_features(arm) == {"fp", "asimd", "fphp"}


def test_unknown_system_has_no_features(tmp_path: Path) -> None:
    assert cpu_features(tmp_path / "absent") == frozenset()
    (tmp_path / "empty").write_text("")
    assert cpu_features(tmp_path / "empty") == frozenset()


@pytest.mark.parametrize(("vendor", "maker"), [("GenuineIntel", "intel"), ("AuthenticAMD", "amd"), ("HygonGenuine", "")])
def test_makers(vendor: str, maker: str, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: x\n")
    assert processor_maker(path) == maker
    path.write_text("processor\t: 0\n")
    assert processor_maker(path) == processor_maker(tmp_path / "absent") == ""


def test_ways_are_those_of_the_first_level_data_cache(tmp_path: Path) -> None:
    assert first_level_ways(tmp_path) == COMMON_WAYS
    for number, (level, kind, ways) in enumerate([("1", "Instruction", "4"), ("1", "Data", "12"), ("2", "Unified", "16")]):
        index = tmp_path / f"index{number}"
        index.mkdir()
        for name, text in (("level", level), ("type", kind), ("ways_of_associativity", ways)):
            (index / name).write_text(text + "\n")
    assert first_level_ways(tmp_path) == 12
    (tmp_path / "index1" / "ways_of_associativity").write_text("many\n")
    assert first_level_ways(tmp_path) == COMMON_WAYS


def test_this_machine() -> None:
    assert set(supported_levels()) <= set(TARGET_LEVELS)
    assert 1 <= core_count() <= (os.cpu_count() or 1)


def test_required_features_accumulate() -> None:
    assert required_features("x86-64") == frozenset()
    assert X86_64_LEVELS["x86-64-v2"] < V3 < V4
    with pytest.raises(KeyError):
        required_features("x86-64-v9")


def test_core_count_respects_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert core_count() == 1
