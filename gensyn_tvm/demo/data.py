"""The UCI handwritten digits (scikit-learn ships them), split and batched by fixed permutations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BATCH = 64
TEST_SAMPLES = 360


@dataclass(frozen=True)
class Digits:
    """Images as float32 in [0, 1], labels as int64.

    Attributes:
        train_x: (1437, 64).
        train_y: (1437,).
        test_x: (360, 64).
        test_y: (360,).
    """

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def permutation(n: int, seed: int) -> np.ndarray:
    """A permutation from raw Philox words: unlike ``Generator.permutation`` it cannot change with NumPy's version."""
    return np.argsort(np.random.Philox(key=seed).random_raw(n), kind="stable")


def load_digits() -> Digits:
    """The data set; pixel values 0…16 are divided by 16, which is exact."""
    from sklearn.datasets import load_digits as load

    images, labels = load(return_X_y=True)
    order = permutation(len(labels), seed=1)
    x, y = (images[order] / 16.0).astype(np.float32), labels[order].astype(np.int64)
    return Digits(x[TEST_SAMPLES:], y[TEST_SAMPLES:], x[:TEST_SAMPLES], y[:TEST_SAMPLES])


def batches(data: Digits, steps: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """``steps`` batches of 64 (images, labels), reshuffled every epoch; the incomplete last batch of an epoch is dropped."""
    per_epoch = len(data.train_y) // BATCH
    for step in range(steps):
        epoch, position = divmod(step, per_epoch)
        order = permutation(len(data.train_y), seed=1000 + epoch)[position * BATCH : (position + 1) * BATCH]
        yield data.train_x[order], data.train_y[order]
