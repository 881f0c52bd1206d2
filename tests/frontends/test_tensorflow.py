"""TensorFlow functions, modules and SavedModels: values against TensorFlow, states, control flow, names and errors."""

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
from gensyn_tvm import interpreter
from gensyn_tvm.errors import ImportModelError, InputError, UnsupportedOperatorError
from gensyn_tvm.program import Program
from gensyn_tvm.training.step import inference_graph
from tests.frontends.messages import refused

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pytest.importorskip("tensorflow")
    import tensorflow as tf

    from gensyn_tvm.frontends.tensorflow import from_tensorflow
    from gensyn_tvm.weights.tensorflow import to_tensorflow

TOLERANCE = 2e-5  # of the largest magnitude in the output; both sides are float32 with different orders of summation


def run(program: Program, *inputs: np.ndarray) -> list[np.ndarray]:
    """The outputs in inference, by the interpreter."""
    given = {**dict(zip(program.inputs, inputs, strict=True)), **program.parameters, **program.states}
    graph = inference_graph(program)
    return [np.asarray(y) for y in interpreter.run(graph, {i.name: given[i.name] for i in graph.inputs})]


def close(found: np.ndarray, wanted: Any, tolerance: float = TOLERANCE) -> None:
    wanted = np.asarray(wanted)
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    scale = max(1e-6, float(np.abs(wanted.astype(float)).max())) if wanted.size else 1.0
    np.testing.assert_allclose(found.astype(float) / scale, wanted.astype(float) / scale, atol=tolerance, rtol=0)


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


WEIGHT, ONES = values(3, 3, 4, 6, seed=1), np.ones(4, np.float32)
IMAGE, X, INTS = values(2, 7, 6, 4), values(3, 4, 5), np.array([[1, 0, 2], [2, 2, 1]], np.int32)

