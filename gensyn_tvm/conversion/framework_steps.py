"""One step of training in a model's own framework: its loss, its gradients, and the next values of its states.

Dropout is off, because no framework draws another's random numbers. Losses are the framework's own functions; those without one
there are not in its table.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gensyn_tvm.program import Program

Arrays = list[np.ndarray]
#: (inputs in the program's order, target, name of the loss) -> the step.
Reference = Callable[[Arrays, np.ndarray, str], "FrameworkStep"]


@dataclass(frozen=True)
class FrameworkStep:
    """What a framework computed.

    Attributes:
        loss: in training mode, before the update.
        gradients: of the parameters by the program's names; a parameter without one is left out.
        states: next values by the program's names.
        reference: what computed it.
    """

    loss: float
    gradients: Mapping[str, np.ndarray]
    states: Mapping[str, np.ndarray]
    reference: str


@dataclass(frozen=True)
class Trainable:
    """A model that its framework can train.

    Attributes:
        step: computes a step.
        losses: names of losses that ``step`` knows.
    """

    step: Reference
    losses: tuple[str, ...]


# ---- PyTorch --------------------------------------------------------------------------------------------------------


def of_torch(exported: Any, program: Program, run: Callable[[Any, Any, Arrays], Any]) -> Trainable:
    """The step of what ``torch.export`` made, which is left alone.

    Args:
        run: calls the module of an exported program with arrays.
    """
    import torch
    import torch.nn.functional as F

    from gensyn_tvm.frontends.torch import array_of

    losses: dict[str, Callable[..., Any]] = {
        "cross_entropy": F.cross_entropy,
        "nll": F.nll_loss,
        "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
        "mean_squared_error": F.mse_loss,
        "l1": F.l1_loss,
        "huber": F.huber_loss,
        "smooth_l1": F.smooth_l1_loss,
        "kl_divergence": F.kl_div,
    }

    def step(arrays: Arrays, target: np.ndarray, loss: str) -> FrameworkStep:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own, of its own calls
            twin = copy.deepcopy(exported)
            _without_torch_dropout(twin.graph)
            module = twin.module()
        with torch.enable_grad():
            result = run(twin, module, arrays)
            output = next(t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor))
            value = losses[loss](output, torch.from_numpy(np.array(target)))
            parameters = {name: p for name, p in module.named_parameters() if name in program.parameters}
            found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        gradients = {name: array_of(g) for name, g in zip(parameters, found, strict=True) if g is not None}
        buffers = {**dict(module.named_buffers()), **dict(module.named_parameters())}
        states = {name: array_of(buffers[name]) for name in program.state_updates}
        return FrameworkStep(float(value.detach()), gradients, states, f"torch {torch.__version__}, the exported program")

    return Trainable(step, tuple(losses))


def _without_torch_dropout(graph: Any) -> None:
    """Set every probability of dropping something to 0: arguments ``dropout``, ``dropout_p``, and ``p`` of dropouts."""
    for node in graph.nodes:
        schema: Any = getattr(node.target, "_schema", None)
        for position, argument in enumerate(schema.arguments if schema is not None else ()):
            if argument.name in ("dropout", "dropout_p") or (argument.name == "p" and "dropout" in schema.name):
                if position < len(node.args):
                    node.update_arg(position, 0.0)
                elif argument.name in node.kwargs:
                    node.update_kwarg(argument.name, 0.0)


# ---- TensorFlow -----------------------------------------------------------------------------------------------------


def of_tensorflow(call: Callable[[Arrays], Any], variables: Sequence[tuple[str, Any]], program: Program) -> Trainable:
    """The step of a function that reads variables, whose values are as before afterwards.

    Args:
        variables: with the names that the program has for them.
    """
    from gensyn_tvm.frontends.tensorflow_graph import tf

    losses: dict[str, Callable[[Any, Any], Any]] = {
        "cross_entropy": lambda y, t: tf.nn.sparse_softmax_cross_entropy_with_logits(t, _classes_last(tf.transpose, y)),
        "binary_cross_entropy_with_logits": lambda y, t: tf.nn.sigmoid_cross_entropy_with_logits(t, y),
        "mean_squared_error": lambda y, t: tf.square(y - t),
        "l1": lambda y, t: tf.abs(y - t),
    }

    def step(arrays: Arrays, target: np.ndarray, loss: str) -> FrameworkStep:
        start = {**program.parameters, **program.states}
        held = {name: v for name, v in variables if name in start}
        before = {name: v.numpy() for name, v in held.items()}
        for name, variable in held.items():
            variable.assign(start[name])  # a call for inference may have changed it
        parameters = [name for name in program.parameters if name in held]
        try:
            with tf.GradientTape() as tape:
                output = tf.nest.flatten(call(arrays))[0]
                value = tf.reduce_mean(losses[loss](output, tf.constant(target)))
            found = tape.gradient(value, [held[name] for name in parameters])
            states = {name: held[name].numpy() for name in program.state_updates}
        finally:
            for name, array in before.items():
                held[name].assign(array)
        gradients = {n: tf.convert_to_tensor(g).numpy() for n, g in zip(parameters, found, strict=True) if g is not None}
        return FrameworkStep(float(value), gradients, states, f"tensorflow {tf.__version__}")

    return Trainable(step, tuple(losses))


def _classes_last(transpose: Callable[..., Any], y: Any) -> Any:
    """(N, C, …) as (N, …, C)."""
    rank = len(y.shape)
    return transpose(y, [0, *range(2, rank), 1]) if rank > 2 else y


# ---- Keras ----------------------------------------------------------------------------------------------------------


def of_keras(model: Any, call: Callable[[Any], Any], program: Program) -> Trainable:
    """The step of a Keras model on the backend that runs, which is left alone.

    Args:
        call: puts the tensors of the inputs into the model's structure.
    """
    import keras

    from gensyn_tvm.frontends.assemble import identifier

    k = keras.ops
    losses: dict[str, Callable[[Any, Any], Any]] = {
        "cross_entropy": lambda y, t: k.sparse_categorical_crossentropy(t, _classes_last(k.transpose, y), from_logits=True),
        "binary_cross_entropy_with_logits": lambda y, t: k.binary_crossentropy(t, y, from_logits=True),
        "mean_squared_error": lambda y, t: k.square(y - t),
        "l1": lambda y, t: k.abs(y - t),
        "huber": lambda y, t: keras.losses.huber(t, y),
    }

    def step(arrays: Arrays, target: np.ndarray, loss: str) -> FrameworkStep:
        inputs = call([k.convert_to_tensor(a) for a in arrays])
        wanted = k.convert_to_tensor(target)
        fixed = [v.value for v in model.non_trainable_variables]

        def forward(trained: Any) -> Any:
            result, states = model.stateless_call(trained, fixed, inputs, training=True)
            return k.mean(losses[loss](keras.tree.flatten(result)[0], wanted)), states

        with _without_keras_dropout(model):
            value, gradients, states = _GRADIENTS[keras.backend.backend()](
                forward, [v.value for v in model.trainable_variables]
            )
        paths = [[identifier(v.path) for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)]
        named = {n: k.convert_to_numpy(g) for n, g in zip(paths[0], gradients, strict=True) if g is not None}
        after = dict(zip(paths[1], states, strict=True))
        return FrameworkStep(
            float(k.convert_to_numpy(value)),
            {name: g for name, g in named.items() if name in program.parameters},
            {name: np.asarray(k.convert_to_numpy(after[name])) for name in program.state_updates},
            f"keras {keras.__version__} on {keras.backend.backend()}",
        )

    return Trainable(step, tuple(losses))


def _tensorflow_gradients(forward: Callable[[Any], Any], trained: list[Any]) -> Any:
    from gensyn_tvm.frontends.tensorflow_graph import tf

    copies = [tf.convert_to_tensor(t) for t in trained]
    with tf.GradientTape() as tape:
        tape.watch(copies)
        value, states = forward(copies)
    found = tape.gradient(value, copies)
    return value, [g if g is None else tf.convert_to_tensor(g) for g in found], states


def _torch_gradients(forward: Callable[[Any], Any], trained: list[Any]) -> Any:
    import torch

    with torch.enable_grad():
        copies = [t.detach().clone().requires_grad_() for t in trained]
        value, states = forward(copies)
        return value.detach(), torch.autograd.grad(value, copies, allow_unused=True), [s.detach() for s in states]


def _jax_gradients(forward: Callable[[Any], Any], trained: list[Any]) -> Any:
    import jax

    (value, states), gradients = jax.value_and_grad(forward, has_aux=True)(trained)
    return value, gradients, states


_GRADIENTS = {"tensorflow": _tensorflow_gradients, "torch": _torch_gradients, "jax": _jax_gradients}


@contextlib.contextmanager
def _without_keras_dropout(model: Any) -> Iterator[None]:
    """The rates of all layers that drop something are 0."""
    rates = [(layer, layer.rate) for layer in model._flatten_layers() if isinstance(getattr(layer, "rate", None), float)]
    try:
        for layer, _ in rates:
            layer.rate = 0.0
        yield
    finally:
        for layer, rate in rates:
            layer.rate = rate
