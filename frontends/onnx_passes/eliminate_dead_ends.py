"""Removing what no output needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx

from gensyn_tvm.frontends.onnx_passes.walk import copy_of, is_default, subgraphs, used_by


def eliminate_dead_ends(model: onnx.ModelProto, *, keep_inputs: bool = False) -> onnx.ModelProto:
    """Remove nodes, initializers and inputs that no output depends on, and Identity nodes.

    Subgraphs are treated alike, but keep their inputs, which the node around them counts. Outputs of the model keep their
    names: an Identity between an input (or initializer) and an output stays.

    Args:
        model: a valid model; it is not changed.
        keep_inputs: whether the model keeps inputs that nothing needs.
    """
    result = copy_of(model)
    _without_identities(result.graph, {})
    _prune(result.graph, keep_inputs=keep_inputs)
    return result


# ---- identities -----------------------------------------------------------------------------------------------------


def _without_identities(graph: onnx.GraphProto, outer: Mapping[str, str]) -> None:
    """Remove the Identity nodes of a graph and of those in it; ``outer`` renames what they take from around it."""
    for output in graph.output:
        output.name = outer.get(output.name, output.name)
    outputs = {o.name for o in graph.output}
    renamed = dict(outer)
    kept = []
    for node in graph.node:
        _rename(node, renamed)
        for inner in subgraphs(node):
            _without_identities(inner, renamed)
        if is_default(node, "Identity") and node.output[0] not in outputs and node.input[0]:
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    _replace(graph, kept)
    _rename_producers(graph, outputs)


def _rename(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    for k, name in enumerate(node.input):
        node.input[k] = renamed.get(name, name)


def _rename_producers(graph: onnx.GraphProto, outputs: set[str]) -> None:
    """Where an Identity gives an output its name, give that name to the value itself, if a node of the graph makes it."""
    made = {name for node in graph.node for name in node.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        source = node.input[0] if node.input else ""
        if is_default(node, "Identity") and source in made and source not in outputs and source not in renamed:
            renamed[source] = node.output[0]
        else:
            kept.append(node)
    for node in kept:
        _rename_everywhere(node, renamed)
    _replace(graph, kept)
    for k in reversed([k for k, info in enumerate(graph.value_info) if info.name in renamed]):
        del graph.value_info[k]


def _rename_everywhere(node: onnx.NodeProto, renamed: Mapping[str, str]) -> None:
    _rename(node, renamed)
    for k, name in enumerate(node.output):
        node.output[k] = renamed.get(name, name)
    for inner in subgraphs(node):
        for other in inner.node:
            _rename_everywhere(other, renamed)
        for output in inner.output:
            output.name = renamed.get(output.name, output.name)


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    if len(nodes) < len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)


# ---- what nothing needs ---------------------------------------------------------------------------------------------


def _prune(graph: onnx.GraphProto, *, keep_inputs: bool) -> None:
    needed = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            for inner in subgraphs(node):
                _prune(inner, keep_inputs=True)
            needed |= used_by(node)
            kept.append(node)
    _replace(graph, kept[::-1])
    # A kept input that has a default value would need a value without it.
    stored = {i.name for i in graph.input} | needed if keep_inputs else needed
    _keep(graph.initializer, lambda tensor: tensor.name in stored)
    _keep(graph.sparse_initializer, lambda tensor: tensor.values.name in needed)
    if not keep_inputs:
        _keep(graph.input, lambda info: info.name in needed)
    defined = {name for node in graph.node for name in node.output} | {i.name for i in graph.input}
    defined |= {t.name for t in graph.initializer}
    _keep(graph.value_info, lambda info: info.name in defined)
    _keep(graph.quantization_annotation, lambda note: note.tensor_name in defined)


def _keep(items: Any, wanted: Callable[[Any], bool]) -> None:
    for k in reversed(range(len(items))):
        if not wanted(items[k]):
            del items[k]
