"""What has to hold of an ONNX model before any code in C++ sees it (onnx.checker, the inliner, TVM): those abort, overflow
their stack or read past the end of arrays where a model breaks rules that they take for granted. Nothing here knows TVM.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor

from gensyn_tvm.canonical.types import MAX_ELEMENTS
from gensyn_tvm.errors import ImportModelError, import_error

#: Protobuf messages in a file. Parsed, each takes some hundred bytes, be it only two bytes in the file.
MAX_MESSAGES = 2_000_000
#: Nodes once all calls of local functions are expanded, and functions that call each other in a row.
MAX_NODES, MAX_CALLS = 500_000, 32
#: Messages in messages; protobuf does not parse more. A subgraph in a subgraph takes three.
MAX_DEPTH = 100
#: NumPy has no arrays with more axes.
MAX_RANK = 64

DEFAULT_DOMAINS = ("", "ai.onnx")
_DATA = onnx.TensorProto
#: Element types: the field that holds them when ``raw_data`` does not, and the bits of an element.
_FIELDS: dict[int, tuple[str, int]] = {
    **{t: ("float_data", 32) for t in (_DATA.FLOAT,)},
    **{t: ("int32_data", 32) for t in (_DATA.INT32,)},
    **{t: ("int32_data", 16) for t in (_DATA.INT16, _DATA.UINT16, _DATA.FLOAT16, _DATA.BFLOAT16)},
    **{t: ("int32_data", 8) for t in (_DATA.INT8, _DATA.UINT8, _DATA.BOOL)},
    **{v: ("int32_data", 8) for k, v in _DATA.DataType.items() if k.startswith("FLOAT8")},
    **{v: ("int32_data", 4) for k, v in _DATA.DataType.items() if k in ("INT4", "UINT4", "FLOAT4E2M1")},
    **{v: ("int32_data", 2) for k, v in _DATA.DataType.items() if k in ("INT2", "UINT2")},
    **{t: ("int64_data", 64) for t in (_DATA.INT64,)},
    **{t: ("double_data", 64) for t in (_DATA.DOUBLE,)},
    **{t: ("uint64_data", b) for t, b in ((_DATA.UINT32, 32), (_DATA.UINT64, 64))},
    **{t: ("float_data", 64) for t in (_DATA.COMPLEX64,)},
    **{t: ("double_data", 128) for t in (_DATA.COMPLEX128,)},
    **{t: ("string_data", 0) for t in (_DATA.STRING,)},
}
_STORES = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data", "raw_data")
_TWICE = (_DATA.COMPLEX64, _DATA.COMPLEX128)
_KIND = onnx.AttributeProto
_VALUES: dict[int, str] = {
    _KIND.FLOAT: "f",
    _KIND.INT: "i",
    _KIND.STRING: "s",
    _KIND.TENSOR: "t",
    _KIND.GRAPH: "g",
    _KIND.SPARSE_TENSOR: "sparse_tensor",
    _KIND.TYPE_PROTO: "tp",
    _KIND.FLOATS: "floats",
    _KIND.INTS: "ints",
    _KIND.STRINGS: "strings",
    _KIND.TENSORS: "tensors",
    _KIND.GRAPHS: "graphs",
    _KIND.SPARSE_TENSORS: "sparse_tensors",
    _KIND.TYPE_PROTOS: "type_protos",
}
#: Attributes of ONNX's own operators by which something is divided, or that count something; least value.
_LEAST = {
    **dict.fromkeys(("strides", "dilations", "group", "kernel_shape", "blocksize", "num_groups", "num_outputs"), 1),
    **dict.fromkeys(("hidden_size", "num_heads", "q_num_heads", "kv_num_heads", "sampling_ratio"), 0),
}
_INT32 = 2**31
#: Names that are defined so far, one set for each graph around a node, outermost first.
Scopes = tuple[set[str], ...]


def check_wire(data: bytes, origin: str) -> None:
    """Refuse data that would become far more messages than fit into memory; data that is no protobuf is left to the parser.

    Raises:
        ImportModelError: more than MAX_MESSAGES messages.
    """
    if len(data) < 2 * MAX_MESSAGES:
        return
    count = 0
    pending = [(onnx.ModelProto.DESCRIPTOR, 0, len(data))]
    try:
        while pending:
            kind, position, end = pending.pop()
            while position < end:
                tag, position = _varint(data, position)
                size, position = _field_size(data, tag & 7, position)
                field = kind.fields_by_number.get(tag >> 3)
                if field is not None and field.type == FieldDescriptor.TYPE_MESSAGE:
                    count += 1
                    pending.append((field.message_type, position, min(position + size, end)))
                if count > MAX_MESSAGES:
                    message, found = f"{origin}: too many parts", f"more than {MAX_MESSAGES} protobuf messages"
                    remedy = "export the model again; it is damaged, or made to exhaust memory"
                    raise import_error(message, found=found, expected=f"at most {MAX_MESSAGES}", remedy=remedy)
                position += size
    except (IndexError, ValueError):
        return


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        result |= (byte & 127) << shift
        if byte < 128:
            return result, position
        shift += 7
    raise ValueError("no varint")


def _field_size(data: bytes, wire: int, position: int) -> tuple[int, int]:
    """Bytes that a field's content takes, and where it begins."""
    if wire == 0:
        _, end = _varint(data, position)
        return end - position, position
    if wire == 2:
        return _varint(data, position)
    if wire in (1, 5):
        return (8 if wire == 1 else 4), position
    raise ValueError("groups are not used by ONNX")


