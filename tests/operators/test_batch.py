"""The bits of a sample do not depend on the batch around it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType

from .support import LEVELS, NATIVE, Configuration, assert_all_same, outputs
from .test_fused import CONV, batch_norm, dense_gelu, softmax

FEATURES, CHANNELS, SIDE = 700, 6, 9
#: Weights of three widths: narrow results are computed transposed, small batches without packing.
WEIGHTS = {
    "w3": (FEATURES, 3),
    "w10": (FEATURES, 10),
    "w64": (FEATURES, 64),
    "kernel": (10, CHANNELS, 3, 3),
    "bias": (64,),
}
#: Which samples of the batch of eight each smaller batch has; -1: a stranger.
BATCHES: dict[str, list[int]] = {
    "eight": list(range(8)),
    "first four": [0, 1, 2, 3],
    "last four": [4, 5, 6, 7],
    **{f"only {k}": [k] for k in (0, 3, 7)},
    "among strangers": [-1, -1, 0, 1, 2, -1, 3, 4, 5, 6, 7, -1, -1],
}

WINDOW = {"kernel": (3, 3), "strides": (2, 2), "padding": ((1, 1), (1, 1)), "dilations": (1, 1)}

Layer = Callable[[GraphBuilder, int, int, dict[str, int]], int]
LAYERS: dict[str, Layer] = {
    "matmul to 3": lambda b, rows, image, w: b.emit("matmul", rows, w["w3"]),
    "matmul to 10": lambda b, rows, image, w: b.emit("matmul", rows, w["w10"]),
    "dense and gelu": lambda b, rows, image, w: dense_gelu(b, rows, w["w64"], w["bias"])[0],
    "softmax": lambda b, rows, image, w: softmax(b, b.emit("matmul", rows, w["w10"]))[0],
    "conv": lambda b, rows, image, w: b.emit("conv", image, w["kernel"], **CONV),
    "strided conv": lambda b, rows, image, w: b.emit("conv", image, w["kernel"], **{**CONV, "strides": (2, 2)}),
    "max_pool": lambda b, rows, image, w: b.emit("max_pool", image, **WINDOW),
    "avg_pool": lambda b, rows, image, w: b.emit("avg_pool", image, **WINDOW, count_include_pad=False),
    "sum of a sample": lambda b, rows, image, w: b.emit("sum", image, axes=(1, 2, 3), keepdims=False),
}


def samples(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    shapes = {"rows": (count, FEATURES), "image": (count, CHANNELS, SIDE, SIDE)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("level", LEVELS)
def test_a_sample_does_not_notice_its_batch(level: str) -> None:
    builder = GraphBuilder("batches")
    rng = np.random.default_rng(3)
    whole, strangers = samples(rng, 8), samples(rng, 13)
    given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in WEIGHTS.items()}
    weights = {n: builder.add_input(n, "input", TensorType(a.shape, "float32")) for n, a in given.items()}
    values = {}
    for label, members in BATCHES.items():
        for kind, arrays in whole.items():
            given[f"{kind} {label}"] = np.stack([arrays[m] if m >= 0 else strangers[kind][k] for k, m in enumerate(members)])
            t = TensorType(given[f"{kind} {label}"].shape, "float32")
            values[kind, label] = builder.add_input(f"{kind} {label}", "input", t)
    for label in BATCHES:
        for name, layer in LAYERS.items():
            value = layer(builder, values["rows", label], values["image", label], weights)
            builder.add_output(f"{name} of {label}", value)
    graph = builder.finish()
    for found in outputs(graph, given, Configuration(level, "fast", (1, 2))).values():
        by_name = dict(zip((o.name for o in graph.outputs), found, strict=True))
        for name in LAYERS:
            reference = by_name[f"{name} of eight"]
            for label, members in BATCHES.items():
                known = [k for k, m in enumerate(members) if m >= 0]
                expected = reference[[members[k] for k in known]]
                assert_all_same([f"{name} of {label}"], [by_name[f"{name} of {label}"][known]], [expected])


def test_batch_statistics_do_notice() -> None:
    """What reduces over the batch must differ, or the test above could not fail."""
    builder = GraphBuilder("statistics")
    rng = np.random.default_rng(4)
    given = {f"x{n}": rng.standard_normal((n, 2, 5, 5)).astype(np.float32) for n in (4, 5)}
    given["x5"][:4] = given["x4"]
    given["gain"] = np.ones((2, 1, 1), np.float32)
    numbers = {n: builder.add_input(n, "input", TensorType(a.shape, "float32")) for n, a in given.items()}
    for n in ("x4", "x5"):
        builder.add_output(n, batch_norm(builder, numbers[n], numbers["gain"], numbers["gain"])[0])
    four, five = outputs(builder.finish(), given, Configuration(NATIVE, "fast"))[1]
    assert (four != five[:4]).any()
