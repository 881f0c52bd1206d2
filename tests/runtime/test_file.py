""".gtvm files: what is written comes back bit for bit, and every kind of damage is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InputError, InvalidFileError
from gensyn_tvm.runtime import file
from gensyn_tvm.runtime.file import MANIFEST, PARAMS, PROGRAM, Contents, Library, read_gtvm, write_gtvm

LIBRARY = Library("x86-64-v3", b"\x7fELF not really", ("avx2", "fma"), {"threads": 2, "schedule": "tiled"})


def small_graph() -> Graph:
    b = GraphBuilder("small")
    x = b.add_input("x", "input", TensorType((2, 3), "float32"))
    w = b.add_input("w", "parameter", TensorType((3, 4), "float32"))
    n = b.add_input("count", "buffer", TensorType((), "int64"))
    m = b.add_input("m.w", "optimizer", TensorType((3, 4), "float32"))
    b.add_output("y", b.emit("matmul", x, w))
    b.add_output("w", b.emit("add", w, m), updates=True)
    b.add_output("count", n, updates=True)
    return b.finish()


def small_arrays() -> dict[str, np.ndarray]:
    specials = [0x00000001, 0x807FFFFF, 0x7FC00001, 0xFFC00000, 0x7F800000, 0xFF800000, 0x80000000, 0, 1, 2, 3, 0x7F7FFFFF]
    return {
        "w": np.array(specials, np.uint32).view(np.float32).reshape(3, 4),
        "m.w": np.arange(12, dtype=np.float32).reshape(3, 4),
        "count": np.array(-7, np.int64),
    }


def assert_same(contents: Contents) -> None:
    assert contents.graph == small_graph()
    expected = small_arrays()
    assert set(contents.arrays) == set(expected)
    for name, array in expected.items():
        assert contents.arrays[name].dtype == array.dtype
        assert contents.arrays[name].shape == array.shape
        assert contents.arrays[name].tobytes() == array.tobytes()
    assert contents.libraries == {LIBRARY.target: LIBRARY}
    assert contents.manifest["extra"] == {"note": "test"}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gtvm") / "good.gtvm"
    write_gtvm(path, small_graph(), small_arrays(), {LIBRARY.target: LIBRARY}, {"note": "test"})
    return path.read_bytes()


def test_round_trip(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "model with a space.gtvm"
    path.write_bytes(good)
    assert_same(read_gtvm(path))
    assert_same(read_gtvm(str(path)))


def test_deflated_members_are_read_too(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "m.gtvm"
    path.write_bytes(rezip(members_of(good), zipfile.ZIP_DEFLATED))
    assert_same(read_gtvm(path))


def test_same_contents_give_the_same_bytes(tmp_path: Path, good: bytes) -> None:
    arrays = {n: np.array(a, order="F") for n, a in reversed(small_arrays().items())}
    arrays["m.w"] = arrays["m.w"].astype(">f4")
    write_gtvm(tmp_path / "again.gtvm", small_graph(), arrays, {LIBRARY.target: LIBRARY}, {"note": "test"})
    assert (tmp_path / "again.gtvm").read_bytes() == good


def test_program_without_libraries(tmp_path: Path) -> None:
    write_gtvm(tmp_path / "m.gtvm", small_graph(), small_arrays())
    assert read_gtvm(tmp_path / "m.gtvm").libraries == {}


# ---------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": None}, r"missing arrays \['w'\]"),
        ({"stranger": np.zeros(1, np.float32)}, r"unknown arrays \['stranger'\]"),
        ({"w": np.zeros((4, 3), np.float32)}, r"'w' is float32\[4, 3\]\n  expected: float32\[3, 4\]"),
        ({"w": np.zeros((3, 4), np.float64)}, r"'w' is float64"),
        ({"w": [1.0]}, "'w' is list"),
    ],
)
def test_arrays_must_match_the_graph(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {n: a for n, a in {**small_arrays(), **change}.items() if a is not None}
    with pytest.raises(InputError, match=message):
        write_gtvm(tmp_path / "m.gtvm", small_graph(), arrays)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["../evil", "a/b", "", ".hidden", "x y"])
def test_unusable_target_names_are_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(InputError, match="unusable target name"):
        write_gtvm(tmp_path / "m.gtvm", small_graph(), small_arrays(), {target: Library(target, b"")})


@pytest.mark.parametrize("extra", [{"x": float("nan")}, {"x": np.float32(1)}, {"x": b""}])
def test_extra_must_be_json(tmp_path: Path, extra: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="manifest must be JSON"):
        write_gtvm(tmp_path / "m.gtvm", small_graph(), small_arrays(), extra=extra)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "m.gtvm"
    path.write_bytes(good)

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        write_gtvm(path, small_graph(), small_arrays())
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["m.gtvm"]
    assert path.read_bytes() == good


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        write_gtvm(tmp_path / "m.gtvm", small_graph(), small_arrays())
    finally:
        os.umask(old)
    assert (tmp_path / "m.gtvm").stat().st_mode & 0o777 == 0o644


# ---------------------------------------------------------------------------------------------------------- damage


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rezip(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return buffer.getvalue()


def resealed(members: dict[str, bytes], change: Callable[[dict[str, Any]], object] | None = None) -> bytes:
    """Zip with sizes and digests made right again, so that only the damage itself is wrong; then change the manifest."""
    manifest = json.loads(members[MANIFEST])
    manifest["members"] = {
        n: {"sha256": hashlib.sha256(d).hexdigest(), "size": len(d)} for n, d in members.items() if n != MANIFEST
    }
    if change:
        change(manifest)
    return rezip({**members, MANIFEST: json.dumps(manifest).encode()})


def with_manifest(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda good: resealed(members_of(good), lambda m: m.update(changes))


def with_member(name: str, data: bytes | None, *, seal: bool = True) -> Callable[[bytes], bytes]:
    def damage(good: bytes) -> bytes:
        members = members_of(good)
        if data is None:
            del members[name]
        else:
            members[name] = data
        return resealed(members) if seal else rezip(members)

    return damage


def with_library(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda good: resealed(members_of(good), lambda m: m["libraries"][0].update(changes))


def with_program(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def damage(good: bytes) -> bytes:
        members = members_of(good)
        program = json.loads(members[PROGRAM])
        change(program)
        members[PROGRAM] = json.dumps(program).encode()
        return resealed(members)

    return damage


def with_arrays(**changes: np.ndarray | None) -> Callable[[bytes], bytes]:
    arrays = {n: a for n, a in {**small_arrays(), **changes}.items() if a is not None}
    return with_member(PARAMS, safetensors.numpy.save(arrays))


def duplicate_member(good: bytes) -> bytes:
    buffer = io.BytesIO(good)
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr(PROGRAM, b"{}")
    return buffer.getvalue()


def symlink_member(good: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members_of(good).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o120777 if name == PARAMS else 0o100644) << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def commented(good: bytes) -> bytes:
    buffer = io.BytesIO(good)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"hello"
    return buffer.getvalue()


def encrypted_flag(good: bytes) -> bytes:
    data = bytearray(good)
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def wrong_method(good: bytes) -> bytes:
    data = bytearray(good)
    data[data.index(b"PK\x01\x02") + 10] = zipfile.ZIP_LZMA
    return bytes(data)


def lying_size(good: bytes) -> bytes:
    """A manifest of 15 MiB, says the directory."""
    data = bytearray(good)
    name = data.rindex(MANIFEST.encode())
    struct.pack_into("<I", data, name - 46 + 24, 15 * 2**20)
    return bytes(data)


def bomb(good: bytes) -> bytes:
    members = members_of(good)
    members["lib/x86-64-v3.so"] = b"\0" * (8 * 2**20)
    return rezip(members, zipfile.ZIP_DEFLATED)


def safetensors_of_bfloat16(good: bytes) -> bytes:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]}}).encode()
    return with_member(PARAMS, struct.pack("<Q", len(header)) + header + b"\0" * 24)(good)


def deep_json(good: bytes) -> bytes:
    return with_member(MANIFEST, b"[" * 100_000 + b"]" * 100_000, seal=False)(good)


def twice_the_same_key(good: bytes) -> bytes:
    members = members_of(good)
    members[MANIFEST] = members[MANIFEST].replace(b'"format":', b'"format": "x", "format":', 1)
    return rezip(members)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty file": (lambda g: b"", "does not begin like a zip"),
    "not a zip": (lambda g: b"hello" * 100, "does not begin like a zip"),
    "text before the zip": (lambda g: b"#!/bin/sh\n" + g, "does not begin like a zip"),
    "cut in half": (lambda g: g[: len(g) // 2], "damaged or truncated"),
    "last byte missing": (lambda g: g[:-1], "damaged or truncated"),
    "zip of something else": (lambda g: rezip({"readme.txt": b"hi"}), "without manifest.json"),
    "zip comment": (commented, "comment"),
    "program missing": (with_member(PROGRAM, None, seal=False), r"missing members \['program.json'\]"),
    "program missing, manifest agrees": (with_member(PROGRAM, None), r"expected: members \['lib"),
    "parameters missing": (with_member(PARAMS, None, seal=False), "missing members"),
    "library missing": (with_member("lib/x86-64-v3.so", None, seal=False), "missing members"),
    "unknown member": (with_member("evil.py", b"", seal=False), r"unknown members \['evil.py'\]"),
    "unknown member, in the manifest": (with_member("evil.py", b""), "evil.py"),
    "duplicate member": (duplicate_member, "two members named 'program.json'"),
    "path traversal": (with_member("../../etc/passwd", b"", seal=False), "a member named '../../etc/passwd'"),
    "absolute path": (with_member("/etc/passwd", b"", seal=False), "a member named '/etc/passwd'"),
    "windows path": (with_member("C:evil", b"", seal=False), "a member named 'C:evil'"),
    "backslash": (with_member("lib\\evil.so", b"", seal=False), "a member named"),
    "folder": (with_member("lib/", b"", seal=False), "a member named 'lib/'"),
    "symlink": (symlink_member, "link or special file"),
    "encrypted": (encrypted_flag, "encrypted"),
    "unknown compression": (wrong_method, "compression method 14"),
    "directory lies about a size": (lying_size, "claims 15728640 bytes|shorter or longer|damaged"),
    "larger than the manifest says": (bomb, "as the manifest says"),
    "library changed": (with_member("lib/x86-64-v3.so", b"\x7fELF not realLy", seal=False), "another SHA-256"),
    "manifest not json": (with_member(MANIFEST, b"{", seal=False), "not valid JSON"),
    "manifest not utf-8": (with_member(MANIFEST, b'{"format": "\xff"}', seal=False), "not UTF-8"),
    "manifest a list": (with_member(MANIFEST, b"[]", seal=False), "another format"),
    "manifest with NaN": (with_member(MANIFEST, b'{"format": NaN}', seal=False), "NaN is not JSON"),
    "manifest nested deeply": (deep_json, "nested too deeply"),
    "key twice": (twice_the_same_key, "a key occurs twice"),
    "other format": (with_manifest(format="zip"), "another format"),
    "future format": (with_manifest(format_version=2), "format version 2"),
    "format version true": (with_manifest(format_version=True), "format version True"),
    "other numerics": (with_manifest(numerics="0.0"), "numerics version '0.0'"),
    "members a list": (with_manifest(members=[]), "members is list, not dict"),
    "unknown key": (with_manifest(pickle="gASV"), "keys"),
    "size negative": (with_manifest(members={PROGRAM: {"sha256": "0" * 64, "size": -1}}), "has size -1"),
    "size a float": (with_manifest(members={PROGRAM: {"sha256": "0" * 64, "size": 1.0}}), "has size 1.0"),
    "sha not hex": (with_manifest(members={PROGRAM: {"sha256": "x" * 64, "size": 1}}), "has no SHA-256"),
    "program digest not hex": (with_manifest(program_digest="abc"), "program_digest is not a SHA-256"),
    "other program digest": (with_manifest(program_digest="0" * 64), "as the manifest says"),
    "library outside lib": (with_library(path="../x86-64-v3.so"), "not 'lib/x86-64-v3.so'"),
    "library path absolute": (with_library(path="/lib/x86-64-v3.so"), "not 'lib/x86-64-v3.so'"),
    "library target with a slash": (with_library(target="../x"), "a library has target '../x'"),
    "library target a number": (with_library(target=3), "a library needs"),
    "library features a string": (with_library(features="avx2"), "not a list of strings"),
    "library options a list": (with_library(options=[]), "options that are not an object"),
    "library a string": (with_manifest(libraries=["x"]), "a library needs"),
    "library twice": (
        lambda g: resealed(members_of(g), lambda m: m["libraries"].append(m["libraries"][0])),
        "two libraries for one target",
    ),
    "program not json": (with_member(PROGRAM, b"{"), "not valid JSON"),
    "program not utf-8": (with_member(PROGRAM, b"\xff\xfe"), "program.json is not UTF-8"),
    "program nested deeply": (with_member(PROGRAM, b'{"a":' * 50_000 + b"1" + b"}" * 50_000), "not valid JSON|too deeply"),
    "program of other numerics": (with_program(lambda p: p.update(numerics="9")), "numerics version '9'"),
    "program with an unknown operator": (
        with_program(lambda p: p["nodes"][0].update(op="evil")),
        "unsupported operator 'evil'",
    ),
    "program with another shape": (with_program(lambda p: p["inputs"][0].update(shape=[5, 3])), "program that is not valid"),
    "parameters garbage": (with_member(PARAMS, b"\xff" * 64), "params.safetensors: no safetensors"),
    "parameters empty": (with_member(PARAMS, b""), "params.safetensors: no safetensors"),
    "parameters cut": (lambda g: with_member(PARAMS, members_of(g)[PARAMS][:-4])(g), "params.safetensors: no safetensors"),
    "array missing": (with_arrays(w=None), r"missing arrays \['w'\]"),
    "array unknown": (with_arrays(stranger=np.zeros(1, np.float32)), r"unknown arrays \['stranger'\]"),
    "array of another shape": (with_arrays(w=np.zeros((4, 3), np.float32)), r"F32\[4, 3\]"),
    "array of another dtype": (with_arrays(w=np.zeros((3, 4), np.int32)), r"I32\[3, 4\]"),
    "array of a foreign dtype": (safetensors_of_bfloat16, "params.safetensors"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused(tmp_path: Path, good: bytes, name: str) -> None:
    damage, message = DAMAGE[name]
    path = tmp_path / "damaged.gtvm"
    path.write_bytes(damage(good))
    with pytest.raises(InvalidFileError, match=message) as caught:
        read_gtvm(path)
    assert "not a valid .gtvm file" in str(caught.value)
    assert "damaged.gtvm" in str(caught.value)
    assert "what to do:" in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidFileError, match="No such file"):
        read_gtvm(tmp_path / "absent.gtvm")
    with pytest.raises(InvalidFileError, match="cannot be opened"):
        read_gtvm(tmp_path)


def test_resealing_alone_is_accepted(tmp_path: Path, good: bytes) -> None:
    """The damages above are refused for their own sake, not for how the test zips."""
    (tmp_path / "m.gtvm").write_bytes(resealed(members_of(good)))
    assert_same(read_gtvm(tmp_path / "m.gtvm"))


def test_no_flipped_byte_changes_what_is_read(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "m.gtvm"
    for offset in range(0, len(good), 16):
        damaged = bytearray(good)
        damaged[offset] ^= 1 << (offset // 16 % 8)
        path.write_bytes(damaged)
        try:
            contents = read_gtvm(path)
        except InvalidFileError:
            continue
        assert_same(contents)


def test_no_truncation_is_accepted(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "m.gtvm"
    for length in [*range(0, len(good), 29), len(good) - 1, len(good) - 22]:
        path.write_bytes(good[:length])
        with pytest.raises(InvalidFileError):
            read_gtvm(path)


def test_damage_is_found_before_anything_large_is_allocated(
    tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member larger than the manifest says is refused by its declared size: no byte of it is decompressed."""
    opened: list[str] = []
    original = file._bounded

    def spy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> bytes:
        opened.append(info.filename)
        return original(archive, info, where)

    monkeypatch.setattr(file, "_bounded", spy)
    (tmp_path / "bomb.gtvm").write_bytes(bomb(good))
    with pytest.raises(InvalidFileError, match="as the manifest says"):
        read_gtvm(tmp_path / "bomb.gtvm")
    assert opened == [MANIFEST]


def test_manifest_names_the_program(tmp_path: Path, good: bytes) -> None:
    (tmp_path / "m.gtvm").write_bytes(good)
    manifest = read_gtvm(tmp_path / "m.gtvm").manifest
    assert manifest["program_digest"] == serialise.digest(small_graph())
    assert manifest["created_by"].startswith("gensyn_tvm ")
