"""Shape and dtype rules of the canonical operators; their meaning is in docs/numerics.md.

``RULES`` maps an operator's name to its rule. A rule receives the input types and the attributes and returns the output
types, or raises ``InvalidProgramError``. The registry is a literal: importing modules in another order changes nothing.
"""

from __future__ import annotations

from gensyn_tvm.canonical import index_rules
from gensyn_tvm.canonical import number_rules as n
from gensyn_tvm.canonical import tensor_rules as t
from gensyn_tvm.canonical import window_rules as w
from gensyn_tvm.canonical.elementary_rules import ELEMENTARY_RULES
from gensyn_tvm.canonical.graph import STATE_ROLES, Graph, Output
from gensyn_tvm.canonical.rule_basics import Attrs, Refused, Rule, Types
from gensyn_tvm.canonical.types import FLOATS, INTEGERS, NATIVE, TensorType
from gensyn_tvm.errors import InvalidProgramError, UnsupportedOperatorError, describe

#: Version of the numerics specification (docs/numerics.md). Part of every digest; a change of any bit is a new version.
NUMERICS_VERSION = "1"


def infer(op: str, inputs: Types, attrs: Attrs, *, where: str = "") -> tuple[TensorType, ...]:
    """Output types of ``op``.

    Raises:
        UnsupportedOperatorError: the operator does not exist.
        InvalidProgramError: input types or attributes break its rule.
    """
    rule = RULES.get(op)
    if rule is None:
        raise UnsupportedOperatorError(op, where=where, expected="one of the operators in docs/operators.md")
    try:
        return rule(inputs, attrs)
    except Refused as bad:
        raise InvalidProgramError(
            describe(f"canonical operator {op!r} cannot be applied", where=where, found=bad.found, expected=bad.expected)
        ) from None
    except KeyError as error:
        raise InvalidProgramError(
            describe(f"canonical operator {op!r} cannot be applied", where=where, expected=f"an attribute {error}")
        ) from None


def validate(graph: Graph) -> None:
    """Check a graph from outside: names, numbering, and every node against its operator's rule.

    Raises:
        InvalidProgramError: with the first thing that is wrong.
    """
    names = [i.name for i in graph.inputs]
    if len(set(names)) != len(names):
        raise InvalidProgramError("two inputs have the same name")
    types: list[TensorType] = [i.type for i in graph.inputs]
    for k, node in enumerate(graph.nodes):
        if not all(0 <= i < len(types) for i in node.inputs):
            raise InvalidProgramError(f"node {k} ({node.op}) reads a value that is not defined before it")
        expected = infer(node.op, [types[i] for i in node.inputs], node.attrs, where=node.source)
        if set(node.attrs) != ATTRIBUTES[node.op]:
            raise InvalidProgramError(
                f"node {k} ({node.op}) has attributes {sorted(node.attrs)}, expected {sorted(ATTRIBUTES[node.op])}"
            )
        if expected != node.types:
            raise InvalidProgramError(
                f"node {k} ({node.op}) claims outputs {', '.join(map(str, node.types))}; "
                f"its operator gives {', '.join(map(str, expected))}"
            )
        types.extend(node.types)
    _validate_outputs(graph, types)


def _validate_outputs(graph: Graph, types: list[TensorType]) -> None:
    if not graph.outputs:
        raise InvalidProgramError("the program has no outputs")
    out_names = [(o.name, o.updates) for o in graph.outputs]
    if len(set(out_names)) != len(out_names):
        raise InvalidProgramError("two outputs have the same name")
    by_name = {i.name: i for i in graph.inputs}
    for o in graph.outputs:
        if not 0 <= o.value < len(types):
            raise InvalidProgramError(f"output {o.name!r} refers to a value that does not exist")
        _validate_extents(o, types)
        if o.updates:
            state = by_name.get(o.name)
            if state is None or state.role not in STATE_ROLES or state.type != types[o.value]:
                raise InvalidProgramError(f"output {o.name!r} updates no state input of its name and type")


