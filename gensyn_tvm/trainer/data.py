"""Where batches come from: sources with samples by index, the order in which an epoch visits them, and streams.

The order is a function of (number of samples, seed, epoch) in integers alone, so it is the same on every machine: sample i of
an epoch gets word i of ``numpy.random.Philox(key=(seed mod 2^64, epoch))`` (Philox4x64-10, Salmon et al., SC 2011; counter
from 1, the raw 64-bit words), and the samples are visited in the order of their words, equal ones in the order of their
numbers. An incomplete last batch of an epoch is left out, because the shapes of a program are fixed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gensyn_tvm.canonical.types import DTYPES, to_carrier
from gensyn_tvm.errors import CheckpointError, InputError, describe
from gensyn_tvm.trainer.files import read_arrays

#: The arrays of one batch, by name or by position.
Batch = Mapping[str, Any] | Sequence[Any]

_CHUNK = 64 * 2**20


@runtime_checkable
class Source(Protocol):
    """Samples that are read by index; anything with these methods is accepted as data."""

    def __len__(self) -> int:
        """Number of samples."""

    def batch(self, indices: np.ndarray) -> Batch:
        """The samples ``indices`` (int64, one axis), stacked along a new first axis."""

    def digest(self) -> str:
        """Names the contents, so that a run is only continued on the data that it began with; "" if unknown."""


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0 … count - 1 (int64) for an epoch; see the head of this module."""
    words = np.random.Philox(key=np.array([seed % 2**64, epoch], np.uint64)).random_raw(count)
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)


# ---- sources --------------------------------------------------------------------------------------------------------


