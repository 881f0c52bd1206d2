"""Single operators of TFLite files against TFLite's interpreter with its reference kernels: integers to the last bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from gensyn_tvm.errors import UnsupportedOperatorError
from tests.frontends.messages import refused

from .tflite_models import T, constant, options, ours, random, reference, single

TOLERANCE = 2e-6  # of the largest magnitude in the output of a float operator
INTEGERS = ("int8", "uint8")
Case = tuple[str, list[T], list[T], Any]


def ints(*values: Any) -> T:
    return constant(np.array(values[0] if len(values) == 1 else values, np.int32))


def compare(case: Case, seed: int = 0, arrays: Sequence[np.ndarray] | None = None) -> None:
    name, tensors, results, settings = case
    file = single(name, tensors, results, settings)
    inputs = [t for t in tensors if t.array is None]
    arrays = [random(t.shape, t.dtype, seed + k) for k, t in enumerate(inputs)] if arrays is None else arrays
    for found, wanted in zip(ours(file, arrays), reference(file, arrays), strict=True):
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * max(float(np.abs(wanted).max()), 1e-30))
        else:
            np.testing.assert_array_equal(found, wanted)


# ---- integers that stand for numbers --------------------------------------------------------------------------------


def zeros(dtype: str, seed: int) -> int:
    """A zero point."""
    return int(np.random.default_rng(seed).integers(-30, 30)) + (128 if dtype == "uint8" else 0)


def quantised(shape: Sequence[int], dtype: str, scale: float = 0.05, seed: int = 1) -> T:
    return T(shape, dtype, scale=scale, zero=zeros(dtype, seed))


def every(dtype: str) -> np.ndarray:
    """All integers of 8 bits."""
    info = np.iinfo(dtype)
    return np.arange(info.min, info.max + 1).astype(dtype).reshape(1, 256)


FUNCTIONS: dict[str, tuple[Any, str]] = {
    "RELU": (None, "iu"),
    "RELU6": (None, "iu"),
    "RELU_N1_TO_1": (None, "iu"),
    "RELU_0_TO_1": (None, "iu"),
    "HARD_SWISH": (None, "iu"),
    "LEAKY_RELU": (options("LeakyRelu", alpha=0.3), "iu"),
    "GELU": (options("Gelu", approximate=True), "iu"),
    "TANH": (None, "iu"),
    "ELU": (None, "i"),
    "EXP": (None, "i"),
    "LOG": (None, "i"),
    "ABS": (None, "i"),
    "QUANTIZE": (None, "iu"),
    "DEQUANTIZE": (None, "iu"),
}


@pytest.mark.parametrize("scale", (0.05, 0.011, 0.2))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_every_integer(name: str, scale: float) -> None:
    settings, dtypes = FUNCTIONS[name]
    for dtype in INTEGERS[: len(dtypes)]:
        result = T((1, 256)) if name == "DEQUANTIZE" else quantised((1, 256), dtype, scale * 1.3, 2)
        compare((name, [quantised((1, 256), dtype, scale)], [result], settings), arrays=[every(dtype)])


def test_exact_gelu_of_every_integer() -> None:
    compare(("GELU", [quantised((1, 256), "int8")], [quantised((1, 256), "int8")], options("Gelu")), arrays=[every("int8")])


def test_rsqrt_of_every_integer() -> None:
    for scale in (0.05, 0.0004, 1.7):
        x = T((1, 256), "int8", scale=scale, zero=-128)
        compare(("RSQRT", [x], [T((1, 256), "int8", scale=0.01 / scale**0.5, zero=-128)], None), arrays=[every("int8")])


@pytest.mark.parametrize("beta", (1.0, 0.37))
@pytest.mark.parametrize("scale", (0.003, 0.05, 0.4))
@pytest.mark.parametrize("dtype", INTEGERS)
def test_softmax(dtype: str, scale: float, beta: float) -> None:
    result = T((5, 50), dtype, scale=1 / 256, zero=-128 if dtype == "int8" else 0)
    compare(("SOFTMAX", [quantised((5, 50), dtype, scale)], [result], options("Softmax", beta=beta)))
    logistic = T((1, 256), dtype, scale=1 / 256, zero=-128 if dtype == "int8" else 0)
    compare(("LOGISTIC", [quantised((1, 256), dtype, scale)], [logistic], None), arrays=[every(dtype)])
    wide = T((1, 256), dtype, scale=1 / 256, zero=logistic.zero)
    compare(("SOFTMAX", [quantised((1, 256), dtype, scale)], [wide], options("Softmax", beta=beta)), arrays=[every(dtype)])


BINARY = [
    ("ADD", options("Add", fusedActivationFunction=0)),
    ("ADD", options("Add", fusedActivationFunction=1)),
    ("SUB", options("Sub", fusedActivationFunction=3)),
    ("MUL", options("Mul", fusedActivationFunction=2)),
]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(("name", "settings"), BINARY)
def test_arithmetic(name: str, settings: Any, dtype: str) -> None:
    for seed in range(4):
        p, q, r = np.random.default_rng(seed).uniform(0.003, 0.1, 3)
        pair = [quantised((2, 5, 7), dtype, p, seed), quantised((5, 1) if seed % 2 else (2, 5, 7), dtype, q, seed + 5)]
        compare((name, pair, [quantised((2, 5, 7), dtype, r, seed + 9)], settings), seed)


def test_squared_difference_and_extrema() -> None:
    pair = [quantised((4, 9), "int8", 0.07, 3), quantised((4, 1), "int8", 0.01, 4)]
    compare(("SQUARED_DIFFERENCE", pair, [quantised((4, 9), "int8", 0.3, 5)], None))
    for name in ("MAXIMUM", "MINIMUM"):
        for dtype in INTEGERS:
            compare((name, [quantised((4, 9), dtype), quantised((1, 9), dtype)], [quantised((4, 9), dtype)], None))


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize(("axes", "keep"), [((1, 2), False), ((1, 2), True), ((3,), True), ((0, 1, 2, 3), False)])
def test_reductions(axes: tuple[int, ...], keep: bool, dtype: str) -> None:
    x, settings = quantised((2, 5, 6, 3), dtype), options("Reducer", keepDims=keep)
    shape = np.zeros(x.shape).sum(axes, keepdims=keep).shape
    compare(("MEAN", [x, ints(axes)], [quantised(shape, dtype, 0.01, 2)], settings))
    compare(("REDUCE_MAX", [x, ints(axes)], [T(shape, dtype, scale=x.scale, zero=x.zero)], settings))
    if dtype == "uint8":
        compare(("SUM", [x, ints(axes)], [quantised(shape, dtype, 0.9, 2)], settings))


def test_sum_of_int8_is_that_of_uint8() -> None:
    """TFLite's reference kernel reads int8 as uint8; ours is the uint8 kernel for integers that are 128 larger."""
    files = []
    for dtype, offset in (("int8", 0), ("uint8", 128)):
        x, y = T((3, 40), dtype, scale=0.05, zero=7 + offset), T((3,), dtype, scale=1.1, zero=offset - 4)
        files.append(single("SUM", [x, ints([1])], [y], options("Reducer")))
    values = random((3, 40), "int8", 0)
    shifted = (values.astype(int) + 128).astype(np.uint8)
    np.testing.assert_array_equal(ours(files[0], [values])[0].astype(int) + 128, reference(files[1], [shifted])[0])


