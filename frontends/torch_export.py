"""From a PyTorch module to an exported program of ATen operators that ``torch_operators`` can convert."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.nn.modules.batchnorm import _BatchNorm

from gensyn_tvm.errors import GensynError, UnsupportedOperatorError, import_error, unsupported
from gensyn_tvm.frontends.assemble import identifier
from gensyn_tvm.frontends.torch_operators import CONVERTERS
from gensyn_tvm.frontends.torch_refused import DEPENDS_ON_DATA, reasons_of

#: Key of a place that ``torch.fx.traceback.annotate`` gives the nodes of an exported graph.
PLACE = "gensyn_tvm.place"
_EXAMPLE = "from_torch(module, (torch.zeros(32, 1, 8, 8),))"
_HIDDEN = ("wrap_with_set_grad_enabled", "wrap_with_autocast")
_BATCH_NORMS = ("_native_batch_norm_legit_functional", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit")


def _check_inputs(origin: str, example_inputs: Any) -> None:
    if not isinstance(example_inputs, tuple) or not example_inputs:
        raise import_error(
            f"{origin}: no example inputs",
            found=type(example_inputs).__name__ if example_inputs != () else "an empty tuple",
            expected="a tuple of tensors",
            remedy=_EXAMPLE,
        )
    for position, value in enumerate(example_inputs):
        if not isinstance(value, torch.Tensor):
            found = type(value).__name__
            message = f"{origin}: example input {position} is no tensor"
            raise import_error(message, found=found, expected="a torch.Tensor", remedy=_EXAMPLE)


def _check_modules(module: torch.nn.Module) -> None:
    """Refuse settings that an exported graph no longer shows clearly."""
    for path, child in module.named_modules():
        if not isinstance(child, _BatchNorm):
            continue
        if child.training and child.momentum is None and child.running_mean is not None:
            raise UnsupportedOperatorError(
                type(child).__name__,
                where=f"module {path or '(top)'}",
                found="momentum=None (a cumulative average)",
                expected="a number",
                remedy="set momentum to a number such as 0.1",
            )


@contextlib.contextmanager
def _untouched(module: torch.nn.Module) -> Iterator[None]:
    """Whatever happens inside, leave the random number generator, buffers and modes of the module as they were."""
    state = torch.random.get_rng_state()
    modes = [(child, child.training) for child in module.modules()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.random.set_rng_state(state)
        for child, training in modes:
            child.training = training


def export_module(module: torch.nn.Module, example_inputs: Any, origin: str) -> Any:
    """What ``torch.export`` makes of a module, which is left as it was.

    Raises:
        ImportModelError: inputs that are no tensors, a model that ``torch.export`` cannot export.
        UnsupportedOperatorError: a module with settings that no deterministic variant has.
    """
    _check_inputs(origin, example_inputs)
    _check_modules(module)
    inputs = tuple(t.detach() for t in example_inputs)
    try:
        with _untouched(module), torch.enable_grad():
            return torch.export.export(module, inputs, strict=False)
    except GensynError:
        raise
    except Exception as error:  # torch.export raises whatever the model's own code raises
        raise import_error(
            f"{origin}: torch.export cannot export this model",
            where=_line_of(str(error)),
            found=f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}",
            expected="a forward() without data-dependent control flow that accepts the example inputs",
            remedy="call the module with the example inputs first; select with torch.where or torch.cond instead of if",
        ) from error


def _line_of(text: str) -> str:
    """The line of the user's code that an error of torch.export quotes last."""
    quoted = re.findall(r'File "(.+)", line (\d+), in .+\n\s*(.+)', text)
    return "{}:{}: {}".format(*quoted[-1]) if quoted else ""


def prepare(exported: Any, origin: str) -> Any:
    """The same exported program without mutation, decomposed into operators that have a converter where that is possible.

    Raises:
        ImportModelError: shapes that are not static.
        UnsupportedOperatorError: shapes that depend on data, regions in another mode.
    """
    _check_static(exported, origin)
    _check_hidden_modes(exported)
    return _functional(exported)