class Arrays:
    """Arrays of samples in memory or memory-mapped, all of one length along their first axis.

    Args:
        arrays: by name (for a program: its inputs, or ``x`` for the only one; ``target``, or ``y``), or a tuple of arrays in
            the order of the program.

    Raises:
        InputError: something else than arrays, or arrays of different lengths.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray] | Sequence[np.ndarray]) -> None:
        self.by_name = isinstance(arrays, Mapping)
        items = arrays.items() if isinstance(arrays, Mapping) else enumerate(arrays)
        self.arrays = {str(name): array for name, array in items}
        wrong = [
            n for n, a in self.arrays.items() if not isinstance(a, np.ndarray) or a.ndim == 0 or a.dtype.name not in DTYPES
        ]
        lengths = {n: len(a) for n, a in self.arrays.items() if n not in wrong}
        if wrong or len(set(lengths.values())) != 1:
            found = f"{', '.join(wrong)} without samples or of a dtype that no program has" if wrong else f"lengths {lengths}"
            expected = "NumPy arrays with equally many samples along the first axis"
            raise InputError(describe("these are no arrays of samples", found=found, expected=expected))

    @staticmethod
    def load(files: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]) -> Arrays:
        """The arrays of one ``.npz`` or ``.safetensors`` file, or of ``.npy`` files by name, which are memory-mapped.

        Raises:
            InputError: a file is missing, damaged, or holds Python objects; nothing is unpickled.
        """
        if not isinstance(files, Mapping):
            return Arrays(read_arrays(files))
        arrays = {}
        for name, path in files.items():
            found = read_arrays(path)
            if len(found) != 1:
                raise InputError(
                    describe("a file for one array", where=str(path), found=f"{len(found)} arrays", expected="one")
                )
            arrays[name] = next(iter(found.values()))
        return Arrays(arrays)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def batch(self, indices: np.ndarray) -> Batch:
        """See ``Source``."""
        taken = {name: np.asarray(array[indices]) for name, array in self.arrays.items()}
        return taken if self.by_name else tuple(taken.values())

    def digest(self) -> str:
        """SHA-256 (hex) over names, dtypes, shapes and bits: reads everything once."""
        digest = hashlib.sha256()
        for name, array in sorted(self.arrays.items()):
            digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
            rows = max(1, _CHUNK // max(1, array.nbytes // max(1, len(array))))
            for start in range(0, len(array), rows):
                bits = to_carrier(array[start : start + rows])
                digest.update(bits.astype(bits.dtype.newbyteorder("<"), copy=False).tobytes(order="C"))
        return digest.hexdigest()


class Tokens:
    """Windows of a long sequence of tokens: sample i is ``x`` = tokens[i * stride : i * stride + block], ``y`` one token later.

    Args:
        tokens: integers of one axis, a ``.npy`` file, or any other file of plain little-endian integers; files are
            memory-mapped.
        block: tokens of a window.
        dtype: of the integers in a plain file.
        stride: from a window to the next; ``block`` by default.
        start, stop: the part of the sequence that is used.
        batch_dtype: of the arrays handed to the program.

    Raises:
        InputError: no such file, its size is no multiple of the dtype's, no integers, or fewer than block + 1 tokens.
    """

    def __init__(
        self,
        tokens: np.ndarray | str | os.PathLike[str],
        block: int,
        *,
        dtype: str = "uint16",
        stride: int | None = None,
        start: int = 0,
        stop: int | None = None,
        batch_dtype: str = "int64",
    ) -> None:
        where = "" if isinstance(tokens, np.ndarray) else os.fspath(tokens)
        array = tokens if isinstance(tokens, np.ndarray) else _map_tokens(Path(tokens), dtype)
        self.block, self.stride, self.batch_dtype = block, block if stride is None else stride, batch_dtype
        if block < 1 or self.stride < 1:
            raise InputError(f"block={block}, stride={self.stride}; expected at least 1")
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InputError(
                describe("these are no tokens", where=where, found=f"{array.dtype}{list(array.shape)}", expected="integers[n]")
            )
        self.tokens = array[start:stop]
        if len(self.tokens) <= block:
            raise InputError(
                describe(
                    "there are too few tokens",
                    where=where,
                    found=str(len(self.tokens)),
                    expected=f"at least block + 1 = {block + 1}",
                )
            )

    def __len__(self) -> int:
        return (len(self.tokens) - 1 - self.block) // self.stride + 1

    def batch(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        """``x`` and ``y``, each (batch, block)."""
        windows = self.tokens[indices[:, None] * self.stride + np.arange(self.block + 1)].astype(self.batch_dtype)
        return {"x": np.ascontiguousarray(windows[:, :-1]), "y": np.ascontiguousarray(windows[:, 1:])}

    def digest(self) -> str:
        """SHA-256 (hex) over the dtype, all tokens, block and stride: reads everything once."""
        return hashlib.sha256(f"{Arrays((self.tokens,)).digest()} {self.block} {self.stride}".encode()).hexdigest()


def _map_tokens(path: Path, dtype: str) -> np.ndarray:
    if path.suffix == ".npy":
        return next(iter(read_arrays(path).values()))
    try:
        size, width = path.stat().st_size, np.dtype(dtype).itemsize
    except (OSError, TypeError) as error:
        raise InputError(describe("tokens cannot be read", where=str(path), found=str(error))) from error
    if size % width or not size:
        raise InputError(
            describe(
                "tokens cannot be read", where=str(path), found=f"{size} bytes", expected=f"a multiple of {width} ({dtype})"
            )
        )
    return np.memmap(path, np.dtype(dtype).newbyteorder("<"), mode="r")


class Samples:
    """A data set with ``len()`` and ``[i]``, as PyTorch's map-style ones; each sample is a tuple or a mapping of arrays.

    The samples of a batch are stacked. What they contain is the data set's own affair: only if ``dataset[i]`` is the same
    whenever it is read, a continued run gives the same bits.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, indices: np.ndarray) -> Batch:
        """See ``Source``."""
        samples = [self.dataset[int(i)] for i in indices]
        if isinstance(samples[0], Mapping):
            return {name: np.stack([np.asarray(s[name]) for s in samples]) for name in samples[0]}
        return tuple(np.stack([np.asarray(part) for part in parts]) for parts in zip(*samples, strict=True))

    def digest(self) -> str:
        """The data set's own ``digest()`` if it has one."""
        own = getattr(self.dataset, "digest", None)
        return str(own()) if callable(own) else ""


# ---- batches of a run -----------------------------------------------------------------------------------------------