def windows(dtype: str) -> Iterator[tuple[int, int, int, int, int]]:
    """(padding, stride, dilation, activation, number)"""
    for number, case in enumerate(((0, 1, 1, 0), (1, 2, 1, 1), (0, 1, 2, 3), (0, 2, 1, 0))):
        yield (*case, number)


def extent(size: int, kernel: int, padding: int, stride: int, dilation: int) -> int:
    return -(-size // stride) if padding == 0 else (size - (kernel - 1) * dilation - 1) // stride + 1


def weights(shape: Sequence[int], dtype: str, axis: int, channels: bool, x: T) -> tuple[T, T]:
    """Weights with one scale for each channel or for all, and a bias."""
    generator, count = np.random.default_rng(5), shape[axis]
    scale = generator.uniform(0.001, 0.01, count) if channels and dtype == "int8" else np.array([0.004])
    zero = 0 if dtype == "int8" else 121
    w = generator.integers(-127 if dtype == "int8" else 0, 128 if dtype == "int8" else 256, shape).astype(dtype)
    bias = generator.integers(-500, 500, count).astype(np.int32)
    units = np.float32(x.scale) * scale.astype(np.float32)
    filters = constant(w, scale=scale, zero=np.full(len(scale), zero), axis=axis)
    return filters, constant(bias, scale=units, zero=np.zeros(len(units)))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_convolutions(dtype: str) -> None:
    for padding, stride, dilation, activation, number in windows(dtype):
        x = quantised((2, 9, 8, 4), dtype, 0.05, number)
        sizes = [extent(d, 3, padding, stride, dilation) for d in (9, 8)]
        common = {"padding": padding, "strideW": stride, "strideH": stride, "fusedActivationFunction": activation}
        common |= {"dilationWFactor": dilation, "dilationHFactor": dilation}
        w, b = weights((6, 3, 3, 4), dtype, 0, number % 2 == 0, x)
        compare(("CONV_2D", [x, w, b], [quantised((2, *sizes, 6), dtype, 0.3)], options("Conv2D", **common)), number)
        w, b = weights((1, 3, 3, 8), dtype, 3, number % 2 == 0, x)
        settings = options("DepthwiseConv2D", depthMultiplier=2, **common)
        compare(("DEPTHWISE_CONV_2D", [x, w, b], [quantised((2, *sizes, 8), dtype, 0.1)], settings), number)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_matrix_products(dtype: str) -> None:
    for number in range(4):
        x = quantised((2, 3, 12), dtype, 0.05, number)
        w, b = weights((7, 12), dtype, 0, number % 2 == 0, x)
        keep = number > 1
        result = quantised((2, 3, 7) if keep else (6, 7), dtype, 0.08, number)
        settings = options("FullyConnected", keepNumDims=keep, fusedActivationFunction=number)
        compare(("FULLY_CONNECTED", [x, w, b], [result], settings), number)
    pair = [quantised((2, 3, 4, 6), "int8", 0.03, 1), quantised((2, 1, 5, 6), "int8", 0.02, 2)]
    compare(("BATCH_MATMUL", pair, [quantised((2, 3, 4, 5), "int8", 0.1)], options("BatchMatMul", adjY=True)))


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("padding", (0, 1))
def test_pooling(padding: int, dtype: str) -> None:
    x = quantised((2, 7, 9, 5), dtype)
    shape = (2, extent(7, 3, padding, 2, 1), extent(9, 2, padding, 2, 1), 5)
    result = T(shape, dtype, scale=x.scale, zero=x.zero)
    for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
        for activation in (0, 1):
            common = {"strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 3, "fusedActivationFunction": activation}
            compare((name, [x], [result], options("Pool2D", padding=padding, **common)))


def moved(dtype: str) -> Iterator[Case]:
    """Operators that move data."""
    scale = 0.05 if dtype in INTEGERS else None

    def tensor(*shape: int) -> T:
        return T(shape, dtype, scale=scale, zero=zeros(dtype, 1) if scale else 0)

    x, pads = tensor(2, 5, 6, 3), ints([[0, 0], [1, 2], [0, 1], [0, 0]])
    yield "PAD", [x, pads], [tensor(2, 8, 7, 3)], None
    value = constant(np.array(5, dtype), scale=scale, zero=x.zero)
    yield "PADV2", [x, pads, value], [tensor(2, 8, 7, 3)], None
    yield "MIRROR_PAD", [x, pads], [tensor(2, 8, 7, 3)], options("MirrorPad", mode=0)
    yield "CONCATENATION", [x, tensor(2, 5, 6, 4)], [tensor(2, 5, 6, 7)], options("Concatenation", axis=-1)
    yield "RESHAPE", [x, ints(2, -1)], [tensor(2, 90)], None
    yield "RESHAPE", [x], [tensor(2, 90)], options("Reshape", newShape=[2, 90])
    yield "TRANSPOSE", [x, ints(0, 3, 1, 2)], [tensor(2, 3, 5, 6)], None
    yield "SLICE", [x, ints(0, 1, 2, 0), ints(2, 3, -1, 1)], [tensor(2, 3, 4, 1)], None
    bounds = [ints(0, 1, 0, 0), ints(2, 5, 6, 3), ints(1, 2, 1, 1)]
    yield "STRIDED_SLICE", [x, *bounds], [tensor(2, 2, 6)], options("StridedSlice", shrinkAxisMask=8)
    yield "SPLIT", [ints(3), x], [tensor(2, 5, 6, 1)] * 3, options("Split", numSplits=3)
    yield "GATHER", [x, ints(4, 0, 2)], [tensor(2, 3, 6, 3)], options("Gather", axis=1)
    yield "PACK", [tensor(3, 4), tensor(3, 4)], [tensor(3, 2, 4)], options("Pack", valuesCount=2, axis=1)
    yield "UNPACK", [tensor(3, 2)], [tensor(3)] * 2, options("Unpack", num=2, axis=1)
    yield "DEPTH_TO_SPACE", [tensor(1, 2, 3, 8)], [tensor(1, 4, 6, 2)], options("DepthToSpace", blockSize=2)
    yield "SPACE_TO_DEPTH", [tensor(1, 4, 6, 2)], [tensor(1, 2, 3, 8)], options("SpaceToDepth", blockSize=2)
    block, ends = ints(2, 3), ints([[1, 1], [0, 3]])
    yield "SPACE_TO_BATCH_ND", [tensor(2, 4, 6, 3), block, ends], [tensor(12, 3, 3, 3)], None
    yield "BATCH_TO_SPACE_ND", [tensor(12, 3, 3, 3), block, ends], [tensor(2, 4, 6, 3)], None
    for aligned, half in ((False, False), (True, False), (False, True)):
        names = {"alignCorners": aligned, "halfPixelCenters": half}
        size = ints(8, 9)
        yield "RESIZE_NEAREST_NEIGHBOR", [x, size], [tensor(2, 8, 9, 3)], options("ResizeNearestNeighbor", **names)
        if dtype != "uint8":
            yield "RESIZE_BILINEAR", [x, size], [tensor(2, 8, 9, 3)], options("ResizeBilinear", **names)
    yield "ARG_MAX", [x, ints(3)], [T((2, 5, 6), "int32")], options("ArgMax", outputType=2)


@pytest.mark.parametrize("dtype", (*INTEGERS, "float32"))
def test_movement(dtype: str) -> None:
    for seed, case in enumerate(moved(dtype)):
        compare(case, seed)


def test_quantisation_rounds_halves_away_from_zero_and_saturates() -> None:
    step = np.float32(0.05)
    values = np.concatenate([(np.arange(-300, 300) + 0.5) * step, np.arange(-300, 300) * step, [0.0, -0.0, 1e-40, 1e6, -1e6]])
    for dtype in INTEGERS:
        x = values.astype(np.float32)
        compare(("QUANTIZE", [T(x.shape)], [quantised(x.shape, dtype)], None), arrays=[x])
        extreme = np.array([np.inf, -np.inf, 1e30, -1e30], np.float32)  # where TFLite's conversion is undefined
        info = np.iinfo(dtype)
        found = ours(single("QUANTIZE", [T((4,))], [quantised((4,), dtype)]), [extreme])[0]
        np.testing.assert_array_equal(found, [info.max, info.min, info.max, info.min])


def test_weights_of_float16_and_of_scales_for_each_channel_become_floats() -> None:
    half = constant(random((3, 4), "float32", 1).astype(np.float16))
    whole = constant(random((3, 4), "int8", 1), scale=[0.1, 0.02, 3.0], zero=[0, 5, -7], axis=0)
    for tensor in (half, whole):
        file = single("DEQUANTIZE", [tensor], [T((3, 4))])
        np.testing.assert_array_equal(ours(file, [])[0].view(np.uint32), reference(file, [])[0].view(np.uint32))


# ---- floats ---------------------------------------------------------------------------------------------------------

X = T((3, 4, 5))
FLOATS: dict[str, Case] = {
    **{n: (n, [X], [X], None) for n in ("ABS", "NEG", "EXP", "SIN", "COS", "TANH", "LOGISTIC", "FLOOR", "CEIL", "ROUND")},
    **{n: (n, [X], [X], None) for n in ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "HARD_SWISH", "SQUARE", "ELU")},
    **{n: (n, [X, T((4, 1))], [X], None) for n in ("MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "PRELU")},
    **{n: (n, [X, T((4, 1))], [T(X.shape, "bool")], None) for n in ("LESS", "GREATER_EQUAL", "EQUAL", "NOT_EQUAL")},
    **{
        n: (n, [X, T((5,))], [X], options(n.capitalize(), fusedActivationFunction=k))
        for k, n in enumerate(("ADD", "SUB", "MUL", "DIV"))
    },
    "SIGN": ("SIGN", [X], [X], None),
    "GELU": ("GELU", [X], [X], options("Gelu")),
    "LEAKY_RELU": ("LEAKY_RELU", [X], [X], options("LeakyRelu", alpha=0.2)),
    "SOFTMAX": ("SOFTMAX", [X], [X], options("Softmax", beta=0.7)),
    "LOG_SOFTMAX": ("LOG_SOFTMAX", [X], [X], None),
    "MEAN": ("MEAN", [X, ints(0, 2)], [T((4,))], options("Reducer")),
    "SUM": ("SUM", [X, ints([-1])], [T((3, 4, 1))], options("Reducer", keepDims=True)),
    "REDUCE_MIN": ("REDUCE_MIN", [X, ints([1])], [T((3, 5))], options("Reducer")),
    "REDUCE_PROD": ("REDUCE_PROD", [X, ints([1])], [T((3, 5))], options("Reducer")),
    "CUMSUM": ("CUMSUM", [X, ints(1)], [X], options("Cumsum", exclusive=True, reverse=True)),
    "BATCH_MATMUL": ("BATCH_MATMUL", [X, T((3, 5, 2))], [T((3, 4, 2))], options("BatchMatMul")),
    "L2_NORMALIZATION": ("L2_NORMALIZATION", [X], [X], options("L2Norm")),
    "SELECT_V2": ("SELECT_V2", [T((4, 1), "bool"), X, X], [X], None),
    "CAST": ("CAST", [T((7,), "int32")], [T((7,))], options("Cast", inDataType=2, outDataType=0)),
    "TILE": ("TILE", [X, ints(2, 1, 3)], [T((6, 4, 15))], None),
    "EXPAND_DIMS": ("EXPAND_DIMS", [X, ints(1)], [T((3, 1, 4, 5))], None),
    "SQUEEZE": ("SQUEEZE", [T((3, 1, 4))], [T((3, 4))], options("Squeeze", squeezeDims=[1])),
    "BROADCAST_TO": ("BROADCAST_TO", [T((4, 1)), ints(3, 4, 5)], [X], None),
    "REVERSE_V2": ("REVERSE_V2", [X, ints([1])], [X], None),
    "TOPK_V2": ("TOPK_V2", [X, ints(3)], [T((3, 4, 3)), T((3, 4, 3), "int32")], None),
    "SHAPE": ("SHAPE", [X], [T((3,), "int32")], options("Shape", outType=2)),
    "ADD_N": ("ADD_N", [X, X, X], [X], None),
    "FLOOR_MOD": ("FLOOR_MOD", [T((9,), "int32"), ints(7)], [T((9,), "int32")], None),
    "EMBEDDING_LOOKUP": ("EMBEDDING_LOOKUP", [ints(2, 0), T((4, 6))], [T((2, 6))], None),
    "TRANSPOSE_CONV": (
        "TRANSPOSE_CONV",
        [ints(2, 9, 7, 4), T((4, 3, 3, 5)), T((2, 5, 4, 5))],
        [T((2, 9, 7, 4))],
        options("TransposeConv", padding=0, strideW=2, strideH=2),
    ),
}


@pytest.mark.parametrize("name", FLOATS)
def test_floats(name: str) -> None:
    compare(FLOATS[name])


def test_float_convolutions_and_products() -> None:
    for padding, stride, dilation, activation, number in windows("float32"):
        x, bias = T((2, 9, 8, 4)), constant(random((6,), "float32", 3))
        sizes = [extent(d, 3, padding, stride, dilation) for d in (9, 8)]
        common = {"padding": padding, "strideW": stride, "strideH": stride, "fusedActivationFunction": activation}
        common |= {"dilationWFactor": dilation, "dilationHFactor": dilation}
        w = constant(random((6, 3, 3, 4), "float32", 1))
        compare(("CONV_2D", [x, w, bias], [T((2, *sizes, 6))], options("Conv2D", **common)), number)
        w = constant(random((1, 3, 3, 8), "float32", 1))
        settings = options("DepthwiseConv2D", depthMultiplier=2, **common)
        compare(("DEPTHWISE_CONV_2D", [x, w, constant(random((8,), "float32", 3))], [T((2, *sizes, 8))], settings), number)
        pool = {
            "strideW": stride,
            "strideH": stride,
            "filterWidth": 3,
            "filterHeight": 3,
            "fusedActivationFunction": activation,
        }
        shape = (2, extent(9, 3, padding, stride, 1), extent(8, 3, padding, stride, 1), 4)
        for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
            compare((name, [x], [T(shape)], options("Pool2D", padding=padding, **pool)), number)
    w = constant(random((7, 12), "float32", 1))
    compare(("FULLY_CONNECTED", [T((2, 3, 12)), w], [T((2, 3, 7))], options("FullyConnected", keepNumDims=True)))


# ---- refusals -------------------------------------------------------------------------------------------------------

Q, R = T((2, 3), "int8", scale=0.1), T((2, 3), "int8", scale=0.2)
REFUSED: dict[str, tuple[Case, tuple[str, ...]]] = {
    "dynamic range": (
        ("FULLY_CONNECTED", [T((2, 3)), constant(np.ones((4, 3), np.int8), scale=0.1)], [T((2, 4))], options("FullyConnected")),
        ("dynamic-range", "representative_dataset"),
    ),
    "int16": (("ADD", [T((2,), "int16", scale=0.1)] * 2, [T((2,), "int16", scale=0.1)], options("Add")), ("int16", "int8")),
    "no quantised form": (("POW", [Q, Q], [Q], None), ("integers with a scale", "leave the operator in floats")),
    "scales differ": (("RESHAPE", [Q, ints(3, 2)], [T((3, 2), "int8", scale=0.2)], None), ("scale 0.2", "scale 0.1", "t2")),
    "maximum of two scales": (("MAXIMUM", [Q, R], [Q], None), ("scale 0.2",)),
    "other options": (("CONV_2D", [T((1, 4, 4, 1)), T((1, 2, 2, 1))], [T((1, 3, 3, 1))], options("Pool2D")), ("Pool2D",)),
    "padding": (
        ("CONV_2D", [T((1, 4, 4, 1)), T((1, 2, 2, 1))], [T((1, 3, 3, 1))], options("Conv2D", padding=7, strideW=1, strideH=1)),
        ("padding 7", "SAME, VALID"),
    ),
    "strides": (
        ("CONV_2D", [T((1, 4, 4, 1)), T((1, 2, 2, 1))], [T((1, 3, 3, 1))], options("Conv2D", padding=1)),
        ("strides [0, 0]",),
    ),
    "activation": (("ADD", [X, X], [X], options("Add", fusedActivationFunction=5)), ("SIGN_BIT",)),
    "channels": (
        ("CONV_2D", [T((1, 4, 4, 3)), T((1, 2, 2, 2))], [T((1, 3, 3, 1))], options("Conv2D", strideW=1, strideH=1)),
        ("3 channels",),
    ),
    "another shape in the file": (("ABS", [X], [T((3, 4, 6))], None), ("[3, 4, 6]", "[3, 4, 5]")),
    "operands that do not fit": (("ADD", [T((3,)), T((4,))], [T((4,))], options("Add")), ("float32[3], float32[4]",)),
    "an axis that is computed": (("EXPAND_DIMS", [X, T((), "int32")], [T((1, 3, 4, 5))], None), ("depends on t1",)),
    "no value": (("ABS", [T((2,), "float32", array=np.zeros(0, np.float32))], [T((2,))], None), ("which nothing computes",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    (kind, tensors, results, settings), words = REFUSED[name]
    with refused("in: 0:t", UnsupportedOperatorError) as caught:
        ours(single(kind, tensors, results, settings), [])
    text = str(caught.value)
    assert caught.value.operator == kind
    for word in words:
        assert word in text
