"""Replacing calls of functions by the functions' bodies."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx.inliner

from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.frontends.onnx_passes.walk import all_graphs, copy_of, opset_of
from gensyn_tvm.frontends.onnx_reader import guarded


def inline_functions(model: onnx.ModelProto, *, operators: Collection[str] = ()) -> onnx.ModelProto:
    """Expand the model's local functions and, by name, operators that ONNX itself defines by functions of others.

    Args:
        model: a valid model; it is not changed.
        operators: names of ONNX's own operators to expand too, like ``Gelu``. Those that do not occur are left out; in a
            version of the operator set where an operator is primitive it stays.

    Raises:
        InputError: an operator that has no function body in any version.
        ImportModelError: the bodies need another operator set than the model imports, or cannot be expanded.
    """
    for name in operators:
        if not _has_body(name, opset_of(model)):
            raise InputError(describe("this operator has no function body", found=repr(name), expected="a function of ONNX"))
    result = copy_of(model)
    with guarded(f"onnx:{model.graph.name}", "cannot inline functions"):
        if result.functions:
            result = onnx.inliner.inline_local_functions(result)
        used = {node.op_type for graph in all_graphs(result.graph) for node in graph.node}
        if used & set(operators):
            names = [("", name) for name in operators if name in used]
            result = onnx.inliner.inline_selected_functions(result, names, inline_schema_functions=True)
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if model.HasField(field):
            setattr(result, field, getattr(model, field))
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    return result


def _has_body(name: str, opset: int) -> bool:
    try:
        schema = onnx.defs.get_schema(name, opset, "")
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)
