"""TFLite files that are damaged, of another version, or use what cannot be imported: an error that says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gensyn_tvm.errors import GensynError, UnsupportedOperatorError
from gensyn_tvm.frontends import tflite_schema
from gensyn_tvm.frontends.tflite import from_tflite
from tests.frontends.messages import refused

from .tflite_models import T, constant, model, operator, options, schema, single

X = T((2, 3))


def good() -> bytes:
    """A small file with options, constants and quantisation."""
    w = constant(np.ones((4, 3), np.int8), scale=[0.1, 0.2, 0.3, 0.4], zero=[0, 0, 0, 0])
    tensors = [T((2, 3), "int8", scale=0.1, signature=(-1, 3)), w, T((2, 4), "int8", scale=0.2, signature=(-1, 4))]
    return model(tensors, [operator("FULLY_CONNECTED", [0, 1], [2], options("FullyConnected"))], [0], [2])


def damaged(file: bytes | Path, *words: str) -> None:
    with refused("from_tflite: ") as caught:
        from_tflite(file, input_shapes=[(2, 3)])
    for word in words:
        assert word in str(caught.value)


def packed(change: Callable[[Any], None]) -> bytes:
    """The good file with something changed in its objects."""
    import flatbuffers

    made = schema.ModelT.InitFromPackedBuf(good(), 0)
    change(made)
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _set(path: str, value: Any) -> Callable[[Any], None]:
    def change(made: Any) -> None:
        *parents, last = path.split(".")
        for part in parents:
            made = made[int(part)] if part.isdigit() else getattr(made, part)
        setattr(made, last, value)

    return change


GRAPH = "subgraphs.0."
DAMAGED: dict[str, tuple[Callable[[Any], None], str]] = {
    "an operator's input": (_set(GRAPH + "operators.0.inputs", [0, 9]), "tensors (0, 9) → (2,)"),
    "an operator's output": (_set(GRAPH + "operators.0.outputs", [-1]), "(-1,)"),
    "an operator code": (_set(GRAPH + "operators.0.opcodeIndex", 3), "operator code 3 of 1"),
    "a buffer": (_set(GRAPH + "tensors.1.buffer", 77), "buffer of the tensor 't1', 77"),
    "a dtype": (_set(GRAPH + "tensors.1.type", 99), "dtype of the tensor 't1', 99"),
    "a shape": (_set(GRAPH + "tensors.1.shape", [4, 5]), "12 bytes for the tensor 't1', int8[4, 5]"),
    "a negative shape": (_set(GRAPH + "tensors.1.shape", [-4, 3]), "shape (-4, 3)"),
    "a signature": (_set(GRAPH + "tensors.0.shapeSignature", [-1]), "(2, 3) and (-1,)"),
    "scales": (_set(GRAPH + "tensors.1.quantization.scale", np.ones(3, np.float32)), "3 scales"),
    "an infinite scale": (_set(GRAPH + "tensors.1.quantization.scale", np.full(4, np.inf, np.float32)), "scales [inf"),
    "a zero point": (_set(GRAPH + "tensors.0.quantization.zeroPoint", np.array([2**40])), "zero points [1099511627776]"),
    "an axis": (_set(GRAPH + "tensors.1.quantization.quantizedDimension", 5), "along axis 5"),
    "no graph": (_set("subgraphs", []), "subgraph 0 of 0"),
    "an output tensor": (_set(GRAPH + "outputs", [12]), "output tensor 12 of 3"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_references_that_lead_nowhere(name: str) -> None:
    change, words = DAMAGED[name]
    damaged(packed(change), "the file is damaged", words)


def test_other_files_and_versions(tmp_path: Path) -> None:
    damaged(b"", "this is no TFLite file", "0 bytes")
    damaged(b"\0" * 64, "identifier b'\\x00\\x00\\x00\\x00'", "tf.lite.TFLiteConverter")
    damaged(packed(_set("version", 4)), "a version of the file format", "found: 4", "expected: 3")
    damaged(tmp_path / "missing.tflite", "no such file", "missing.tflite")
    path = tmp_path / "short.tflite"
    path.write_bytes(good()[:200])
    damaged(path, "in: short.tflite", "the file is damaged")


def test_every_truncation_and_changed_byte_is_an_error_or_a_program() -> None:
    """No other exception than ours, and no reading outside of the file, whatever the bytes are."""
    file, seen = good(), 0
    for length in range(8, len(file), 3):
        with pytest.raises(GensynError):
            from_tflite(file[:length], input_shapes=[(2, 3)])
    generator = np.random.default_rng(0)
    for place in range(8, len(file)):
        changed = bytearray(file)
        changed[place] = int(generator.choice([0, 1, 0x7F, 0x80, 0xFF]))
        try:
            from_tflite(bytes(changed), input_shapes=[(2, 3)])
        except GensynError:
            seen += 1
    assert seen > 100


def test_lengths_and_offsets_beyond_the_file() -> None:
    file, errors = good(), 0
    for place in range(8, len(file) - 4, 4):
        changed = bytearray(file)
        changed[place : place + 4] = b"\xff\xff\xff\x7f"
        try:
            from_tflite(bytes(changed), input_shapes=[(2, 3)])
        except GensynError:
            errors += 1
    assert errors > len(file) // 16


def _table(data: bytearray, **slots: bytes) -> int:
    """Append a table whose fields, by ``s<slot>``, are four bytes each; where it begins."""
    count = max(int(name[1:]) for name in slots) + 1
    offsets = [4 + 4 * list(slots).index(f"s{k}") if f"s{k}" in slots else 0 for k in range(count)]
    vtable = len(data)
    data += b"".join(v.to_bytes(2, "little") for v in (4 + 2 * count, 4 + 4 * len(slots), *offsets))
    start = len(data)
    data += (start - vtable).to_bytes(4, "little") + b"".join(slots.values())
    return start


def test_one_table_under_many_offsets_ends_soon() -> None:
    """A thousand graphs that are one, of a thousand operators that are one."""
    data, many = bytearray(b"\0\0\0\0TFL3"), 1000

    def point(place: int, target: int) -> None:
        data[place : place + 4] = (target - place).to_bytes(4, "little")

    def vector() -> int:
        data.extend(many.to_bytes(4, "little") + bytes(4 * many))
        return len(data) - 4 * many - 4

    model_at = _table(data, s0=b"\3\0\0\0", s2=bytes(4))
    point(0, model_at)
    graphs = vector()
    point(model_at + 8, graphs)
    graph_at = _table(data, s3=bytes(4))
    operators = vector()
    point(graph_at + 4, operators)
    operator_at = _table(data, s0=bytes(4))
    for k in range(many):
        point(graphs + 4 + 4 * k, graph_at)
        point(operators + 4 + 4 * k, operator_at)
    damaged(bytes(data), "the file is damaged", "tables that overlap")


def test_operators_that_are_not_tflites() -> None:
    def said(file: bytes, *words: str) -> None:
        with refused("expected: TFLite's operators", UnsupportedOperatorError) as caught:
            from_tflite(file)
        for word in words:
            assert word in str(caught.value)

    for kind, words in (("FlexErf", "SELECT_TF_OPS"), ("Mine", "allow_custom_ops")):
        file = model([X, X, X], [operator(kind, [0], [1]), operator(kind, [1], [2])], [0], [2])
        said(file, f"unsupported operator 'CUSTOM {kind}'", "0:t1, 1:t2", words)
    said(single("SVDF", [X], [X]), "'SVDF'", "0:t1", "build the model of supported operators")
    said(single("VAR_HANDLE", [], [T((), "resource")]), "freeze the model")
    said(model([X, X, X], [operator("WHILE", [0], [1]), operator("UNIQUE", [1], [2])], [0], [2]), "WHILE, UNIQUE", "1:t2")
    said(packed(_set("operatorCodes.0.builtinCode", 900)), "builtin operator 900")


def test_tensors_that_cannot_be_computed_with() -> None:
    with refused(r"input 't0' cannot be an input(.|\n)*dtype string"):
        from_tflite(single("ABS", [T((2,), "string")], [T((2,), "string")]))
    with refused("several int4 in a byte in the tensor 't1'", UnsupportedOperatorError):
        from_tflite(single("ADD", [X, T((2, 3), "int4", array=np.zeros(3, np.int8))], [X], options("Add")))
    with refused(r"depends on t1(.|\n)*known at import", UnsupportedOperatorError):
        from_tflite(single("RESHAPE", [X, T((1,), "int32")], [T((6,))]))
    huge = single("FILL", [constant(np.array([2**30, 2**30], np.int32)), constant(np.float32(1))], [T((2**30, 2**30))])
    from_tflite(huge)  # no memory for what nobody has computed yet
    with refused("steps", UnsupportedOperatorError):
        from_tflite(single("TILE", [X, constant(np.array([2**30, 1], np.int32))], [T((2**31 - 1, 3))]))


def test_the_schema_is_tensorflows() -> None:
    """Names by number, and the slots of the tables, against the schema that TensorFlow ships."""
    pairs = ((tflite_schema.OPERATORS, schema.BuiltinOperator), (tflite_schema.OPTIONS, schema.BuiltinOptions))
    for ours, theirs in (*pairs, (tflite_schema.TYPES, schema.TensorType)):
        named = {v: k for k, v in vars(theirs).items() if not k.startswith("_")}
        expected = [named[k] for k in range(len(named))]
        if theirs is schema.BuiltinOptions:
            expected = [name.removesuffix("Options") for name in expected]
        if theirs is schema.TensorType:
            expected = [name.lower() for name in expected]
        assert list(ours) == expected
    source = Path(schema.__file__).read_text()
    for table, text in tflite_schema.TABLES.items():
        name = table if re.search(rf"^class {table}\(", source, re.M) else f"{table}Options"
        body = re.search(rf"^class {name}\(object\):\n(.*?)(?=^def |^class )", source, re.M | re.S)
        assert body is not None, table
        slots = {
            m[0].lower(): (int(m[1]) - 4) // 2
            for m in re.findall(r"def (\w+)\(self(?:, j)?\):\n.*?Offset\((\d+)\)", body[1], re.S)
        }
        for slot, field in enumerate(text.split()):
            key = re.sub("_", "", field.partition(":")[0])
            short = {"activation": "fusedactivationfunction", "biastype": "quantizedbiastype", "numsplit": "numsplits"}
            longer = {"dilationw": "dilationwfactor", "dilationh": "dilationhfactor", "dilationd": "dilationdfactor"}
            others = {"filterw": "filterwidth", "filterh": "filterheight", "asymmetricinputs": "asymmetricquantizeinputs"}
            key = {**short, **longer, **others}.get(key, key)
            assert not key or slots.get(key) == slot, (table, field, slots)
