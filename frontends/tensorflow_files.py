"""SavedModels, opened without letting their graphs reach out of the process.

TensorFlow's loader runs functions that the file brings: those that create and initialise resources, and those that restore
objects. They may contain any operator, also one that writes files. So the file is parsed first, and refused if one of these
functions has an operator that is not known to be harmless. The same holds for a signature before TensorFlow runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gensyn_tvm.errors import ImportModelError, import_error
from gensyn_tvm.frontends.tensorflow_graph import OWN, tf
from gensyn_tvm.frontends.tensorflow_operators import CONVERTERS

#: Operators of lookup tables in memory, which initialisers of models that do not use them may still run.
_TABLES = {
    "HashTableV2",
    "MutableHashTableV2",
    "LookupTableImportV2",
    "LookupTableExportV2",
    "LookupTableFindV2",
    "LookupTableInsertV2",
    "LookupTableSizeV2",
}
#: Draws of layers that act in training only; an inference graph may hold them in a branch that is not taken.
_DRAWS = {
    "RandomUniform",
    "RandomUniformInt",
    "RandomStandardNormal",
    "TruncatedNormal",
    "StatelessRandomGetKeyCounter",
    "StatelessRandomGetAlg",
    "StatelessRandomUniform",
    "StatelessRandomUniformV2",
    "StatelessRandomUniformIntV2",
    "StatelessRandomNormal",
    "StatelessRandomNormalV2",
    "StatelessTruncatedNormalV2",
}
_HARMLESS = {*CONVERTERS, *OWN, *_TABLES, *_DRAWS, "VarHandleOp", "DestroyResourceOp", "StringFormat"}

#: Functions of objects that the loader does not call.
_NOT_CALLED = {"__call__", "_default_save_signature"}

_REMEDY = "if you trust it, load it with tf.saved_model.load in code of your own, and give its function to from_tensorflow"


def load_saved_model(path: Path) -> Any:
    """What ``tf.saved_model.load`` makes of a folder.

    Raises:
        ImportModelError: no such folder, a damaged file, a file of TensorFlow 1, functions that would be run while loading and
            have operators that reach out of the process.
    """
    from tensorflow.python.saved_model import loader_impl

    if not (path / "saved_model.pb").is_file():
        raise import_error(
            "from_tensorflow: no SavedModel",
            where=str(path),
            found="no such folder" if not path.exists() else "no saved_model.pb",
            expected="a folder with saved_model.pb and variables/",
            remedy="save it with tf.saved_model.save; .keras and .h5 files are read by from_keras",
        )
    try:
        # The loader's own parser, so that what is checked is what is loaded.
        saved, _debug = loader_impl.parse_saved_model_with_debug_info(str(path))
        _check_loading(saved, path)
        return tf.saved_model.load(str(path))
    except ImportModelError:
        raise
    except Exception as error:  # TensorFlow raises anything from OSError to google.protobuf's errors
        raise import_error(
            "from_tensorflow: the SavedModel cannot be read",
            where=str(path),
            found=str(error).split("\n")[0] or type(error).__name__,
            expected="what tf.saved_model.save wrote: saved_model.pb and variables/",
            remedy="save or copy it again",
        ) from error


def check_runnable(concrete: Any, where: str) -> None:
    """Refuse to run a function that reaches out of the process.

    Raises:
        ImportModelError: it, or a function that it knows, has such an operator, whether a result depends on it or not.
    """
    graph = concrete.graph.as_graph_def()
    functions = {f.signature.name: f for f in graph.library.function}
    _refuse([*graph.node, *(n for f in functions.values() for n in f.node_def)], functions, where, "when its signature is")


def _check_loading(saved: Any, path: Path) -> None:
    graphs = saved.meta_graphs
    if len(graphs) != 1 or not graphs[0].HasField("object_graph_def"):
        raise import_error(
            "from_tensorflow: a SavedModel of TensorFlow 1, whose graph is run while it is loaded",
            where=str(path),
            found=f"{len(graphs)} graphs, without objects",
            expected="one graph with objects, as tf.saved_model.save of TensorFlow 2 writes it",
            remedy=_REMEDY,
        )
    functions = {f.signature.name: f for f in graphs[0].graph_def.library.function}
    nodes = _reached(functions, _called_in_loading(graphs[0].object_graph_def))
    _refuse(nodes, functions, str(path), "while it is loaded")


def _called_in_loading(objects: Any) -> set[str]:
    """Names of the functions that the loader may call.

    It makes children of objects their attributes. Those of variables and resources, and those that begin with an underscore,
    may stand in for methods of TensorFlow that loading calls.
    """
    waiting: list[int] = []
    for node in objects.nodes:
        kind = node.WhichOneof("kind")
        if kind not in ("function", "bare_concrete_function"):
            hidden = [c for c in node.children if kind != "user_object" or c.local_name.startswith("_")]
            waiting += [c.node_id for c in hidden if c.local_name not in _NOT_CALLED]
        for saveable in node.saveable_objects.values():
            waiting += [saveable.save_function, saveable.restore_function]
    found: set[str] = set()
    seen: set[int] = set()
    while waiting:
        k = waiting.pop()
        if k in seen or not 0 <= k < len(objects.nodes):
            continue
        seen.add(k)
        node = objects.nodes[k]
        found.update(node.function.concrete_functions)
        found.add(node.bare_concrete_function.concrete_function_name)
        waiting += [c.node_id for c in node.children if c.local_name == "__call__"]  # an object that can be called
    return found


def _reached(functions: Mapping[str, Any], names: Iterable[str]) -> Iterator[Any]:
    """The operators of functions and of those that they call in any way."""
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in functions[name].node_def:
            yield node
            waiting.append(node.op)
            for value in node.attr.values():
                waiting += [value.func.name, *(f.name for f in value.list.func)]


def _refuse(nodes: Iterable[Any], functions: Mapping[str, Any], where: str, when: str) -> None:
    found = {f"{n.op} ({n.name})": None for n in nodes if not _is_harmless(n) and n.op not in functions}
    if found:
        raise import_error(
            f"from_tensorflow: the SavedModel asks for code to be run {when}",
            where=where,
            found=", ".join(found),
            expected="variables and lookup tables only, or operators that can be imported",
            remedy=_REMEDY,
        )


def _is_harmless(node: Any) -> bool:
    # PrintV2 can append to a file.
    return node.op in _HARMLESS and not (node.op == "PrintV2" and node.attr["output_stream"].s.startswith(b"file:"))
