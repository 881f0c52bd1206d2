"""TFLite files of TensorFlow's converter: networks of floats and of 8-bit integers, names, shapes, the command line."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import pytest

import gensyn_tvm
from gensyn_tvm.cli import main
from gensyn_tvm.errors import InvalidProgramError
from gensyn_tvm.frontends.tflite import from_tflite
from gensyn_tvm.training.losses import MeanSquaredError
from tests.frontends.messages import refused

from .tflite_models import T, constant, model, operator, options, ours, random, reference, single

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tensorflow as tf

TOLERANCE = 2e-6  # of the largest magnitude: both sides are float32 with different orders of summation
MODES = ("float", "float16", "int8", "uint8")


def variable(*shape: int, seed: int, scale: float = 0.4) -> tf.Variable:
    return tf.Variable(np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32))


class Network(tf.Module):
    """Like MobileNet: a strided convolution, depthwise ones with a residual connection, poolings, a softmax."""

    shape = (2, 16, 16, 3)

    def __init__(self) -> None:
        super().__init__()
        self.first = variable(3, 3, 3, 8, seed=1)
        self.depth = [variable(3, 3, 8, 1, seed=k) for k in (2, 3)]
        self.point = [variable(1, 1, 8, 8, seed=4), variable(1, 1, 8, 16, seed=5)]
        self.scale = variable(8, seed=6)
        self.last, self.bias = variable(16, 10, seed=7), variable(10, seed=8)

    def __call__(self, x: Any) -> Any:
        x = tf.nn.relu6(tf.nn.conv2d(x, self.first, 2, "SAME") + self.scale)
        for step, (depth, point) in enumerate(zip(self.depth, self.point, strict=True)):
            y = tf.nn.relu6(tf.nn.depthwise_conv2d(x, depth, [1, step + 1, step + 1, 1], "SAME"))
            y = tf.nn.conv2d(y, point, 1, "VALID")
            x = y if step else x + y
        x = tf.nn.avg_pool2d(tf.nn.max_pool2d(x, 2, 2, "VALID"), 2, 2, "SAME")
        return tf.nn.softmax(tf.reduce_mean(x, [1, 2]) @ self.last + self.bias)


class Perceptron(tf.Module):
    shape = (5, 12)

    def __init__(self) -> None:
        super().__init__()
        self.weights = [variable(a, b, seed=k) for k, (a, b) in enumerate(((12, 16), (16, 8), (8, 8), (8, 4)))]
        self.biases = [variable(b, seed=k + 9) for k, b in enumerate((16, 8, 8, 4))]

    def __call__(self, x: Any) -> Any:
        for function, w, b in zip((tf.nn.relu, tf.tanh, tf.nn.gelu, tf.sigmoid), self.weights, self.biases, strict=True):
            x = function(x @ w + b)
        return x


class Block(tf.Module):
    """A transformer's block with attention of two heads."""

    shape = (2, 6, 16)

    def __init__(self) -> None:
        super().__init__()
        self.heads = [variable(16, 16, seed=k) for k in range(4)]
        self.wide, self.narrow = variable(16, 32, seed=4), variable(32, 16, seed=5)
        self.gains = [tf.Variable(np.linspace(0.5, 1.5, 16, dtype=np.float32)) for _ in range(2)]

    def _norm(self, x: Any, gain: Any) -> Any:
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-3) * gain

    def __call__(self, x: Any) -> Any:
        parts = [tf.transpose(tf.reshape(x @ w, (2, 6, 2, 8)), (0, 2, 1, 3)) for w in self.heads[:3]]
        scores = tf.nn.softmax(tf.matmul(parts[0], parts[1], transpose_b=True) / 8**0.5)
        y = tf.reshape(tf.transpose(scores @ parts[2], (0, 2, 1, 3)), (2, 6, 16)) @ self.heads[3]
        x = self._norm(x + y, self.gains[0])
        return self._norm(x + tf.nn.gelu(x @ self.wide) @ self.narrow, self.gains[1])