class IndexedBatches:
    """The batches of a source in the order of the epochs; batch k of a run is found without reading those before it.

    Args:
        source: the samples.
        size: samples in a batch.
        seed: of the orders.
        shuffle: whether epochs visit the samples in the order of ``epoch_order`` or in that of their numbers.

    Raises:
        InputError: fewer samples than a batch.
    """

    def __init__(self, source: Source, size: int, seed: int, shuffle: bool = True) -> None:
        self.source, self.size, self.seed, self.shuffle = source, size, seed, shuffle
        self.count = len(source)
        self.per_epoch = self.count // size
        self._epoch, self._order = -1, np.zeros(0, np.int64)
        if self.per_epoch < 1:
            raise InputError(
                describe("there are fewer samples than a batch", found=f"{self.count} samples", expected=f"at least {size}")
            )

    def epoch_of(self, k: int) -> int:
        """The epoch to which batch ``k`` belongs, from 0."""
        return k // self.per_epoch

    def total(self, epochs: int) -> int | None:
        """Batches of ``epochs`` epochs."""
        return epochs * self.per_epoch

    def start(self, k: int, epochs: int | None = None) -> Iterator[Batch]:
        """The batches from number ``k`` on, to the end of the last of ``epochs`` epochs if that is given."""
        while epochs is None or k < epochs * self.per_epoch:
            yield self.source.batch(self.indices(k))
            k += 1

    def indices(self, k: int) -> np.ndarray:
        """Numbers of the samples in batch ``k``."""
        epoch, position = divmod(k, self.per_epoch)
        if not self.shuffle:
            return np.arange(position * self.size, (position + 1) * self.size, dtype=np.int64)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self.count, self.seed, epoch)
        return self._order[position * self.size : (position + 1) * self.size]

    def description(self) -> dict[str, Any]:
        """What a checkpoint remembers of the data."""
        facts = {"samples": self.count, "batch": self.size, "shuffle": self.shuffle, "seed": self.seed}
        return {"kind": "samples", **facts, "contents": self.source.digest()}


class StreamBatches:
    """Ready batches from an iterable, which is iterated again for each epoch.

    It can be continued if it is a list or tuple, or has a method ``seek(k)`` after which iterating begins with batch ``k`` of
    the run.
    """

    per_epoch: int | None = None

    def __init__(self, iterable: Iterable[Batch]) -> None:
        self.iterable = iterable
        self._ends: list[int] = []
        if isinstance(iterable, list | tuple):
            self.per_epoch = len(iterable)

    def epoch_of(self, k: int) -> int:
        """As far as it is known: epochs that ended before batch ``k``."""
        return k // self.per_epoch if self.per_epoch else sum(end <= k for end in self._ends)

    def total(self, epochs: int) -> int | None:
        """Batches of ``epochs`` epochs if the iterable knows its length."""
        length = len(self.iterable) if isinstance(self.iterable, Sized) else None
        return None if length is None else epochs * length

    def start(self, k: int, epochs: int | None = None) -> Iterator[Batch]:
        """The batches from number ``k`` on, for as long as the iterable gives any; of at most ``epochs`` epochs from there."""
        if isinstance(self.iterable, list | tuple):
            while self.iterable and (epochs is None or k < epochs * len(self.iterable)):
                yield self.iterable[k % len(self.iterable)]
                k += 1
            return
        if hasattr(self.iterable, "seek"):
            self.iterable.seek(k)
        elif k:
            raise CheckpointError(
                describe(
                    "this data cannot be continued",
                    found=f"a {type(self.iterable).__name__} after {k} batches",
                    expected="samples by index (Arrays, Tokens, Samples), or an iterable with seek(batch)",
                )
            )
        while epochs is None or len(self._ends) < epochs:
            before = k
            for batch in self.iterable:
                yield batch
                k += 1
            if k == before:
                return
            self._ends.append(k)

    def description(self) -> dict[str, Any]:
        """What a checkpoint remembers of the data."""
        return {"kind": "stream"}


def batches_of(data: Any, size: Callable[[], int], seed: int, shuffle: bool = True) -> IndexedBatches | StreamBatches:
    """Batches for a program of whatever was given as data.

    Args:
        data: a ``Source``; a mapping or tuple of arrays (``Arrays``); anything else with ``len()`` and ``[i]`` that is no list
            (``Samples``); a list or other iterable of ready batches.
        size: says how many samples are in a batch; a stream is not asked.
        seed, shuffle: see ``IndexedBatches``; a stream has its own batches and order.

    Raises:
        InputError: none of these, or fewer samples than a batch.
    """
    if isinstance(data, Source):
        return IndexedBatches(data, size(), seed, shuffle)
    if isinstance(data, Mapping) or (isinstance(data, tuple) and data and all(isinstance(a, np.ndarray) for a in data)):
        return IndexedBatches(Arrays(data), size(), seed, shuffle)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, list | tuple | str | np.ndarray):
        return IndexedBatches(Samples(data), size(), seed, shuffle)
    if isinstance(data, Iterable) and not isinstance(data, str | np.ndarray):
        return StreamBatches(data)
    raise InputError(
        describe(
            "this is no training data",
            found=type(data).__name__,
            expected="arrays by name, Arrays, Tokens, a data set with len() and [i], or an iterable of batches",
        )
    )
