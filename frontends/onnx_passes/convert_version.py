"""To another version of ONNX's operator set."""

from __future__ import annotations

import onnx
import onnx.version_converter

from gensyn_tvm.errors import import_error
from gensyn_tvm.frontends.onnx_passes.walk import all_graphs, copy_of, opset_of
from gensyn_tvm.frontends.onnx_reader import OPSETS, guarded


def convert_version(model: onnx.ModelProto, *, opset: int | None = None) -> onnx.ModelProto:
    """Convert to a newer version of the default operator set, over ``onnx.version_converter``.

    Args:
        model: a valid model without local functions; it is not changed.
        opset: the version; by default the newest that both can be imported and is known to the installed onnx.

    Raises:
        ImportModelError: an older version than the model's or an unknown one; local functions; operators that
            onnx.version_converter cannot convert.
    """
    newest = min(OPSETS.stop - 1, onnx.defs.onnx_opset_version())
    wanted, present = newest if opset is None else opset, opset_of(model)
    where = f"onnx:{model.graph.name}"
    if not present <= wanted <= newest:
        expected = f"{present} (the model's) to {newest}"
        message, remedy = "cannot convert to this opset", "name one of those, or export the model again"
        raise import_error(message, where=where, found=str(wanted), expected=expected, remedy=remedy)
    if wanted == present:
        return copy_of(model)
    if model.functions:
        names = ", ".join(f.name for f in model.functions)
        message, expected = "cannot convert the opset of local functions", "a model without them"
        raise import_error(message, where=where, found=names, expected=expected, remedy="inline_functions first")
    with guarded(where, f"onnx.version_converter cannot convert from opset {present} to {wanted}"):
        converted = onnx.version_converter.convert_version(model, wanted)
    _restore(model, converted)
    return converted


def _restore(old: onnx.ModelProto, new: onnx.ModelProto) -> None:
    """Put back what the converter drops: its own representation has no place for texts and metadata."""
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        if old.HasField(field):
            setattr(new, field, getattr(old, field))
    _restore_metadata(old, new)
    imported = {o.domain for o in new.opset_import}
    new.opset_import.extend(o for o in old.opset_import if o.domain not in imported)
    olds = {g.name: g for g in all_graphs(old.graph)}
    for graph in all_graphs(new.graph):
        if graph.name in olds:
            _restore_graph(olds[graph.name], graph)


def _restore_graph(old: onnx.GraphProto, new: onnx.GraphProto) -> None:
    if old.HasField("doc_string"):
        new.doc_string = old.doc_string
    _restore_metadata(old, new)
    del new.quantization_annotation[:]
    new.quantization_annotation.extend(old.quantization_annotation)
    made = {name: node for node in old.node for name in node.output if name}
    for node in new.node:
        source = next((made[name] for name in node.output if name in made), None)
        if source is not None:
            node.name = source.name or node.name
            if source.HasField("doc_string"):
                node.doc_string = source.doc_string
            _restore_metadata(source, node)
    for field in ("input", "output", "initializer"):
        infos = {i.name: i for i in getattr(old, field)}
        for info in getattr(new, field):
            if info.name in infos:
                _restore_text(infos[info.name], info)


def _restore_text(old: onnx.ValueInfoProto | onnx.TensorProto, new: onnx.ValueInfoProto | onnx.TensorProto) -> None:
    if old.HasField("doc_string"):
        new.doc_string = old.doc_string
    _restore_metadata(old, new)


def _restore_metadata(old: onnx.ModelProto, new: onnx.ModelProto) -> None:
    """Of any message with ``metadata_props``."""
    del new.metadata_props[:]
    new.metadata_props.extend(old.metadata_props)
