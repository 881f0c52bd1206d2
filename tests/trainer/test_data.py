"""Order of samples, sources, and what they refuse."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.errors import CheckpointError, InputError
from gensyn_tvm.runtime.executable import Executable
from gensyn_tvm.trainer.batches import batch_size, named_batch
from gensyn_tvm.trainer.data import Arrays, IndexedBatches, Samples, StreamBatches, Tokens, batches_of, epoch_order

_MASK = 2**64 - 1


def philox_words(key: tuple[int, int], count: int) -> list[int]:
    """Philox4x64-10 in Python integers, from the paper; counters 1, 2, …"""
    words: list[int] = []
    block = 0
    while len(words) < count:
        block += 1
        x, k = [block, 0, 0, 0], list(key)
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
            x = [(b >> 64) ^ x[1] ^ k[0], b & _MASK, (a >> 64) ^ x[3] ^ k[1], a & _MASK]
            k = [(k[0] + 0x9E3779B97F4A7C15) & _MASK, (k[1] + 0xBB67AE8584CAA73B) & _MASK]
        words += x
    return words[:count]


@pytest.mark.parametrize(("count", "seed", "epoch"), [(1, 0, 0), (7, 0, 1), (22, 5, 3), (101, -1, 2), (64, 2**63 - 1, 10**6)])
def test_order_is_that_of_philox_words(count: int, seed: int, epoch: int) -> None:
    words = philox_words((seed % 2**64, epoch), count)
    assert epoch_order(count, seed, epoch).tolist() == sorted(range(count), key=lambda i: (words[i], i))


def test_every_epoch_visits_every_sample_once_and_batches_are_found_by_number(data: dict[str, np.ndarray]) -> None:
    batches = IndexedBatches(Arrays(data), 4, seed=3)
    assert (batches.per_epoch, batches.total(3)) == (5, 15)
    seen = [np.concatenate([batches.indices(5 * epoch + k) for k in range(5)]) for epoch in (0, 1)]
    assert all(len(set(s.tolist())) == 20 and s.max() < 22 for s in seen)
    assert seen[0].tolist() != seen[1].tolist()
    _, batch = next(enumerate(batches.start(7)))
    assert isinstance(batch, dict)
    np.testing.assert_array_equal(batch["x"], data["x"][seen[1][8:12]])
    np.testing.assert_array_equal(batch["y"], data["y"][seen[1][8:12]])
    plain = IndexedBatches(Arrays(data), 4, seed=3, shuffle=False)
    assert plain.indices(6).tolist() == [4, 5, 6, 7]


def test_arrays_from_files(tmp_path: Path, data: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "d.npz", allow_pickle=False, x=data["x"], y=data["y"])
    safetensors.numpy.save_file(data, tmp_path / "d.safetensors")
    for name, array in data.items():
        np.save(tmp_path / f"{name}.npy", array)
    loaded = [Arrays.load(tmp_path / "d.npz"), Arrays.load(tmp_path / "d.safetensors")]
    mapped = Arrays.load({name: tmp_path / f"{name}.npy" for name in data})
    assert all(isinstance(a, np.memmap) for a in mapped.arrays.values())
    for source in (*loaded, mapped):
        assert len(source) == 22
        assert source.digest() == Arrays(data).digest()
    assert Arrays({**data, "y": data["y"] + 1}).digest() != Arrays(data).digest()
    assert Arrays({"x": data["x"].astype(ml_dtypes.bfloat16)}).digest() != Arrays({"x": data["x"]}).digest()


@pytest.mark.parametrize("kind", ["npy", "raw", "array"])
def test_tokens(tmp_path: Path, kind: str) -> None:
    tokens = np.arange(100, 135, dtype=np.uint16)
    path: Any = tmp_path / ("t.npy" if kind == "npy" else "t.bin")
    np.save(path, tokens) if kind == "npy" else tokens.astype("<u2").tofile(path)
    source = Tokens(tokens if kind == "array" else path, 8, stride=5, stop=30)
    assert len(source) == 5  # windows of nine tokens begin at 0, 5, 10, 15, 20; one at 25 would need 34 tokens
    batch = source.batch(np.array([4, 1]))
    assert batch["x"].dtype == batch["y"].dtype == np.int64
    assert batch["x"].tolist() == [list(range(120, 128)), list(range(105, 113))]
    np.testing.assert_array_equal(batch["y"], batch["x"] + 1)
    assert source.digest() == Tokens(tokens, 8, stride=5, stop=30).digest()
    assert source.digest() != Tokens(tokens, 8, stride=4, stop=30).digest()


class Pairs:
    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.full((2,), float(i)), i


def test_data_sets_are_stacked(exe: Executable) -> None:
    assert isinstance(batches_of(Pairs(), lambda: batch_size(exe.graph), 0), IndexedBatches)
    batch = Samples(Pairs()).batch(np.array([4, 0]))
    assert [np.asarray(part).tolist() for part in batch] == [[[4.0, 4.0], [0.0, 0.0]], [4, 0]]


class Seekable:
    def __init__(self) -> None:
        self.at = 0

    def seek(self, k: int) -> None:
        self.at = k

    def __iter__(self) -> Any:
        while True:
            yield (self.at,)
            self.at += 1


def test_streams(exe: Executable) -> None:
    ready = [("a",), ("b",), ("c",)]
    stream = batches_of(ready, lambda: batch_size(exe.graph), 0)
    assert isinstance(stream, StreamBatches)
    assert list(stream.start(0, epochs=2)) == ready * 2
    assert list(stream.start(4, epochs=2)) == ready[1:]
    assert [stream.epoch_of(k) for k in (0, 2, 3)] == [0, 0, 1]
    start = StreamBatches(Seekable()).start(7)
    assert [next(start), next(start)] == [(7,), (8,)]
    unsized = StreamBatches(map(tuple, ready))
    assert unsized.total(2) is None
    assert list(unsized.start(0)) == ready  # an iterator is empty afterwards
    with pytest.raises(CheckpointError, match=r"cannot be continued\n  found: a map after 2 batches"):
        next(StreamBatches(map(tuple, ready)).start(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Arrays({"x": np.zeros((3, 2)), "y": np.zeros(4)}), "lengths {'x': 3, 'y': 4}"),
        (lambda p: Arrays((np.zeros(3), np.array(3))), "1 without samples or of a dtype"),
        (lambda p: Arrays({"x": np.zeros(3, "S4")}), "x without samples or of a dtype"),
        (lambda p: Arrays.load(p / "none.npz"), "No such file"),
        (lambda p: Arrays.load({"x": p / "none.npy"}), "No such file"),
        (lambda p: Arrays.load(p / "bad.npz"), "bad.npz"),
        (lambda p: Arrays.load(p / "bad.safetensors"), "bad.safetensors"),
        (lambda p: Arrays.load(p / "objects.npz"), "allow_pickle"),
        (lambda p: Tokens(p / "none.bin", 4), "No such file"),
        (lambda p: Tokens(p / "bad.npz", 4, dtype="uint32"), "5 bytes"),
        (lambda p: Tokens(p / "bad.npz", 4, dtype="uint99"), "uint99"),
        (lambda p: Tokens(np.zeros(4, np.int32), 4), r"at least block \+ 1 = 5"),
        (lambda p: Tokens(np.zeros(9, np.float32), 4), r"float32\[9\]"),
        (lambda p: Tokens(np.zeros(9, np.int8), 0), "block=0"),
        (lambda p: IndexedBatches(Arrays({"x": np.zeros(3)}), 4, 0), "3 samples"),
    ],
)
def test_unusable_data_are_refused(tmp_path: Path, make: Any, message: str) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04x")
    (tmp_path / "bad.safetensors").write_bytes(b"12345678901234")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], dtype=object))
    with pytest.raises(InputError, match=message):
        make(tmp_path)


@pytest.mark.parametrize("data", [3, "text", np.zeros((4, 5)), None])
def test_other_things_are_no_data(exe: Executable, data: Any) -> None:
    with pytest.raises(InputError, match=f"this is no training data\n  found: {type(data).__name__}"):
        batches_of(data, lambda: batch_size(exe.graph), 0)


def test_names_of_a_batch(exe: Executable) -> None:
    graph: Graph = exe.graph
    (name,) = (i.name for i in graph.inputs if i.role == "input")
    assert batch_size(graph) == 4
    assert named_batch(graph, (1, 2)) == named_batch(graph, {"y": 2, "x": 1}) == {name: 1, "target": 2}
    assert named_batch(graph, {name: 1, "target": 2, "z": 3}) == {name: 1, "target": 2, "z": 3}
    for wrong, message in (
        ((1,), "another number of arrays\n  found: 1"),
        ((1, 2, 3), "found: 3"),
        (7, "no batch"),
        ("ab", "no batch"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            named_batch(graph, wrong)
