"""The canonical graph as JSON, and the digest that names a program.

The text is our own and stable: sorted keys, no floats (constants are little-endian bytes in base64), no dependence on
TVM's printer. ``digest`` covers the numerics version and the structure; names and source locations are left out, so that
the same network imported from two frameworks can have the same digest.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from gensyn_tvm.canonical import rules
from gensyn_tvm.canonical.graph import ROLES, Graph, Input, Node, Output
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InvalidProgramError

FORMAT = "gensyn_tvm.program"
FORMAT_VERSION = 2


def to_json(graph: Graph) -> dict[str, Any]:
    """The graph as JSON-ready dictionaries and lists."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "numerics": rules.NUMERICS_VERSION,
        "name": graph.name,
        "inputs": [{"name": i.name, "role": i.role, **_type_json(i.type)} for i in graph.inputs],
        "nodes": [
            {
                "op": n.op,
                "inputs": list(n.inputs),
                "attrs": {k: _listed(v) for k, v in sorted(n.attrs.items())},
                "outputs": [_type_json(t) for t in n.types],
                "source": n.source,
            }
            for n in graph.nodes
        ],
        "outputs": [
            {"name": o.name, "value": o.value, "updates": o.updates, "extents": _listed(o.extents)} for o in graph.outputs
        ],
    }


def dumps(graph: Graph) -> str:
    """The graph as text, the same for equal graphs on every machine."""
    return json.dumps(to_json(graph), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(graph: Graph) -> str:
    """SHA-256 (hex) of the numerics version and the structure of the graph, without names and source locations."""
    data = to_json(graph)
    del data["name"]
    for i in data["inputs"]:
        del i["name"]
    for n in data["nodes"]:
        del n["source"]
    for o in data["outputs"]:
        del o["name"]
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def loads(text: str | bytes) -> Graph:
    """Read and validate a serialised graph.

    Raises:
        InvalidProgramError: anything that ``dumps`` cannot have written, or a graph that breaks the operators' rules.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidProgramError(f"the program is not valid JSON: {error}") from error
    return from_json(data)


def from_json(data: Any) -> Graph:
    """Like ``loads``, from parsed JSON."""
    top = _record(
        data, "program", format=str, format_version=int, numerics=str, name=str, inputs=list, nodes=list, outputs=list
    )
    if top["format"] != FORMAT or top["format_version"] != FORMAT_VERSION:
        raise InvalidProgramError(
            f"not a program that this version reads: format {top['format']!r} version {top['format_version']!r}, "
            f"expected {FORMAT!r} version {FORMAT_VERSION}"
        )
    if top["numerics"] != rules.NUMERICS_VERSION:
        raise InvalidProgramError(
            f"the program was frozen under numerics version {top['numerics']!r}; this installation executes "
            f"{rules.NUMERICS_VERSION!r}; install the gensyn_tvm release that has it"
        )
    inputs = []
    for k, item in enumerate(top["inputs"]):
        r = _record(item, f"input {k}", name=str, role=str, shape=list, dtype=str)
        if r["role"] not in ROLES:
            raise InvalidProgramError(f"input {k}: unknown role {r['role']!r}")
        inputs.append(Input(r["name"], r["role"], _type(r)))
    nodes = []
    for k, item in enumerate(top["nodes"]):
        r = _record(item, f"node {k}", op=str, inputs=list, attrs=dict, outputs=list, source=str)
        if not all(type(i) is int for i in r["inputs"]):
            raise InvalidProgramError(f"node {k}: inputs must be integers, found {r['inputs']!r}")
        types = tuple(_type(_record(t, f"node {k} output", shape=list, dtype=str)) for t in r["outputs"])
        attrs = {name: _tupled(v, f"node {k} attribute {name}") for name, v in sorted(r["attrs"].items())}
        nodes.append(Node(r["op"], tuple(r["inputs"]), attrs, types, r["source"]))
    outputs = []
    for k, item in enumerate(top["outputs"]):
        r = _record(item, f"output {k}", name=str, value=int, updates=bool, extents=list)
        extents = _tupled(r["extents"], f"output {k} extents")
        outputs.append(Output(r["name"], r["value"], r["updates"], extents))
    graph = Graph(top["name"], tuple(inputs), tuple(nodes), tuple(outputs))
    rules.validate(graph)
    return graph


def _type_json(t: TensorType) -> dict[str, Any]:
    return {"shape": list(t.shape), "dtype": t.dtype}


def _type(record: dict[str, Any]) -> TensorType:
    return TensorType(tuple(record["shape"]), record["dtype"])


def _record(data: Any, what: str, **fields: type) -> dict[str, Any]:
    if not isinstance(data, dict) or set(data) != set(fields):
        found = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise InvalidProgramError(f"{what}: expected an object with {sorted(fields)}, found {found}")
    for name, kind in fields.items():
        if type(data[name]) is not kind:
            raise InvalidProgramError(f"{what}: {name} must be {kind.__name__}, found {type(data[name]).__name__}")
    return data


def _listed(value: Any) -> Any:
    return [_listed(v) for v in value] if isinstance(value, tuple) else value


def _tupled(value: Any, what: str) -> Any:
    if isinstance(value, list):
        return tuple(_tupled(v, what) for v in value)
    if type(value) in (int, bool, str):
        return value
    raise InvalidProgramError(f"{what}: expected integers, booleans, strings or lists of them, found {value!r}")
