"""A program as an ONNX file: standard operators, parameters and buffers as initialisers under their names.

Only operators that ONNX specifies are written, unless approximations are asked for; which rounding and which order of sums
somebody else's runtime chooses is its own affair. ``from_onnx`` of the file gives a program with the bits of this one
(docs/export-onnx.md).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
from onnx import helper, numpy_helper

from gensyn_tvm.canonical.graph import STATE_ROLES, Graph
from gensyn_tvm.compiler import Source, source_of
from gensyn_tvm.errors import InvalidProgramError, UnsupportedOperatorError, describe, unsupported
from gensyn_tvm.export.onnx_operators import APPROXIMATE, ENTRIES, Entry, NoOperatorError, Writer, element_type
from gensyn_tvm.runtime.executable import Executable
from gensyn_tvm.trainer.files import replace_file
from gensyn_tvm.weights.onnx import serialised
from gensyn_tvm.weights.program import weights_of

#: Names of the initialisers that are parameters, separated by newlines: ``from_onnx(trainable=…)`` wants them.
PARAMETERS = "gensyn_tvm.parameters"


def export_onnx(
    program: Any, path: str | os.PathLike[str], state: Mapping[str, Any] | None = None, *, approximate: bool = False
) -> None:
    """Write the inference program as an ``.onnx`` file: completely, or not at all.

    Args:
        program: a ``Program``, ``Source`` or ``Executable``.
        path: where to.
        state: other parameters and buffers, such as a ``State`` after training.
        approximate: write functions that ONNX lacks (``erfc``, ``log1p``, …) as compositions, which have other bits.

    Raises:
        UnsupportedOperatorError: operators that ONNX does not have, all of them in one message.
        InvalidProgramError: a training step, or outputs whose extents are computed.
        InputError: ``state`` does not fit; a file of more than 2 GiB.
        OSError: the file cannot be written.
    """
    replace_file(Path(path), serialised(to_onnx(program, state, approximate=approximate)))


def to_onnx(program: Any, state: Mapping[str, Any] | None = None, *, approximate: bool = False) -> onnx.ModelProto:
    """The ONNX model of an inference program; arguments and errors as ``export_onnx``, but for the file."""
    source = Source(program.graph, program.state) if isinstance(program, Executable) else source_of(program)
    graph = source.graph
    _check(graph)
    arrays = weights_of(source, state)
    outputs = _output_names(graph)
    writer = Writer(taken={*outputs, *(i.name for i in graph.inputs)})
    names = _write(graph, writer, {**ENTRIES, **(APPROXIMATE if approximate else {})})
    writer.source = ""
    for name, output in zip(outputs, graph.outputs, strict=True):
        writer.node("Identity", names[output.value], name=name)
    model = _model(graph, writer, outputs, arrays)
    onnx.checker.check_model(model)
    return model


def _check(graph: Graph) -> None:
    """Refuse what is no inference program."""
    computed = [o.name for o in graph.outputs if o.extents]
    if any(o.updates for o in graph.outputs):
        found, remedy = "a training step", "export the program that it was made of, with state="
    elif computed:
        found, remedy = f"outputs whose extents are computed: {', '.join(computed)}", "export a model without them"
    else:
        return
    raise InvalidProgramError(
        describe("this program has no ONNX file", where=graph.name, found=found, expected="an inference program", remedy=remedy)
    )


def _output_names(graph: Graph) -> list[str]:
    """Names of the model's outputs: the program's, a longer one where an input is called the same."""
    taken = {i.name for i in graph.inputs}
    result = []
    for output in graph.outputs:
        name = output.name
        while name in taken:
            name += "_output"
        taken.add(name)
        result.append(name)
    return result


def _write(graph: Graph, writer: Writer, entries: Mapping[str, Entry]) -> list[str]:
    """Write all nodes; the name of each value.

    Raises:
        UnsupportedOperatorError: all operators that ONNX does not have, with their places.
    """
    types = graph.value_types()
    names = [i.name for i in graph.inputs]
    missing: dict[str, list[str]] = {}
    for node in graph.nodes:
        writer.types, writer.source = [types[i] for i in node.inputs], node.source
        try:
            if node.op not in entries:
                raise NoOperatorError(node.op)
            names.append(entries[node.op](writer, node, [names[i] for i in node.inputs]))
        except NoOperatorError as error:
            missing.setdefault(str(error), []).append(node.source or f"value {len(names)}")
            names.append("")
    if missing:
        raise unsupported(
            missing,
            expected="operators that ONNX has (docs/export-onnx.md)",
            remedy="write this part of the model with operators that ONNX has"
            + ("; or approximate=True (--approximate)" if set(missing) <= set(APPROXIMATE) else ""),
        )
    return names


def _model(graph: Graph, writer: Writer, outputs: list[str], arrays: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    types = graph.value_types()
    info = helper.make_tensor_value_info
    try:
        body = helper.make_graph(
            writer.nodes,
            graph.name or "program",
            [info(i.name, element_type(i.type.dtype), i.type.shape) for i in graph.inputs if i.role not in STATE_ROLES],
            [
                info(name, element_type(types[o.value].dtype), types[o.value].shape)
                for name, o in zip(outputs, graph.outputs, strict=True)
            ],
            [numpy_helper.from_array(arrays[i.name], i.name) for i in graph.inputs if i.role in STATE_ROLES],
        )
    except NoOperatorError as error:
        raise UnsupportedOperatorError(str(error), where="an input or output", expected="a dtype that ONNX has") from None
    opsets = [helper.make_opsetid("", writer.opset)]
    model = helper.make_model(body, opset_imports=opsets, producer_name="gensyn_tvm")
    model.ir_version = helper.find_min_ir_version_for(opsets)
    trained = "\n".join(i.name for i in graph.inputs if i.role == "parameter")
    model.metadata_props.append(onnx.StringStringEntryProto(key=PARAMETERS, value=trained))
    return model
