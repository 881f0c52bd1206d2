"""The build cache: equal programs are built once, anything that decides on the code is another entry, damage is noticed."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gensyn_tvm.compiler
from gensyn_tvm import build_cache
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.cli import main
from gensyn_tvm.compiler import compile
from gensyn_tvm.errors import InputError, ScheduleError
from gensyn_tvm.targets.cpu import TARGETS, resolve_target

X = np.linspace(-2, 2, 35, dtype=np.float32).reshape(5, 7)


def network(op: str = "exp") -> Graph:
    b = GraphBuilder("cached")
    x = b.add_input("x", "input", TensorType((5, 7), "float32"))
    b.add_output("y", b.emit(op, x))
    return b.finish()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(build_cache.FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that were built, not read."""
    real, seen = gensyn_tvm.compiler.build_library, []

    def build(graph: Graph, *arguments: Any) -> bytes:
        seen.append(graph)
        return real(graph, *arguments)

    monkeypatch.setattr(gensyn_tvm.compiler, "build_library", build)
    return seen


def test_an_equal_program_is_built_once(folder: Path, builds: list[Any]) -> None:
    first = compile(network())(X)
    second = compile(network())(X)
    assert len(builds) == 1
    assert np.array_equal(first.view("u4"), second.view("u4"))
    assert len(list(folder.iterdir())) == 1


def test_what_decides_on_the_code_is_another_entry(folder: Path, builds: list[Any]) -> None:
    compile(network())
    compile(network("tanh"))
    compile(network(), "x86-64")
    compile(network(), schedule="plain")
    assert len(builds) == len(list(folder.iterdir())) == 4


def test_recomputation_and_sources_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS["x86-64"]
    before = build_cache.key(network(), target, "fast", ())
    assert build_cache.key(network(), target, "fast", (2,)) != before
    monkeypatch.setattr(build_cache, "sources_digest", lambda: "changed")
    assert build_cache.key(network(), target, "fast", ()) != before


def test_a_damaged_entry_is_built_again(folder: Path, builds: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    compile(network())
    (entry,) = folder.iterdir()
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.write_bytes(bytes(data))
    compile(network())
    assert len(builds) == 2
    assert "damaged" in caplog.text
    entry.write_bytes(b"")
    compile(network())
    compile(network())
    assert len(builds) == 3


def test_warnings_are_repeated(
    folder: Path, builds: list[Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that the verifier cannot follow is slow for those too who find it in the cache."""

    def refuse(name: str, function: Any, variant: Any) -> None:
        raise ScheduleError("cannot follow it")

    with monkeypatch.context() as patched:
        patched.setattr("gensyn_tvm.passes.pipeline.check_order", refuse)
        for count in (1, 2, 3):
            exe = compile(network())
            assert len(builds) == 1
            assert caplog.text.count("runs with a simpler schedule: cannot follow it") == count
            assert len(exe.warnings) == 1 and "'fused_exp" in exe.warnings[0]
    caplog.clear()
    with build_cache.fresh_builds():
        assert compile(network()).warnings == ()
    assert not caplog.text


def test_an_entry_of_another_program_is_not_taken(folder: Path, builds: list[Any]) -> None:
    compile(network())
    (entry,) = folder.iterdir()
    os.replace(entry, folder / (build_cache.key(network("tanh"), resolve_target("native"), "fast", ()) + entry.suffix))
    assert not np.array_equal(compile(network("tanh"))(X), compile(network("exp"))(X))
    assert len(builds) == 3


def test_fresh_builds(folder: Path, builds: list[Any]) -> None:
    compile(network())
    with build_cache.fresh_builds():
        compile(network())
    compile(network())
    assert len(builds) == 2


def test_off_and_the_oracle(folder: Path, builds: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    compile(network(), "c")
    assert not folder.exists()
    monkeypatch.setenv(build_cache.FOLDER, "off")
    compile(network())
    compile(network())
    assert len(builds) == 3
    assert not folder.exists()


def test_what_was_used_longest_ago_goes_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, op in enumerate(("exp", "tanh", "sin")):
        compile(network(op))
        for path, _ in build_cache.entries(folder)[-1:]:
            os.utime(path, ns=(age + 1, age + 1))
    oldest, _, newest = [path for path, _ in build_cache.entries(folder)]
    sizes = [size for _, size in build_cache.entries(folder)]
    monkeypatch.setenv(build_cache.LIMIT, str(sum(sizes) + 1000))
    compile(network("cos"))
    kept = [path for path, _ in build_cache.entries(folder)]
    assert oldest not in kept
    assert newest in kept
    assert kept[-1] != newest
    monkeypatch.setenv(build_cache.LIMIT, "many")
    with pytest.raises(InputError, match="a number of bytes"):
        compile(network("log"))


def test_a_folder_that_cannot_be_written_costs_no_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(build_cache.FOLDER, str(tmp_path / "file"))
    assert np.asarray(compile(network())(X)).size == 35


def _compile_in_process(_: int) -> bytes:
    return compile(network())(X).tobytes()


def test_several_processes_write_at_once(folder: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(_compile_in_process, range(2))
    assert len(set(found)) == 1
    assert [p.suffix for p in folder.iterdir()] == [".library"]


def test_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compile(network())
    assert main(["cache", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["folder"] == str(folder)
    assert shown["libraries"] == 1
    assert shown["bytes"] > 1000
    assert main(["cache", "--clear"]) == 0
    assert "0" in capsys.readouterr().out
    assert not list(folder.iterdir())