def tensor_bytes(tensor: onnx.TensorProto, where: str, origin: str) -> int:
    """Bytes of a tensor's elements as ``raw_data`` stores them.

    Raises:
        ImportModelError: an unknown element type, a negative or absurd extent, strings (which have no fixed size).
    """
    if tensor.data_type not in _FIELDS:
        known = ", ".join(sorted(k for k, v in _DATA.DataType.items() if v in _FIELDS))
        raise _refuse(origin, "unknown element type", where, str(tensor.data_type), known)
    _check_extents(tensor.dims, where, origin)
    return -(-math.prod(tensor.dims) * _FIELDS[tensor.data_type][1] // 8)


def check_structure(proto: onnx.ModelProto, origin: str) -> None:
    """Refuse a model that is not safe to hand to C++.

    Raises:
        ImportModelError: names that are no text; extents that are negative or absurd; tensors that hold another number of
            elements than they claim; attributes whose kind and value disagree, or that would divide by zero; values that are
            used but not defined, defined twice, or that depend on themselves; subgraphs or functions nested too deeply,
            functions that call themselves.
    """
    _Checker(origin).model(proto)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _refuse(origin: str, what: str, where: str, found: str, expected: str) -> ImportModelError:
    message, remedy = f"{origin}: not a valid ONNX model: {what}", "repair the model at this place, or export it again"
    return import_error(message, where=where, found=found, expected=expected, remedy=remedy)


def _check_extents(extents: Sequence[int], where: str, origin: str) -> None:
    if len(extents) > MAX_RANK:
        raise _refuse(origin, "too many axes", where, str(len(extents)), f"at most {MAX_RANK}")
    if any(d < 0 for d in extents):
        raise _refuse(origin, "negative extent", where, str(tuple(extents)), "extents of 0 or more; open ones have a name")
    if math.prod(max(d, 1) for d in extents) > MAX_ELEMENTS:
        raise _refuse(origin, "absurd extents", where, str(tuple(extents)), "at most 2^40 elements")


def _label(node: onnx.NodeProto) -> str:
    name = node.name or (node.output[0] if node.output else "")
    return f"node {name!r} ({node.op_type})"


class _Checker:
    def __init__(self, origin: str) -> None:
        self.origin = origin

    def refuse(self, what: str, where: str, found: str, expected: str) -> ImportModelError:
        return _refuse(self.origin, what, where, found, expected)

    def model(self, proto: onnx.ModelProto) -> None:
        self.messages(proto)
        for imported in proto.opset_import:
            if not 0 < imported.version < _INT32:
                domain = imported.domain or "ai.onnx"
                raise self.refuse("absurd opset", f"domain {domain!r}", str(imported.version), "a small positive number")
        self.unique([o.domain for o in proto.opset_import], "opset imports", "the model")
        self.functions(proto)
        self.graph(proto.graph, (), "the graph")

    # ---- any message

    def messages(self, model: onnx.ModelProto) -> None:
        """Every string, tensor and shape of the model, and how deep it is; first of all, and without recursion."""
        pending: list[tuple[Any, str, int]] = [(model, "the model", 1)]
        while pending:
            message, where, depth = pending.pop()
            if depth > MAX_DEPTH:
                raise self.refuse(
                    "nested too deeply", where, f"more than {MAX_DEPTH} messages in messages", f"at most {MAX_DEPTH}"
                )
            where = self.place(message) or where
            self.special(message, where)
            for field, value in message.ListFields():
                if field.type == FieldDescriptor.TYPE_MESSAGE:
                    pending.extend((item, where, depth + 1) for item in (value if field.is_repeated else (value,)))
                elif field.type == FieldDescriptor.TYPE_STRING:
                    for text in value if field.is_repeated else (value,):
                        self.text(text, field.name, where)

    def text(self, text: str | bytes, field: str, where: str) -> None:
        if isinstance(text, bytes):
            raise self.refuse("text that is not UTF-8", where, f"{field} {text[:60]!r}", "UTF-8")
        if "\0" in text and field != "doc_string":
            raise self.refuse("a name with a NUL character", where, f"{field} {text[:60]!r}", "text without it")

    def place(self, message: Any) -> str:
        if isinstance(message, onnx.NodeProto):
            return _label(message)
        kinds = {
            onnx.TensorProto: "tensor",
            onnx.ValueInfoProto: "value",
            onnx.GraphProto: "graph",
            onnx.FunctionProto: "function",
        }
        kind = kinds.get(type(message))
        return f"{kind} {message.name!r}" if kind else ""

    def special(self, message: Any, where: str) -> None:
        if isinstance(message, onnx.TensorProto):
            self.tensor(message, where)
        elif isinstance(message, onnx.TensorShapeProto):
            _check_extents([d.dim_value if d.HasField("dim_value") else 1 for d in message.dim], where, self.origin)

    def unique(self, names: Sequence[str], what: str, where: str) -> None:
        if len(set(names)) < len(names):
            repeated = [n for n, count in Counter(names).items() if count > 1]
            raise self.refuse(f"a name is used twice ({what})", where, ", ".join(map(repr, repeated[:9])), "unique names")

    # ---- tensors and attributes

    def tensor(self, tensor: onnx.TensorProto, where: str) -> None:
        """Extents, and that as many elements are stored as they say."""
        size, count = tensor_bytes(tensor, where, self.origin), math.prod(tensor.dims)
        field, bits = _FIELDS[tensor.data_type]
        if tensor.HasField("segment"):
            raise self.refuse("a tensor in segments", where, "a segment", "a whole tensor")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return
        filled = [name for name in _STORES if (tensor.HasField(name) if name == "raw_data" else len(getattr(tensor, name)))]
        if len(filled) > 1 or (filled and filled[0] not in (field, "raw_data")) or (filled == ["raw_data"] and not bits):
            kind = onnx.TensorProto.DataType.Name(tensor.data_type)
            raise self.refuse(f"{kind} elements in the wrong field", where, ", ".join(filled), f"{field} or raw_data")
        if filled == ["raw_data"]:
            wanted, found, unit = size, len(tensor.raw_data), "bytes"
        else:
            wanted = -(-count * bits // 8) if bits < 8 and bits else count * (2 if tensor.data_type in _TWICE else 1)
            found, unit = len(getattr(tensor, field)), "elements"
        if wanted != found:
            expected = f"{wanted} {unit} for the shape {tuple(tensor.dims)}"
            raise self.refuse("a tensor's data does not fit its shape", where, f"{found} {unit}", expected)

    def attributes(self, node: onnx.NodeProto, *, in_function: bool) -> None:
        where = _label(node)
        self.unique([a.name for a in node.attribute], "attributes", where)
        for attribute in node.attribute:
            what = f"attribute {attribute.name!r} of {where}"
            given = {name for name in _VALUES.values() if _is_set(attribute, name)}
            if attribute.ref_attr_name:
                if not in_function or given:
                    message = "a reference to an attribute outside of a function"
                    raise self.refuse(message, what, attribute.ref_attr_name, "a value")
                continue
            if attribute.type not in _VALUES:
                raise self.refuse("an attribute without a kind", what, f"type {attribute.type}", "a kind of ONNX")
            if given - {_VALUES[attribute.type]}:
                kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
                raise self.refuse("an attribute's value is of another kind", what, ", ".join(sorted(given)), kind)
            if node.domain in DEFAULT_DOMAINS:
                self.numbers(attribute, what)
                if (node.op_type, attribute.name) == ("Einsum", "equation"):
                    self.equation(attribute.s, what)

    def numbers(self, attribute: onnx.AttributeProto, what: str) -> None:
        values = list(attribute.ints) if attribute.type == onnx.AttributeProto.INTS else [attribute.i]
        if attribute.type not in (onnx.AttributeProto.INT, onnx.AttributeProto.INTS) or attribute.name not in _LEAST:
            return
        least = _LEAST[attribute.name]
        if any(not least <= v < _INT32 for v in values):
            raise self.refuse("an attribute outside its range", what, str(values), f"{least} to {_INT32 - 1}")

    def equation(self, text: bytes, what: str) -> None:
        """That ONNX's shape inference, which never returns from other dots, finds at most one ellipsis in each term."""
        terms = text.replace(b"->", b",").split(b",")
        if any(b"." in term.replace(b"...", b"", 1) for term in terms):
            raise self.refuse("stray dots in an equation", what, repr(text), "at most one '...' in a term, and no other dots")

    # ---- graphs

    def graph(self, graph: onnx.GraphProto, outer: Scopes, where: str, *, in_function: bool = False) -> None:
        inputs, stored = [i.name for i in graph.input], [t.name for t in graph.initializer]
        stored += [t.values.name for t in graph.sparse_initializer]
        self.unique(inputs, "graph inputs", where)
        self.unique(stored, "initializers", where)
        self.unique([o.name for o in graph.output], "graph outputs", where)
        if "" in inputs or "" in stored:
            raise self.refuse("an input or initializer without a name", where, "''", "names")
        known = {*inputs, *stored}
        self.nodes(graph.node, known, outer, where, in_function=in_function)
        self.defined([o.name for o in graph.output], (*outer, known), "a graph output that nothing defines", where)

    def nodes(self, nodes: Sequence[onnx.NodeProto], known: set[str], outer: Scopes, where: str, *, in_function: bool) -> None:
        """Check nodes in order, adding to ``known`` what they define."""
        self.unique([*(name for node in nodes for name in node.output if name), *known], "single assignment", where)
        for node in nodes:
            if not node.op_type:
                raise self.refuse("a node without an operator", _label(node), "op_type ''", "an operator")
            self.attributes(node, in_function=in_function)
            for name in node.input:
                if name and name not in known and not any(name in scope for scope in outer):
                    raise self.undefined(node, name, nodes)
            for inner in subgraphs(node):
                place = f"graph {inner.name!r} of {_label(node)}"
                self.graph(inner, (*outer, known), place, in_function=in_function)
            known.update(name for name in node.output if name)

    def undefined(self, node: onnx.NodeProto, name: str, nodes: Sequence[onnx.NodeProto]) -> ImportModelError:
        producers = {output: other for other in nodes for output in other.output}
        if name not in producers:
            expected = "a graph input, an initializer or the output of a node"
            return self.refuse("a value that nothing defines", _label(node), f"input {name!r}", expected)
        reached, pending = set(), [name]
        while pending:
            current = pending.pop()
            if current in producers and current not in reached:
                reached.add(current)
                pending.extend(producers[current].input)
        found = f"input {name!r} of {_label(producers[name])}"
        if reached & set(node.output):
            return self.refuse("nodes that depend on each other in a circle", _label(node), found, "nodes without circles")
        return self.refuse("a value is used before it is defined", _label(node), found, "nodes in topological order")

    def defined(self, names: Sequence[str], scopes: Scopes, what: str, where: str) -> None:
        missing = [name for name in names if not any(name in scope for scope in scopes)]
        if missing:
            raise self.refuse(what, where, ", ".join(map(repr, missing)), "outputs of nodes, inputs or initializers")

    # ---- functions

    def functions(self, proto: onnx.ModelProto) -> None:
        keys = [(f.domain, f.name, f.overload) for f in proto.functions]
        self.unique([":".join(key) for key in keys], "functions", "the model")
        for function in proto.functions:
            where = f"function {function.name!r}"
            self.unique(list(function.input), "inputs", where)
            self.unique(list(function.output), "outputs", where)
            known = set(function.input)
            self.nodes(function.node, known, (), where, in_function=True)
            self.defined(function.output, (known,), "a function output that nothing defines", where)
        self.calls(dict(zip(keys, proto.functions, strict=True)), proto.graph)

    def calls(self, functions: Mapping[tuple[str, str, str], onnx.FunctionProto], graph: onnx.GraphProto) -> None:
        """That no function calls itself, and that expanding all calls ends with a model of a reasonable size."""
        called = {key: _calls(function.node, functions) for key, function in functions.items()}
        sizes: dict[tuple[str, str, str], tuple[int, int]] = {}
        for _ in range(MAX_CALLS):
            for key, (count, inner) in called.items():
                if key not in sizes and all(c in sizes for c in inner):
                    total = count + sum(sizes[c][0] for c in inner)
                    sizes[key] = min(total, MAX_NODES + 1), 1 + max((sizes[c][1] for c in inner), default=0)
        left = sorted(":".join(filter(None, key)) for key in functions if key not in sizes)
        if left:
            expected = f"no recursion, at most {MAX_CALLS} calls in a row"
            raise self.refuse("functions that call each other without end", "the model", ", ".join(left[:9]), expected)
        count, inner = _calls(graph.node, functions)
        if count + sum(sizes[c][0] for c in inner) > MAX_NODES:
            raise self.refuse(
                "functions expand to too many nodes", "the model", f"more than {MAX_NODES} nodes", f"at most {MAX_NODES}"
            )


def _calls(nodes: Sequence[onnx.NodeProto], functions: Mapping[Any, Any]) -> tuple[int, list[tuple[str, str, str]]]:
    """The number of nodes, those of subgraphs included, and the functions that they call, as often as they do."""
    count, called, pending = 0, [], list(nodes)
    while pending:
        node = pending.pop()
        count += 1
        key = (node.domain, node.op_type, node.overload)
        if key in functions:
            called.append(key)
        pending.extend(inner for graph in subgraphs(node) for inner in graph.node)
    return count, called


def _is_set(attribute: onnx.AttributeProto, name: str) -> bool:
    value = getattr(attribute, name)
    repeated = attribute.DESCRIPTOR.fields_by_name[name].is_repeated
    return bool(len(value)) if repeated else attribute.HasField(name)