OPERATORS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "arithmetic": (lambda x: (x + 1) * x - x / (tf.abs(x) + 1) + tf.math.squared_difference(x, 2.0), (X,)),
    "integers": (lambda i: (i // 2, i % 2, -i // 3, -i % 3, tf.cast(i, tf.float32), tf.sign(i - 1)), (INTS,)),
    "comparisons": (lambda x: tf.where((x > 0) & (x <= 1) | ~(x < -1), x, tf.zeros_like(x)), (X,)),
    "elementary": (
        lambda x: tf.exp(x) + tf.math.log1p(tf.square(x)) + tf.math.erf(x) + tf.sin(x) + tf.math.rsqrt(x * x + 1),
        (X,),
    ),
    "activations": (
        lambda x: [
            f(x) for f in (tf.nn.relu6, tf.nn.elu, tf.nn.selu, tf.nn.leaky_relu, tf.nn.softplus, tf.nn.gelu, tf.nn.silu)
        ],
        (X,),
    ),
    "softmax": (lambda x: (tf.nn.softmax(x), tf.nn.log_softmax(x), tf.nn.softmax(x, axis=1)), (X,)),
    "pow": (lambda x: (x**3, tf.abs(x) ** 0.5, tf.abs(x) ** 1.7), (X,)),
    "reductions": (
        lambda x: (
            tf.reduce_mean(x, [0, 2]),
            tf.reduce_sum(x),
            tf.reduce_max(x, -1, keepdims=True),
            tf.reduce_any(x > 1, 0),
            tf.norm(x),
        ),
        (X,),
    ),
    "search": (
        lambda x: (tf.argmax(x, 1), tf.argmin(x, -1, tf.int32), *tf.math.top_k(x, 2), tf.cumsum(x, 1, reverse=True)),
        (X,),
    ),
    "matmul": (lambda x: (tf.matmul(x, x, transpose_b=True), tf.matmul(x[0], x[1], transpose_a=True)), (X,)),
    "einsum": (lambda x: (tf.einsum("abc,adc->abd", x, x), tf.einsum("...c,cd->...d", x, tf.ones([5, 2]))), (X,)),
    "slices": (
        lambda x: (
            x[:, -1],
            x[..., ::2],
            x[::-1, 1:3, tf.newaxis],
            x[1, :, -3:-1],
            x[:, ::-2, ::-3],
            tf.slice(x, [0, 1, 2], [2, -1, 3]),
        ),
        (X,),
    ),
    "parts": (
        lambda x: (
            tf.stack([x, x], 1),
            *tf.unstack(x, axis=1),
            *tf.split(x, [1, 4], 2),
            *tf.split(x, 2, 1),
            tf.concat([x, x], -1),
        ),
        (X,),
    ),
    "shapes": (
        lambda x: (tf.reshape(x, [-1, tf.shape(x)[2]]), tf.transpose(x, [2, 0, 1]), tf.squeeze(x[:1]), tf.tile(x, [1, 2, 1])),
        (X,),
    ),
    "filling": (
        lambda x: (tf.fill([2, 3], 5.0) + x[0, 0, 0], tf.cast(tf.range(5), tf.float32) * x, tf.broadcast_to(x, [2, 3, 4, 5])),
        (X,),
    ),
    "padding": (
        lambda x: (tf.pad(x, [[0, 0], [1, 2], [0, 1]], constant_values=3.0), tf.pad(x, [[1, 1], [0, 2], [3, 0]], "REFLECT")),
        (X,),
    ),
    "moves": (lambda x: (tf.reverse(x, [0, -1]), tf.roll(x, [1, -2], [0, 2]), tf.linalg.band_part(x, 1, 0)), (X,)),
    "gather": (
        lambda x, i: (tf.gather(x, i), tf.gather(x, i, axis=1), tf.gather_nd(x, i), tf.gather(x[:2], i, batch_dims=1, axis=2)),
        (X, INTS),
    ),
    "scatter": (
        lambda x, i: (tf.scatter_nd(i, x[:2, 0, 0], [3, 3, 3]), tf.tensor_scatter_nd_add(x, i, x[:2, 0, 0]), tf.one_hot(i, 4)),
        (X, INTS),
    ),
    "conv": (
        lambda x: (
            tf.nn.conv2d(x, WEIGHT, 2, "SAME"),
            tf.nn.conv2d(x, WEIGHT, 1, "VALID", dilations=2),
            tf.nn.conv2d(x, WEIGHT, [1, 2, 1, 1], [[0, 0], [1, 0], [2, 1], [0, 0]]),
            tf.nn.conv2d(x, WEIGHT[:, :, :2], 1, "SAME"),
            tf.nn.bias_add(tf.nn.depthwise_conv2d(x, WEIGHT[..., :2], [1, 2, 2, 1], "SAME"), tf.range(8.0)),
            tf.nn.conv2d_transpose(x, tf.transpose(WEIGHT, [0, 1, 3, 2]), [2, 14, 12, 6], 2, "SAME"),
            tf.nn.conv1d(x[:, :, 0], WEIGHT[0], 2, "SAME"),
            tf.nn.conv3d(x[:, None], WEIGHT[None], [1, 1, 1, 1, 1], "SAME"),
        ),
        (IMAGE,),
    ),
    "pool": (
        lambda x: (tf.nn.max_pool2d(x, 3, 2, "SAME"), tf.nn.avg_pool2d(x, 3, 2, "SAME"), tf.nn.avg_pool2d(x, 2, 1, "VALID")),
        (IMAGE,),
    ),
    "resize": (
        lambda x: (
            tf.image.resize(x, [9, 13]),
            tf.image.resize(x, [14, 5], "nearest"),
            tf.compat.v1.image.resize_bilinear(x, [9, 13], align_corners=True),
            tf.compat.v1.image.resize_nearest_neighbor(x, [9, 13]),
        ),
        (IMAGE,),
    ),
    "blocks": (lambda x: (tf.nn.depth_to_space(x, 2), tf.nn.space_to_depth(x[:, :6], 2)), (IMAGE,)),
    "fused_norm": (lambda x: tf.compat.v1.nn.fused_batch_norm(x, ONES, ONES, ONES, 2 * ONES, is_training=False)[0], (IMAGE,)),
    "fused_norm_of_batch": (lambda x: tf.compat.v1.nn.fused_batch_norm(x, ONES, ONES, epsilon=0.001), (IMAGE,)),
    "cross_entropy": (lambda x: tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(x), x), (X,)),
    "sparse_cross_entropy": (lambda x, i: tf.nn.sparse_softmax_cross_entropy_with_logits(i, x[:2, :3]), (X, INTS)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name: str) -> None:
    function, inputs = OPERATORS[name]
    found = run(from_tensorflow(tf.function(function), inputs), *inputs)
    for ours, theirs in zip(found, tf.nest.flatten(function(*map(tf.constant, inputs))), strict=True):
        close(ours, theirs)


# ---- control flow and variables -------------------------------------------------------------------------------------


class Decoder(tf.Module):
    """Greedy decoding with a loop, a list of tensors, a condition on data and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.Variable(values(6, 8), name="table")
        self.cell = tf.Variable(values(8, 8, seed=1), name="cell")
        self.calls = tf.Variable(0, trainable=False, name="calls")

    @tf.function(autograph=False)
    def step(self, h: Any) -> Any:
        return tf.tanh(tf.matmul(h, self.cell))

    def __call__(self, x: Any) -> Any:
        self.calls.assign_add(1)
        steps = tf.TensorArray(tf.int64, 4)

        def body(t: Any, h: Any, found: Any) -> Any:
            h = self.step(h)
            token = tf.argmax(tf.matmul(h, self.table, transpose_b=True), 1)
            return t + 1, h + tf.gather(self.table, token), found.write(t, token)

        _, h, found = tf.while_loop(lambda t, h, found: t < 4, body, (0, x, steps))
        h = tf.cond(tf.reduce_sum(h) > 0, lambda: h * 2, lambda: h - 1)
        return {"tokens": found.stack(), "state": h}


def test_module_with_loop() -> None:
    x, model = values(2, 8, seed=3), Decoder()
    program = from_tensorflow(model, (x,))
    assert (set(program.parameters), list(program.states)) == ({"table", "cell"}, ["calls"])
    assert program.state_updates == ("calls",)
    assert program.outputs == ("output_state", "output_tokens")
    state, tokens = run(program, x)
    wanted = model(tf.constant(x))
    close(state, wanted["state"])
    assert np.array_equal(tokens, wanted["tokens"])


def test_branches_assign() -> None:
    kept = tf.Variable([1.0, 2.0], trainable=False, name="kept")

    @tf.function(autograph=False)
    def model(x: Any) -> Any:
        tf.cond(x[0] > 0, lambda: kept.assign(x), lambda: kept.assign_sub(x))
        return kept * 3

    program = from_tensorflow(model, (np.zeros(2, np.float32),))
    assert program.state_updates == ("kept",)
    for x in (np.array([1, 5], np.float32), np.array([-1, 5], np.float32)):
        kept.assign([1.0, 2.0])
        close(run(program, x)[0], model(tf.constant(x)), 0)


class Mlp(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = tf.Variable(values(5, 16), name="w1"), tf.Variable(tf.zeros(16), name="b1")
        self.w2 = tf.Variable(values(16, 3, seed=2), name="w2")

    @tf.function(input_signature=[tf.TensorSpec([None, 5], tf.float32, name="x")])
    def __call__(self, x: Any) -> Any:
        return tf.matmul(tf.nn.relu(tf.matmul(x, self.w1) + self.b1), self.w2)


def test_training_against_gradient_tape() -> None:
    """Four steps of gradient descent; the arrays then go back into the variables."""
    model, x, y = Mlp(), values(8, 5, seed=4), np.arange(8) % 3
    program = from_tensorflow(model, input_shapes={"x": (8, 5)})
    assert list(program.parameters) == ["w1", "b1", "w2"]
    step = gensyn_tvm.training_step(program, loss="cross_entropy", optimizer=gensyn_tvm.SGD(lr=0.1))
    native = gensyn_tvm.compile(step)
    state: dict[str, Any] = {**step.parameters, **step.states, **step.optimizer_state}
    names = [i.name for i in step.graph.inputs]
    for k in range(4):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x)))
        for v, g in zip(model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True):
            v.assign_sub(0.1 * g)
        given = {**state, "x": x, "target": y, "step": np.int64(k), "seed": np.int64(0), "learning_rate": np.float32(0.1)}
        results = interpreter.run(step.graph, {n: np.asarray(given[n]) for n in names})
        outputs = {o.name: value for o, value in zip(step.graph.outputs, results, strict=True)}
        close(np.asarray(outputs["loss"]), loss)
        state = {n: outputs[n] for n in state}
    assert native.digest == step.digest
    copy = Mlp()
    to_tensorflow(copy.variables, {n: np.asarray(state[n]) for n in program.parameters})
    for ours, theirs in zip(copy.variables, model.variables, strict=True):
        close(ours.numpy(), theirs)
        assert np.array_equal(ours.numpy().view(np.uint32), np.asarray(state[ours.name[:-2]]).view(np.uint32))


def test_saved_model_and_equal_bits(tmp_path: Path) -> None:
    model, x = Mlp(), values(4, 5, seed=4)
    tf.saved_model.save(model, str(tmp_path / "m"), signatures=model.__call__)
    program = from_tensorflow(tmp_path / "m", input_shapes=[(4, 5)])
    assert list(program.parameters) == ["w1", "b1", "w2"]
    results = [gensyn_tvm.compile(program, target)(x) for target in ("native", "c")]
    close(results[0], model(x))
    assert np.array_equal(results[0].view(np.uint32), results[1].view(np.uint32))


def test_concrete_function_and_train_argument() -> None:
    concrete = tf.function(lambda x: x * 2).get_concrete_function(tf.TensorSpec([3], tf.float32))
    close(run(from_tensorflow(concrete), np.arange(3, dtype=np.float32))[0], np.arange(0, 6, 2, dtype=np.float32), 0)
    model = tf.function(lambda x, training: x + (1.0 if training else 2.0))
    for train, wanted in ((True, 1), (False, 2)):
        close(
            run(from_tensorflow(model, (np.zeros(1, np.float32),), train=train), np.zeros(1, np.float32))[0],
            np.array([wanted], np.float32),
            0,
        )


# ---- errors ---------------------------------------------------------------------------------------------------------


def _assigning() -> Any:
    v = tf.Variable([1.0], name="weight")
    return tf.function(lambda x: v.assign(x))


def _table() -> Any:
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1, 2], [3, 4]), -1)
    return tf.function(lambda i: table.lookup(i))


def _fails(x: Any) -> Any:
    raise RuntimeError("broken on purpose")


BAD: dict[str, tuple[Callable[[], Program], type[Exception], str]] = {
    "no_model": (lambda: from_tensorflow(3), ImportModelError, "cannot read this model\n  found: int"),
    "missing": (lambda: from_tensorflow("/nowhere/model"), ImportModelError, "no such folder"),
    "shape_open": (lambda: from_tensorflow(Mlp()), ImportModelError, r"input 'x' needs a static shape\n  found: \(None, 5\)"),
    "shape_wrong": (lambda: from_tensorflow(Mlp(), input_shapes=[(2, 4)]), ImportModelError, "needs a static shape"),
    "input_unknown": (
        lambda: from_tensorflow(Mlp(), input_shapes={"x": (2, 5), "z": (1,)}),
        ImportModelError,
        "no input is called 'z'\n  found: z\n  expected: some of x",
    ),
    "no_signature": (lambda: from_tensorflow(tf.function(lambda x: x)), ImportModelError, "example_inputs"),
    "string": (
        lambda: from_tensorflow(tf.function(tf.strings.length), (tf.TensorSpec([2], tf.string),)),
        ImportModelError,
        "an input of dtype string",
    ),
    "complex": (
        lambda: from_tensorflow(tf.function(tf.math.real), (tf.TensorSpec([2], tf.complex64),)),
        ImportModelError,
        "complex64",
    ),
    "unsupported": (
        lambda: from_tensorflow(tf.function(lambda x: tf.linalg.det(x) + tf.random.uniform([])), (tf.TensorSpec([2, 2]),)),
        UnsupportedOperatorError,
        "(?s)MatrixDeterminant.*RandomUniform|RandomUniform.*MatrixDeterminant",
    ),
    "loop_on_data": (
        lambda: from_tensorflow(
            tf.function(lambda x: tf.while_loop(lambda v: tf.reduce_sum(v) < 9, lambda v: v * 2, (x,))), (tf.TensorSpec([2]),)
        ),
        UnsupportedOperatorError,
        "a loop whose number of steps depends on data",
    ),
    "shape_on_data": (
        lambda: from_tensorflow(tf.function(lambda n: tf.zeros([n])), (tf.TensorSpec([], tf.int32),)),
        UnsupportedOperatorError,
        "the shape that depends on n",
    ),
    "assigns_weights": (
        lambda: from_tensorflow(_assigning(), (tf.TensorSpec([1]),)),
        ImportModelError,
        "assigns to trainable.*\n.*weight",
    ),
    "hash_table": (
        lambda: from_tensorflow(_table(), (tf.TensorSpec([2], tf.int32),)),
        UnsupportedOperatorError,
        "LookupTableFind",
    ),
    "model_fails": (
        lambda: from_tensorflow(tf.function(_fails), (tf.TensorSpec([1]),)),
        ImportModelError,
        "found: RuntimeError: broken on purpose",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(name: str) -> None:
    call, error, message = BAD[name]
    with refused(message, error):
        call()


def test_bad_saved_models(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x99 no protobuf")
    with refused("cannot be read"):
        from_tensorflow(tmp_path)
    tf.saved_model.save(Mlp(), str(tmp_path / "m"))
    with refused("unknown signature"):
        from_tensorflow(tmp_path / "m", signature="nothing")
    with pytest.raises(InputError, match="unknown: other"):
        to_tensorflow(Mlp().variables, {"other": np.zeros(1, np.float32)})