def convert(module: Any, mode: str, shape: tuple[int | None, ...] | None = None) -> bytes:
    """The bytes of a TFLite file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function = tf.function(module.__call__, autograph=False)
        concrete = function.get_concrete_function(tf.TensorSpec(shape or module.shape, tf.float32, name="image"))
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
        if mode != "float":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if mode == "float16":
            converter.target_spec.supported_types = [tf.float16]
        elif mode != "float":
            samples = [random(module.shape, "float32", seed) / 2 for seed in range(4)]
            converter.representative_dataset = lambda: ([s] for s in samples)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = getattr(tf, mode)
        return bytes(converter.convert())


@pytest.fixture(scope="module")
def converted() -> Callable[[type, str], bytes]:
    made: dict[tuple[str, str], bytes] = {}

    def get(module: type, mode: str) -> bytes:
        key = (module.__name__, mode)
        if key not in made:
            made[key] = convert(module(), mode)
        return made[key]

    return get


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("module", (Network, Perceptron, Block))
def test_networks(converted: Callable[[type, str], bytes], module: Any, mode: str) -> None:
    file = converted(module, mode)
    for seed in range(4):
        x = random(module.shape, mode if "int" in mode else "float32", seed)
        (found,), (wanted,) = ours(file, [x]), reference(file, [x])
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        if "int" in mode:
            np.testing.assert_array_equal(found, wanted)
        else:
            np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * float(np.abs(wanted).max()))


def test_compiled_bits_are_the_interpreters() -> None:
    """A convolution, a pooling and a softmax of int8: fixed-point numbers, tables, shifts and a reciprocal."""
    w = constant(random((4, 3, 3, 2), "int8", 1), scale=[0.01, 0.02, 0.03, 0.04], zero=[0] * 4)
    bias = constant(np.arange(-300, 500, 200, dtype=np.int32), scale=[0.0005, 0.001, 0.0015, 0.002], zero=[0] * 4)
    image, mapped, pooled, result = (
        T(shape, "int8", scale=scale, zero=zero)
        for shape, scale, zero in (
            ((2, 7, 6, 2), 0.05, 3),
            ((2, 7, 6, 4), 0.4, -5),
            ((2, 4, 3, 4), 0.4, -5),
            ((2, 4, 3, 4), 1 / 256, -128),
        )
    )
    pool = options("Pool2D", strideW=2, strideH=2, filterWidth=2, filterHeight=2)
    ops = [
        operator("CONV_2D", [0, 1, 5], [2], options("Conv2D", strideW=1, strideH=1)),
        operator("AVERAGE_POOL_2D", [2], [3], pool),
        operator("SOFTMAX", [3], [4], options("Softmax", beta=1.0)),
    ]
    file = model([image, w, mapped, pooled, result, bias], ops, [0], [4])
    exe = gensyn_tvm.compile(from_tflite(file), target="x86-64")
    x = random((2, 7, 6, 2), "int8", 7)
    found, wanted = exe(x), ours(file, [x])[0]
    assert found.dtype == wanted.dtype and found.tobytes() == wanted.tobytes() == reference(file, [x])[0].tobytes()


def test_names_come_from_the_signature_and_weights_are_states(converted: Callable[[type, str], bytes]) -> None:
    program = from_tflite(converted(Perceptron, "float"))
    assert (program.inputs, program.outputs) == (("image",), ("output_0",))
    assert not program.parameters and sorted(a.shape for a in program.states.values())[-1] == (16, 12)
    unnamed = from_tflite(single("ABS", [T((3,))], [T((3,))]))
    assert (unnamed.inputs, unnamed.outputs) == (("t0",), ("t1",))


def test_training_is_refused(converted: Callable[[type, str], bytes]) -> None:
    program = from_tflite(converted(Perceptron, "float"))
    with pytest.raises(InvalidProgramError, match=r"no trainable parameters: its converter folded(.|\n)*train the SavedModel"):
        gensyn_tvm.training_step(program, loss=MeanSquaredError())


def test_open_extents_need_shapes() -> None:
    file = convert(Perceptron(), "float", (None, 12))
    with refused(r"input 'image' needs a static shape(.|\n)*input_shapes="):
        from_tflite(file)
    program = from_tflite(file, input_shapes=[(7, 12)])
    x = random((7, 12), "float32", 0)
    found = np.asarray(gensyn_tvm.compile(program)(x))
    (wanted,) = reference(file, [x])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)


def test_repeated_and_constant_outputs_and_shared_constants() -> None:
    w = constant(np.arange(3, dtype=np.float32), name="w")
    ops = [operator("ADD", [0, 1], [2], options("Add")), operator("MUL", [2, 1], [3], options("Mul"))]
    file = model([T((2, 3)), w, T((2, 3), name="w"), T((2, 3))], ops, [0], [3, 2, 1])
    program = from_tflite(file)
    assert list(program.states) == ["w"] and program.outputs == ("t3", "w", "w_2")
    x = random((2, 3), "float32", 1)
    for found, wanted in zip(ours(file, [x]), reference(file, [x]), strict=True):
        np.testing.assert_array_equal(found, wanted)


# ---- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(converted: Callable[[type, str], bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tflite")
    (path / "net.tflite").write_bytes(converted(Perceptron, "int8"))
    (path / "open.tflite").write_bytes(convert(Perceptron(), "float", (None, 12)))
    return path


def test_convert(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "net.gtvm"
    assert main(["convert", str(folder / "net.tflite"), "-o", str(output)]) == 0
    assert "TFLite's reference kernels" in capsys.readouterr().out
    assert output.is_file()


def test_convert_with_a_batch_and_import(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, source = folder / "open.gtvm", str(folder / "open.tflite")
    assert main(["convert", source, "--batch", "3", "--no-compile", "--no-verify", "-o", str(output)]) == 0
    assert main(["import", source, "--batch", "3", "-o", str(output)]) == 0
    assert main(["convert", source, "-o", str(output)]) == 1
    assert main(["convert", source, "--batch", "3", "--train", "-o", str(output)]) == 1
    assert main(["convert", str(folder / "net.tflite"), "--batch", "3", "-o", str(output)]) == 1
    said = capsys.readouterr().err
    for words in ("needs a static shape", "--train does not apply", "the SavedModel or Keras model", "--batch does not apply"):
        assert words in said
