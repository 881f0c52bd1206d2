"""Between the training and the inference form of BatchNormalization and Dropout."""

from __future__ import annotations

import numpy as np
import onnx

from gensyn_tvm.errors import ImportModelError, import_error
from gensyn_tvm.frontends.onnx_passes.walk import Names, all_graphs, copy_of, is_default, opset_of

#: Operator sets in which the training forms became attributes and inputs.
_BATCH_NORM, _DROPOUT = 14, 12


def training_mode(model: onnx.ModelProto, *, training: bool = False) -> onnx.ModelProto:
    """Rewrite every BatchNormalization and Dropout, also in subgraphs, to its training or its inference form.

    In inference a BatchNormalization normalises by its running statistics: what was their update is then their old value. In
    training it has the updated statistics as second and third output. A Dropout keeps its ratio in both.

    Args:
        model: a valid model; it is not changed. Local functions are left as they are: inline them first.
        training: the form to give them.

    Raises:
        ImportModelError: an opset without a training form; statistics of the batch are used, which inference does not compute.
    """
    result = copy_of(model)
    opset, names = opset_of(model), Names(model)
    for graph in all_graphs(result.graph):
        nodes = []
        for node in graph.node:
            nodes.append(node)
            if is_default(node, "BatchNormalization"):
                nodes += _train_norm(node, opset, names) if training else _infer_norm(node, opset, model)
            elif is_default(node, "Dropout"):
                nodes[-1:-1] = _train_dropout(node, opset, names) if training else _infer_dropout(node)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    return result


def _set(node: onnx.NodeProto, name: str, value: int | None) -> None:
    for k in reversed(range(len(node.attribute))):
        if node.attribute[k].name == name:
            del node.attribute[k]
    if value is not None:
        node.attribute.append(onnx.helper.make_attribute(name, value))


def _refuse(node: onnx.NodeProto, what: str, found: str, expected: str, remedy: str) -> ImportModelError:
    where = f"{node.op_type} {node.name or node.output[0]!r}"
    return import_error(what, where=where, found=found, expected=expected, remedy=remedy)


def _too_old(node: onnx.NodeProto, opset: int, needed: int) -> ImportModelError:
    expected, remedy = f"opset {needed} or newer", f"convert_version={needed} or newer first"
    return _refuse(node, "no training form in this opset", f"opset {opset}", expected, remedy)


# ---- BatchNormalization ---------------------------------------------------------------------------------------------


def _train_norm(node: onnx.NodeProto, opset: int, names: Names) -> list[onnx.NodeProto]:
    if opset < _BATCH_NORM:
        raise _too_old(node, opset, _BATCH_NORM)
    _set(node, "training_mode", 1)
    for k, what in ((1, "running_mean"), (2, "running_var")):
        name = names.fresh(f"{node.output[0]}_{what}")
        if len(node.output) <= k:
            node.output.append(name)
        elif not node.output[k]:
            node.output[k] = name
    return []


def _infer_norm(node: onnx.NodeProto, opset: int, model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Puts the node into its inference form; returns nodes that give the statistics' old values their new names."""
    wanted = _used(model)
    if any(name in wanted for name in node.output[3:]):
        remedy = "remove the outputs saved_mean and saved_var"
        raise _refuse(
            node, "inference does not compute the batch's statistics", "a use of them", "uses of the result only", remedy
        )
    same = [
        onnx.helper.make_node("Identity", [statistic], [output])
        for statistic, output in zip(node.input[3:5], node.output[1:3], strict=False)
        if output in wanted
    ]
    if opset >= _BATCH_NORM:
        _set(node, "training_mode", None)
    del node.output[1:]
    return same


def _used(model: onnx.ModelProto) -> set[str]:
    used: set[str] = set()
    for graph in all_graphs(model.graph):
        used |= {o.name for o in graph.output} | {name for node in graph.node for name in node.input if name}
    return used


# ---- Dropout --------------------------------------------------------------------------------------------------------


def _train_dropout(node: onnx.NodeProto, opset: int, names: Names) -> list[onnx.NodeProto]:
    """Puts the node into its training form; returns the node that makes its third input."""
    if opset < _DROPOUT:
        raise _too_old(node, opset, _DROPOUT)
    name = names.fresh(f"{node.output[0]}_training_mode")
    value = onnx.numpy_helper.from_array(np.array(True), name)
    inputs = [*node.input, ""][:2]
    del node.input[:]
    node.input.extend([*inputs, name])
    return [onnx.helper.make_node("Constant", [], [name], value=value)]


def _infer_dropout(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    del node.input[2:]
    if len(node.input) == 2 and not node.input[1]:
        del node.input[1:]
    return []