def _validate_extents(o: Output, types: list[TensorType]) -> None:
    ok = isinstance(o.extents, tuple) and all(
        isinstance(e, tuple) and len(e) == 2 and all(type(v) is int for v in e) for e in o.extents
    )
    axes = [axis for axis, _ in o.extents] if ok else []
    ok = ok and axes == sorted(set(axes)) and all(0 <= a < types[o.value].rank for a in axes)
    ok = ok and all(0 <= v < len(types) and types[v] == TensorType((), "int64") for _, v in o.extents)
    if not ok or (o.extents and o.updates):
        raise InvalidProgramError(
            f"output {o.name!r} has extents {o.extents!r}; expected ascending axes, each with the number of an int64 scalar, "
            "and none for updated state"
        )


NUMBERS = FLOATS + INTEGERS
ARITHMETIC = NUMBERS

RULES: dict[str, Rule] = {
    # elementwise, one input
    "neg": t.unary(NUMBERS),
    "abs": t.unary(NUMBERS),
    "sqrt": t.unary(FLOATS),
    "floor": t.unary(FLOATS),
    "ceil": t.unary(FLOATS),
    "round": t.unary(FLOATS),
    "sign": t.unary(FLOATS),
    **ELEMENTARY_RULES,
    "is_nan": t.predicate,
    "logical_not": t.unary(("bool",)),
    # elementwise, several inputs, NumPy broadcasting
    "add": t.binary(ARITHMETIC),
    "sub": t.binary(ARITHMETIC),
    "mul": t.binary(ARITHMETIC),
    "div": t.binary(NUMBERS),
    "maximum": t.binary(NUMBERS),
    "minimum": t.binary(NUMBERS),
    "equal": t.binary(NATIVE, "bool"),
    "not_equal": t.binary(NATIVE, "bool"),
    "less": t.binary(NUMBERS, "bool"),
    "less_equal": t.binary(NUMBERS, "bool"),
    "greater": t.binary(NUMBERS, "bool"),
    "greater_equal": t.binary(NUMBERS, "bool"),
    "logical_and": t.binary(("bool",)),
    "logical_or": t.binary(("bool",)),
    "where": t.where,
    "cast": t.cast,
    **n.RULES,
    # reductions
    "sum": t.reduction(ARITHMETIC, empty=True),
    "prod": t.reduction(ARITHMETIC, empty=True),
    "reduce_max": t.reduction(NUMBERS, empty=False),
    "reduce_min": t.reduction(NUMBERS, empty=False),
    "argmax": t.arg_reduction,
    "argmin": t.arg_reduction,
    # linear algebra, convolution, pooling
    **w.RULES,
    # data movement
    "reshape": t.reshape,
    "transpose": t.transpose,
    "broadcast_to": t.broadcast_to,
    "concat": t.concat,
    "slice": t.slice_,
    "pad": t.pad,
    # indexing with data, order
    **index_rules.RULES,
    # sources
    "constant": t.constant,
    "iota": t.iota,
    "random_bits": t.random_bits,
}

_REDUCE = {"axes", "keepdims"}

#: The attributes that a node of each operator has, no more and no fewer.
ATTRIBUTES: dict[str, set[str]] = {name: set() for name in RULES} | {
    "cast": {"dtype"},
    **n.ATTRIBUTES,
    "sum": _REDUCE,
    "prod": _REDUCE,
    "reduce_max": _REDUCE,
    "reduce_min": _REDUCE,
    "argmax": _REDUCE,
    "argmin": _REDUCE,
    **w.ATTRIBUTES,
    "reshape": {"shape"},
    "transpose": {"perm"},
    "broadcast_to": {"shape"},
    "concat": {"axis"},
    "slice": {"starts", "limits", "strides"},
    "pad": {"padding"},
    **index_rules.ATTRIBUTES,
    "constant": {"dtype", "shape", "data"},
    "iota": {"dtype", "shape", "axis"},
    "random_bits": {"op_id", "shape"},
}
