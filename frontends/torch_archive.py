"""Reading ``.pt2`` files, which ``torch.export.save`` writes, without running anything in them.

``torch.export.load`` unpickles sample inputs and some arrays, evaluates symbolic extents as Python, and resolves the names of
operators to any attribute of ``torch``. So a file is looked through first, and loaded from a copy in memory that has just the
members that were looked at: a zip that two readers understand differently gains nothing.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from gensyn_tvm.errors import ZIP_ERRORS, ImportModelError, import_error

_MEMBER = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json|archive_format|archive_version|byteorder|\.data/\w+"
)
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_MODEL, _SAMPLES = "models/model.json", "data/sample_inputs/model.pt"
#: Operators, and no other attribute of a namespace; those of Python's own operators are written with two underscores.
_OPERATOR = re.compile(
    r"torch\.ops\.\w+\.(?!__)\w+(\.(?!__)\w+)?|torch\.ops\.aten\.__(and|or|xor|lshift|rshift)__\.\w+|_operator\.(?!__)\w+"
)
_SAVE_AGAIN = "save it with torch.export.save of this PyTorch, or convert module:callable, whose code is run"


def load_archive(path: Path) -> torch.export.ExportedProgram:
    """The exported program in a ``.pt2`` file; no code of the file is run.

    Raises:
        ImportModelError: a missing, damaged or older file, one that asks for code to be run, or one with open extents.
    """
    members = _members(path)
    for name in _CONFIGS:
        _check_config(path, name, _json(path, members, name))
    _check_program(path, _json(path, members, _MODEL))
    members[_SAMPLES] = b""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(f"model/{name}", data)
    buffer.seek(0)
    try:
        exported = torch.export.load(buffer)
    except Exception as error:  # PyTorch raises anything for odd files
        found = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        raise _refuse(path, "PyTorch cannot load the file", found) from error
    _tie(exported.state_dict)
    return exported


def _tie(state: dict[str, Any]) -> None:
    """Make one object of tied parameters again: a file keeps that they share memory, not that they are the same."""
    first: dict[Any, Any] = {}
    for name, tensor in state.items():
        if isinstance(tensor, torch.nn.Parameter) and tensor.numel():
            key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.requires_grad)
            state[name] = first.setdefault(key, tensor)


def _refuse(path: Path, what: str, found: str, remedy: str = _SAVE_AGAIN) -> ImportModelError:
    expected = "a .pt2 file of static shapes"
    return import_error(f"from_torch: {what}", where=str(path), found=found, expected=expected, remedy=remedy)


def _members(path: Path) -> dict[str, bytes]:
    """Contents of the archive by name below its one folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            folder = names[0].split("/")[0] if names else ""
            if f"{folder}/{_MODEL}" not in names:
                raise _refuse(path, "not a .pt2 file of torch.export", f"members {', '.join(names[:4])}, …")
            odd = [n for n in names if not n.startswith(f"{folder}/") or not _MEMBER.fullmatch(n[len(folder) + 1 :])]
            if odd or len(set(names)) != len(names):
                raise _refuse(path, "the file holds more than a program and its arrays", ", ".join(odd) or "a name twice")
            return {name[len(folder) + 1 :]: archive.read(name) for name in names}
    except ZIP_ERRORS as error:
        raise _refuse(path, "the file cannot be read", str(error)) from error


def _json(path: Path, members: Mapping[str, bytes], name: str) -> Any:
    try:
        return json.loads(members[name])
    except (KeyError, ValueError, RecursionError) as error:
        raise _refuse(path, "the file is damaged", f"{name}: {type(error).__name__} {error}") from error


def _check_config(path: Path, name: str, config: Any) -> None:
    """Refuse arrays that are pickled."""
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise _refuse(path, "the file is damaged", f"{name} is no table of arrays")
    pickled = [k for k, e in entries.items() if e.get("use_pickle") is not False]
    if pickled:
        raise _refuse(path, "the file has pickled objects, which can run code", ", ".join(pickled))


def _check_program(path: Path, program: Any) -> None:
    """Refuse what loading would evaluate, import or call, all names at once."""
    if not isinstance(program, dict):
        raise _refuse(path, "the file is damaged", f"{_MODEL} is no program")
    if program.get("guards_code"):
        raise _refuse(path, "the file has conditions in Python", str(program["guards_code"])[:200])
    suspicious, symbols = set(), set()
    for key, value in _items(program):
        if key == "expr_str":
            symbols.add(str(value))
        elif key in ("target", "as_operator") and not _is_operator(value):
            suspicious.add(str(value)[:80])
        elif key in ("as_custom_obj", "as_opaque_value"):
            suspicious.add(key)
        elif key in ("in_spec", "out_spec") and isinstance(value, str):
            suspicious.update(_imports(path, value))
    if suspicious:
        found = ", ".join(sorted(suspicious))
        raise _refuse(path, "the file names what is no operator, or asks for code to be imported", found)
    if symbols:
        remedy = "export with the shapes that are to be compiled, without dynamic_shapes"
        raise _refuse(path, "a dimension is not static", ", ".join(sorted(symbols)[:3]), remedy)


def _is_operator(value: Any) -> bool:
    """Whether a target is an operator; targets that are no strings belong to other parts of the schema."""
    return not isinstance(value, str) or bool(_OPERATOR.fullmatch(value))


def _imports(path: Path, text: str) -> Iterator[str]:
    """What a description of a structure would import: enumerations, and the factories of a defaultdict."""
    for key, value in _items(_json(path, {"structure": text.encode()}, "structure")):
        if key == "type" and value == "collections.defaultdict":
            yield str(value)
        elif key == "__enum__":
            yield "an enumeration"
        elif key == "context" and isinstance(value, str):
            yield from _imports(path, value)


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values, at any depth."""
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            yield from current.items()
            waiting.extend(current.values())
        elif isinstance(current, list):
            waiting.extend(current)
