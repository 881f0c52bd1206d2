"""Keras models on PyTorch: exported by ``torch.export``, with their variables as parameters and buffers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import torch
from torch.fx.traceback import annotate, preserve_node_meta

from gensyn_tvm.errors import UnsupportedOperatorError
from gensyn_tvm.frontends.keras_layers import replaced_layers
from gensyn_tvm.frontends.torch import import_exported
from gensyn_tvm.frontends.torch_composites import batch_norm, dropout
from gensyn_tvm.frontends.torch_export import PLACE, export_module
from gensyn_tvm.program import Program


def import_call(
    model: Any,
    call: Callable[..., Any],
    inputs: dict[str, tuple[tuple[int, ...], str]],
    names: Sequence[str],
    train: bool,
    origin: str,
) -> Program:
    """The program of a function that calls a model; errors as ``from_keras``."""
    examples = tuple(torch.zeros(shape, dtype=getattr(torch, dtype)) for shape, dtype in inputs.values())
    module = _Module(call, model.variables)
    with replaced_layers(model, _Torch(), train), _no_random_numbers(model), _whole_errors(), preserve_node_meta():
        exported = export_module(module, examples, origin)
    return import_exported(exported, origin, list(inputs), dict(zip(module.variables, names, strict=True)))


class _Module(torch.nn.Module):
    """A function of tensors with copies of the variables that it reads and writes: ``variable_<position>``."""

    def __init__(self, call: Callable[..., Any], variables: list[Any]) -> None:
        super().__init__()
        self.call = call
        self.variables = {f"variable_{k}": v for k, v in enumerate(variables)}
        for name, variable in self.variables.items():
            value = variable.value.detach().clone()
            if variable.trainable:
                self.register_parameter(name, torch.nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def forward(self, *values: Any) -> Any:
        held = {name: getattr(self, name) for name in self.variables}
        with keras.StatelessScope(state_mapping=[(v, held[name]) for name, v in self.variables.items()]) as scope:
            result = self.call(*values)
        for name, variable in self.variables.items():
            value = scope.get_current_value(variable)
            if value is not held[name]:
                held[name].copy_(value)
        return result


class _Torch:
    batch_norm = staticmethod(batch_norm)
    dropout = staticmethod(dropout)

    def place(self, layer: Any) -> contextlib.AbstractContextManager[Any]:
        return annotate({PLACE: layer.path or layer.name})


@contextlib.contextmanager
def _whole_errors() -> Iterator[None]:
    """Keras otherwise makes a new exception of each, whose message begins with the layer's arguments."""
    enabled = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        if enabled:
            keras.config.enable_traceback_filtering()


@contextlib.contextmanager
def _no_random_numbers(model: Any) -> Iterator[None]:
    """Layers that would draw random numbers are refused by name; torch.export says no more than that it cannot export them."""
    generators = [(layer, g) for layer in model._flatten_layers() for g in getattr(layer, "_seed_generators", ())]

    def refuse(layer: Any) -> Callable[..., Any]:
        def draw(*_: Any, **__: Any) -> Any:
            raise UnsupportedOperatorError(
                f"Random numbers of {type(layer).__name__}",
                where=layer.path or layer.name,
                expected="Dropout and SpatialDropout layers only",
                remedy="import with train=False, or leave the layer out",
            )

        return draw

    for layer, generator in generators:
        object.__setattr__(generator, "next", refuse(layer))
    try:
        yield
    finally:
        for generator in {id(g): g for _, g in generators}.values():
            object.__delattr__(generator, "next")
