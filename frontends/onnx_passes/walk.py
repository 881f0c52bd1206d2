"""Walking ONNX graphs: copies, names that are taken and used, with subgraphs that capture names of the graphs around them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from gensyn_tvm.frontends.onnx_structure import DEFAULT_DOMAINS, subgraphs

__all__ = ["Names", "all_graphs", "copy_of", "is_default", "opset_of", "subgraphs", "used_by"]


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that a pass may change."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the default operator set that the model imports, 1 if none."""
    return max((o.version for o in model.opset_import if o.domain in DEFAULT_DOMAINS), default=1)


def is_default(node: onnx.NodeProto, *operators: str) -> bool:
    """Whether a node is one of ONNX's own operators, of these names."""
    return node.domain in DEFAULT_DOMAINS and node.op_type in operators


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all graphs in it."""
    pending = [graph]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(inner for node in current.node for inner in subgraphs(node))


def used_by(node: onnx.NodeProto) -> set[str]:
    """Names that a node needs: its inputs, and what its subgraphs take from outside of them."""
    used = {name for name in node.input if name}
    for graph in subgraphs(node):
        used |= captured(graph)
    return used


def captured(graph: onnx.GraphProto) -> set[str]:
    """Names that a graph takes from the graphs around it."""
    known = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    known |= {t.values.name for t in graph.sparse_initializer} | {name for node in graph.node for name in node.output}
    used = {o.name for o in graph.output}
    for node in graph.node:
        used |= used_by(node)
    return used - known


class Names:
    """Fresh names for values and nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.taken: set[str] = set()
        for graph in all_graphs(model.graph):
            self.taken |= {i.name for i in graph.input} | {t.name for t in graph.initializer}
            self.taken |= {name for node in graph.node for name in (node.name, *node.input, *node.output)}

    def fresh(self, wanted: str) -> str:
        """``wanted`` itself or, if something is called so, with a number."""
        name, count = wanted, 1
        while name in self.taken:
            name, count = f"{wanted}_{count}", count + 1
        self.taken.add(name)
        return name
