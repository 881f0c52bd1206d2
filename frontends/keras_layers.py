"""Keras layers that differ between training and inference: while a model is traced they call operators of ours."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import keras

from gensyn_tvm.errors import UnsupportedOperatorError, unsupported


class Backend(Protocol):
    """What a tracer gives to the layers."""

    def batch_norm(
        self,
        x: Any,
        gamma: Any,
        beta: Any,
        mean: Any,
        variance: Any,
        *,
        axis: int,
        epsilon: float,
        momentum: float,
        frozen: bool,
    ) -> tuple[Any, Any, Any]:
        """What stands for ``gensyn.batch_norm``: (y, next mean, next variance); ``momentum`` is the part of the new value."""

    def dropout(self, x: Any, rate: float, shared: list[int]) -> Any:
        """What stands for ``gensyn.dropout`` with the axes that share decisions."""

    def place(self, layer: Any) -> contextlib.AbstractContextManager[Any] | None:
        """A context in which what is traced comes from this layer, None where the tracer knows by itself."""


def _batch_norm(layer: Any, backend: Backend) -> Callable[..., Any]:
    def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        frozen = not (training and layer.trainable)
        if mask is not None or (layer.renorm and not frozen):
            found = "renorm=True" if mask is None else "a mask"
            raise UnsupportedOperatorError("BatchNormalization", where=layer.path, found=found, expected="none of these")
        mean, variance = layer.moving_mean.value, layer.moving_variance.value
        y, new_mean, new_variance = backend.batch_norm(
            inputs,
            layer.gamma.value if layer.scale else keras.ops.ones_like(mean),
            layer.beta.value if layer.center else keras.ops.zeros_like(mean),
            mean,
            variance,
            axis=layer.axis % len(inputs.shape),
            epsilon=float(layer.epsilon),
            momentum=1.0 - float(layer.momentum),
            frozen=frozen,
        )
        if not frozen:
            layer.moving_mean.assign(new_mean)
            layer.moving_variance.assign(new_variance)
        return y

    return call


def _dropout(layer: Any, backend: Backend) -> Callable[..., Any]:
    def call(inputs: Any, training: bool | None = None) -> Any:
        if not training or layer.rate == 0:
            return inputs
        shape = layer._get_noise_shape(inputs) if hasattr(layer, "_get_noise_shape") else layer.noise_shape
        return backend.dropout(inputs, float(layer.rate), [k for k, extent in enumerate(shape or ()) if extent == 1])

    return call


_KINDS = {
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.Dropout: _dropout,
    **{getattr(keras.layers, f"SpatialDropout{n}D"): _dropout for n in (1, 2, 3)},
}


@contextlib.contextmanager
def replaced_layers(model: Any, backend: Backend, train: bool) -> Iterator[None]:
    """The layers of a model, changed as long as it is traced; without ``train`` they only tell their places."""
    changed = []
    for layer in model._flatten_layers():
        call = _KINDS[type(layer)](layer, backend) if train and type(layer) in _KINDS else None
        if layer is not model and backend.place(layer) is not None:
            call = _placed(layer, call or layer.call, backend)
        if call is not None:
            changed.append(layer)
            object.__setattr__(layer, "call", call)
    try:
        yield
    finally:
        for layer in changed:
            object.__delattr__(layer, "call")


#: Layers that look numbers or text up in a table, or hash them: no operations on tensors.
_LOOKUPS = ("Hashing", "HashedCrossing", "IntegerLookup", "StringLookup", "TextVectorization")


def refuse_lookups(model: Any) -> None:
    """Refuse layers that look up or hash what they get.

    Raises:
        UnsupportedOperatorError: there are such, all of them in one message.
    """
    found: dict[str, list[str]] = {}
    for layer in model._flatten_layers():
        if type(layer).__name__ in _LOOKUPS and type(layer).__module__.startswith("keras."):
            found.setdefault(type(layer).__name__, []).append(layer.path or layer.name)
    if found:
        raise unsupported(
            found,
            found="layers that look up or hash what they get",
            expected="layers that are operations on tensors of numbers",
            remedy="apply them to the data before the model, and give the model their results",
        )


#: Layers of images that draw random numbers in inference, too, and do not use them.
_DRAWING = tuple(
    getattr(keras.layers, name)
    for name in (
        *("RandomHue", "RandomSaturation", "RandomGrayscale", "RandomSharpness", "RandomColorDegeneration"),
        *("RandomPosterization", "MixUp"),
    )
    if hasattr(keras.layers, name)
)


@contextlib.contextmanager
def without_idle_draws(model: Any) -> Iterator[None]:
    """In inference, layers of images that change nothing draw no random numbers."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, _DRAWING)]
    for layer in layers:
        object.__setattr__(layer, "get_random_transformation", lambda *_, **__: None)
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "get_random_transformation")


def _placed(layer: Any, call: Callable[..., Any], backend: Backend) -> Callable[..., Any]:
    @functools.wraps(call)
    def placed(*args: Any, **kwargs: Any) -> Any:
        with backend.place(layer) or contextlib.nullcontext():
            return call(*args, **kwargs)

    return placed
