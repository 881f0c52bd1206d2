"""TfIdfVectorizer on integers as comparisons with every n-gram of its pool."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gensyn_tvm.frontends.emit import Emitter, Expr, constant, dtype_of, number, op, rank_of, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs


def _pool(e: Emitter, a: Attributes) -> dict[tuple[int, ...], int]:
    """The n-grams of the lengths asked for, each with the output column that counts it."""
    items, starts = [int(v) for v in a.get("pool_int64s", [])], [int(v) for v in a["ngram_counts"]]
    columns = [int(v) for v in a["ngram_indexes"]]
    if not items or sorted(starts) != starts or starts[0] != 0 or starts[-1] > len(items):
        raise e.refuse("a pool of strings, or none", expected="pool_int64s with ascending ngram_counts")
    found: dict[tuple[int, ...], int] = {}
    number = 0
    for size, (start, end) in enumerate(zip(starts, [*starts[1:], len(items)], strict=True), 1):
        for k in range(start, end - size + 1, size):
            if number >= len(columns):
                raise e.refuse(f"{len(columns)} ngram_indexes", expected="one for each n-gram of the pool")
            if a["min_gram_length"] <= size <= a["max_gram_length"]:
                found[tuple(items[k : k + size])] = columns[number]
            number += 1
    return found


def convert_tfidf_vectorizer(e: Emitter, x: Inputs, a: Attributes) -> Expr:
    """How often each n-gram of the pool is in a row, with 0 to max_skip_count items skipped between neighbours."""
    mode, rank = a["mode"], rank_of(x[0])
    if mode not in ("TF", "IDF", "TFIDF") or rank not in (1, 2) or not e.is_integer(x[0]):
        found = f"mode {mode}, an input of {dtype_of(x[0])}{tuple(shape_of(x[0]))}"
        raise e.refuse(found, expected="TF, IDF or TFIDF of integers (items) or (batch, items)")
    rows = e.cast(x[0] if rank == 2 else e.reshape(x[0], [1, *shape_of(x[0])]), "int64")
    pool, width = _pool(e, a), max(int(v) for v in a["ngram_indexes"]) + 1
    counts: Expr = e.full([shape_of(rows)[0], width], 0, "int64")
    for size in sorted({len(gram) for gram in pool}):
        grams = {gram: column for gram, column in pool.items() if len(gram) == size}
        # An n-gram of one item has no neighbours to skip between.
        for distance in range(1, (1 if size == 1 else int(a["max_skip_count"]) + 1) + 1):
            if shape_of(rows)[1] > (size - 1) * distance:
                counts = e.add(counts, _counted(e, rows, grams, distance, width))
    y = e.cast(counts, "float32")
    if mode == "IDF":
        y = e.cast(e(op.greater(counts, number(0, "int64"))), "float32")
    if mode != "TF" and a.get("weights"):
        y = e.mul(y, constant(np.array(a["weights"], dtype=np.float32)))
    return y if rank == 2 else e.reshape(y, [width])


def _counted(e: Emitter, rows: Expr, grams: dict[tuple[int, ...], int], distance: int, width: int) -> Expr:
    """Occurrences (batch, width) in rows (batch, items) of n-grams whose items are ``distance`` apart."""
    batch, items = shape_of(rows)
    size = len(next(iter(grams)))
    places = items - (size - 1) * distance
    hit: Expr | None = None
    for k in range(size):
        window = e.reshape(e.slice(rows, 1, k * distance, k * distance + places), [batch, places, 1])
        same = e(op.equal(window, constant(np.array([gram[k] for gram in grams], dtype=np.int64))))
        hit = same if hit is None else e(op.logical_and(hit, same))
    found = e(op.sum(e.cast(hit, "int64"), [1]))
    return _spread(e, found, list(grams.values()), width)


def _spread(e: Emitter, counts: Expr, columns: Sequence[int], width: int) -> Expr:
    """Counts (batch, n-grams) added up in their columns, (batch, width)."""
    batch = shape_of(counts)[0]
    here = e(op.equal(constant(np.array(columns, dtype=np.int64).reshape(-1, 1)), op.arange(0, width, 1, "int64")))
    spread = e.where(here, e.reshape(counts, [batch, len(columns), 1]), 0)
    return e(op.sum(spread, [1]))


TEXT: dict[str, Converter] = {"TfIdfVectorizer": convert_tfidf_vectorizer}
