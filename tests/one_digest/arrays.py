"""Sizes and weights of the four networks; every framework gets the same numbers in its own layout."""

from __future__ import annotations

import numpy as np

BATCH, FEATURES, HIDDEN, CLASSES = 3, 5, 8, 4
CHANNELS, SIZE = (2, 4, 6), 8
STEPS, UNITS = 4, 6
LENGTH, WIDTH, HEADS, INNER = 4, 8, 2, 12
EPSILON = 1e-5


def _drawn(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.Generator(np.random.Philox(seed))
    return {name: (rng.standard_normal(shape) / 2).astype(np.float32) for name, shape in shapes.items()}


#: (inputs, outputs), as ``x @ w``.
MLP = _drawn(1, w1=(FEATURES, HIDDEN), b1=(HIDDEN,), w2=(HIDDEN, CLASSES), b2=(CLASSES,))
#: (height, width, inputs, outputs).
CNN = _drawn(
    2,
    k1=(3, 3, CHANNELS[0], CHANNELS[1]),
    c1=(CHANNELS[1],),
    k2=(3, 3, CHANNELS[1], CHANNELS[2]),
    c2=(CHANNELS[2],),
    w=(CHANNELS[2], CLASSES),
    b=(CLASSES,),
)
#: Gates in the order i, f, g, o, as ``x @ w``.
LSTM = _drawn(3, w=(FEATURES, 4 * UNITS), r=(UNITS, 4 * UNITS), b=(4 * UNITS,), o=(UNITS, CLASSES), c=(CLASSES,))
#: Products as ``x @ w``; heads are neighbours in the columns.
BLOCK = _drawn(
    4,
    **{f"w{n}": (WIDTH, WIDTH) for n in "qkvo"},
    **{f"b{n}": (WIDTH,) for n in "qkvo"},
    **{f"{n}{k}": (WIDTH,) for n in ("scale", "shift") for k in (1, 2)},
    up=(WIDTH, INNER),
    up_b=(INNER,),
    down=(INNER, WIDTH),
    down_b=(WIDTH,),
)
#: Of a dense layer after a convolution of ``CNN['k1']``: rows in the order height, width, channel.
FLAT = _drawn(5, w=((SIZE - 2) ** 2 * CHANNELS[1], CLASSES))["w"]
#: The same rows in the order channel, height, width.
FLAT_CHANNELS_FIRST = FLAT.reshape(SIZE - 2, SIZE - 2, CHANNELS[1], CLASSES).transpose(2, 0, 1, 3).reshape(-1, CLASSES)