def _check_static(exported: Any, origin: str) -> None:
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        for tensor in value if isinstance(value, list | tuple) else [value]:
            if isinstance(tensor, torch.Tensor) and any(isinstance(d, torch.SymInt) for d in tensor.shape):
                if free_unbacked_symbols(tensor.shape):
                    where = {str(node.target): [place_of(node)]}
                    raise unsupported(where, found=DEPENDS_ON_DATA, remedy="make the shape static")
                raise import_error(
                    f"{origin}: a dimension is not static",
                    where=place_of(node),
                    found=f"shape {tuple(map(str, tensor.shape))}",
                    expected="integers",
                    remedy="export with the shapes that are to be compiled, without dynamic_shapes",
                )


def _check_hidden_modes(exported: Any) -> None:
    """no_grad and autocast regions change gradients or dtypes; decomposition would drop the former silently."""
    for node in exported.graph.nodes:
        name = getattr(node.target, "__name__", str(node.target))
        if node.op == "call_function" and name in _HIDDEN:
            raise UnsupportedOperatorError(
                "torch.no_grad" if name == _HIDDEN[0] else "torch.autocast",
                where=place_of(node),
                found="a region of forward() in another mode",
                expected="one mode for the whole model",
                remedy="remove it, or set requires_grad=False on the parameters that must not train",
            )


def _functional(exported: Any) -> Any:
    """The same program without mutation, operators that we know kept whole, others decomposed into those that we know."""
    _split_feature_dropout(exported)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = exported.run_decompositions({})
        unknown = {node.target for node in exported.graph.nodes if is_unknown(node)}
        for node in [n for n in exported.graph.nodes if n.target is torch.ops.aten._assert_tensor_metadata.default]:
            exported.graph.erase_node(node)  # shapes and dtypes are static: it holds
        table = {target: rule for target, rule in torch.export.default_decompositions().items() if target in unknown}
        return exported.run_decompositions(table) if table else exported


def _split_feature_dropout(exported: Any) -> None:
    """Dropout of whole channels becomes dropout of a factor for each, so that our dropout makes the mask."""
    graph = exported.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.aten.feature_dropout.default:
            continue
        x, p, train = node.args
        with graph.inserting_before(node):
            shape = [*x.meta["val"].shape[:2], *[1] * (x.meta["val"].dim() - 2)]
            ones = graph.call_function(torch.ops.aten.new_ones.default, (x, shape))
            factor = graph.call_function(torch.ops.aten.dropout.default, (ones, p, train))
            result = graph.call_function(torch.ops.aten.mul.Tensor, (x, factor))
        for new in (ones, factor, result):
            new.meta = dict(node.meta)
        node.replace_all_uses_with(result)
        graph.erase_node(node)


def is_unknown(node: Any) -> bool:
    """Whether a node is an operator without a converter."""
    return node.op == "call_function" and getattr(node.target, "__name__", str(node.target)) not in CONVERTERS


def unknown_operators(exported: Any) -> UnsupportedOperatorError | None:
    """The error of all operators that have no converter, with all their places; None if there are none."""
    unknown: dict[str, list[str]] = {}
    for node in exported.graph.nodes:
        if is_unknown(node):
            places = unknown.setdefault(str(node.target), [])
            if place_of(node) not in places:
                places.append(place_of(node))
    remedy = "write the model with supported operators"
    return unsupported(unknown, found=reasons_of(unknown), remedy=remedy) if unknown else None


def place_of(node: Any) -> str:
    """``features.0:conv2d``: the path of the innermost module, then the operator."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = (node.meta.get("custom") or {}).get(PLACE) or (stack[-1][0] if stack else "")
    name = getattr(node.target, "__name__", str(node.target)).split(".")[0]
    name = {**dict.fromkeys(_BATCH_NORMS, "batch_norm"), "native_dropout": "dropout"}.get(name, name.removeprefix("_"))
    return identifier(f"{path.removeprefix('L__self__').strip('.') or 'forward'}:{name}")
