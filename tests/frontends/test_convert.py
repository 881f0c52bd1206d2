"""``gensyn-tvm convert`` and the conversion scripts: a model of every framework, and whatever is refused."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
import numpy as np
import pytest

import gensyn_tvm
from gensyn_tvm.conversion import importers
from gensyn_tvm.conversion.verify import difference
from gensyn_tvm.errors import ImportModelError
from gensyn_tvm.frontends.torch_archive import load_archive
from tests.frontends.convert_models import convert, write_models

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for package in ("torch", "onnx", "tensorflow", "keras"):
        pytest.importorskip(package)
    import onnx
    import onnx.helper as oh
    import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


# ---- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "framework", "parameters", "reference"),
    [
        ("model.pt2", (), "torch", ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"], "exported program"),
        ("model.onnx", ("--batch", 4), "onnx", ["w"], "onnx"),
        ("model.onnx", ("--shape", "x=4,2"), "onnx", ["w"], "onnx"),
        ("saved", ("--batch", 4), "tensorflow", ["w"], "tensorflow"),
        ("model.keras", ("--batch", 4), "keras", None, "keras"),
        ("model.h5", ("--shape", "x=4,5", "--dtype", "x=float32"), "keras", None, "keras"),
        ("models.py:cnn", ("--batch", 4), "torch", None, "eager"),
        ("models.py:linear", ("--shape", "x=4,5", "--dtype", "x=float32"), "torch", ["weight", "bias"], "eager"),
        ("models.py:double", ("--framework", "tensorflow", "--shape", "x=4,5"), "tensorflow", [], "tensorflow"),
        ("models.py:sequential", ("--batch", 4), "keras", None, "keras"),
    ],
)
def test_a_model_of_every_framework(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    options: tuple[object, ...],
    framework: str,
    parameters: list[str] | None,
    reference: str,
) -> None:
    path = tmp_path / "out.gtvm"
    report = json.loads(convert(capsys, folder / name, *options, "-o", path, "--target", "x86-64", "--report", "json"))
    exe = gensyn_tvm.load(path)
    assert (report["framework"], report["kind"], report["targets"]) == (framework, "inference", ["x86-64"])
    assert report["program"] == exe.digest
    assert report["file_bytes"] == path.stat().st_size
    assert report["unsupported"] == []
    assert sum(report["operators"].values()) == len(exe.graph.nodes)
    assert parameters is None or list(report["parameters"]) == parameters
    assert report["elements"] == sum(exe.state[n].size for n in report["parameters"])
    assert reference in report["verification"]["reference"]
    assert max(report["verification"]["differences"].values()) <= 1e-5
    assert [t.split("[")[1].startswith("4") for t in report["inputs"].values()] == [True]


def test_saved_models_outputs_keep_their_names(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = convert(capsys, folder / "saved", "--batch", 3, "-o", tmp_path / "a.gtvm", "--no-compile")
    assert "outputs       output_first float32[3, 3], output_second float32[3, 5]" in text
    assert "largest relative difference" in text and "for no target" in text
    assert gensyn_tvm.compile(_source(tmp_path / "a.gtvm"))(np.ones((3, 5), np.float32))[0].shape == (3, 3)


def _source(path: Path) -> Any:
    from gensyn_tvm.runtime.packaging import load_source

    return load_source(path)


class _Tied(torch.nn.Module):
    """Tied parameters, a buffer, a constant, an input that is left out, and outputs of several dtypes in a structure."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 4)
        self.head = torch.nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("positions", torch.arange(12.0).reshape(3, 4))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        x = self.embedding(ids) + self.positions + torch.tensor([1.0, 2.0, 3.0, 4.0])
        first, second = x.split(2, -1)
        return {"logits": self.head(x).to(torch.bfloat16), "more": (first.sum(), second.argmax(-1))}


def test_archives_keep_ties_buffers_and_structures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(2)
    example = (torch.zeros(2, 3, dtype=torch.int64),)
    torch.export.save(torch.export.export(_Tied().eval(), example), tmp_path / "tied.pt2")
    report = json.loads(convert(capsys, tmp_path / "tied.pt2", "-o", tmp_path / "a.gtvm", "--no-compile", "--report", "json"))
    assert report["parameters"] == {"embedding.weight": "float32[7, 4]"}
    assert report["states"] == {"positions": "float32[3, 4]"}
    assert list(report["outputs"].values()) == ["bfloat16[2, 3, 7]", "float32[]", "int64[2, 3]"]


def test_a_training_step(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "step.gtvm"
    options = ("--train", "--optimizer", "sgd", "--target", "x86-64")
    report = json.loads(convert(capsys, f"{folder}/models.py:cnn", *options, "-o", path, "--report", "json"))
    assert report["kind"] == "training step" and list(report["outputs"]) == ["loss", "accuracy"]
    assert report["verification"]["differences"]["output"] <= 1e-5
    exe = gensyn_tvm.load(path)
    state, metrics = exe(exe.init(0), (np.ones((2, 1, 6, 6), np.float32), np.array([0, 3])))
    assert state.step == 1 and np.isfinite(metrics["loss"])
    differences = report["training"]["differences"]
    states = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert set(differences) == {"loss", *(f"gradient of {n}" for n in report["parameters"]), *(f"next {n}" for n in states)}
    assert max(differences.values()) <= 1e-5 and report["training"]["note"] == "dropout is off in both"
    # What is exported in training mode can be compared in training only.
    text = convert(capsys, folder / "training.pt2", "--train", "-o", path, "--no-compile")
    assert "6 gradients, 3 states" in text and "inference is not compared" in text and "verification" not in text
    text = convert(capsys, folder / "training.pt2", "-o", path, code=1)
    assert "training mode" in text and "--no-verify" in text


def test_inputs_that_become_constants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, s, y = (
        oh.make_tensor_value_info(n, t, d)
        for n, t, d in (
            ("x", onnx.TensorProto.FLOAT, [6]),
            ("shape", onnx.TensorProto.INT64, [2]),
            ("y", onnx.TensorProto.FLOAT, ["a", "b"]),
        )
    )
    graph = oh.make_graph([oh.make_node("Reshape", ["x", "shape"], ["y"])], "g", [x, s], [y])
    onnx.save(oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=9), tmp_path / "m.onnx")
    np.save(tmp_path / "shape.npy", np.array([3, 2]))
    for value in ("3,2", f"{tmp_path}/shape.npy"):
        text = convert(capsys, tmp_path / "m.onnx", "--value", f"shape={value}", "-o", tmp_path / "a.gtvm", "--no-compile")
        assert "float32[3, 2]" in text and "largest relative difference 0 " in text
    assert "integers" in convert(capsys, tmp_path / "m.onnx", "--value", "shape=x", "-o", tmp_path / "a.gtvm", code=1)


@pytest.mark.parametrize(
    ("script", "model", "options"),
    [
        ("convert_torch.py", "model.pt2", ()),
        ("convert_tensorflow.py", "saved", ("--batch", "2")),
        ("convert_keras.py", "model.keras", ("--batch", "2")),
    ],
)
def test_scripts(folder: Path, tmp_path: Path, script: str, model: str, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "scripts" / script)]
    arguments = [str(folder / model), *options, "-o", str(tmp_path / "a.gtvm"), "--no-compile"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "largest relative difference" in done.stdout and (tmp_path / "a.gtvm").is_file()
    wrong = subprocess.run([*command, str(folder / "model.onnx"), *arguments[1:]], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and "another framework" in wrong.stderr


# ---- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("absent.onnx", (), ("no such file", "module:callable")),
        ("odd.xyz", (), ("unknown extension '.xyz'", ".pt2")),
        ("model.pth", (), ("pickled PyTorch file", "torch.export.save")),
        ("weights.safetensors", (), ("without the model",)),
        ("empty", (), ("no saved_model.pb",)),
        ("zip.pt2", (), ("not a .pt2 file",)),
        ("text.pt2", (), ("cannot be read",)),
        ("lambda.keras", ("--batch", 2), ("asks for code to be run", "Lambda")),
        ("model.onnx", ("--shape", "x=4,3"), ("does not fit input 'x'", "(4, 3)")),
        ("model.onnx", (), ("is not static", "'x'")),
        ("model.onnx", ("--shape", "x=4,2", "--dtype", "x=float64"), ("float64[4, 2]", "float32[4, 2]")),
        ("model.onnx", ("--shape", "x=4,2", "--dtype", "z=float64"), ("no input of that name", "z")),
        ("model.pt2", ("--shape", "input=3,5"), ("float32[3, 5]", "float32[4, 5]")),
        ("model.pt2", ("--batch", 3), ("shapes are fixed",)),
        ("model.pt2", ("--value", "n=3"), ("--value is for ONNX",)),
        ("model.pt2", ("--signature", "odd"), ("--signature is for SavedModels",)),
        ("model.pt2", ("--framework", "keras"), ("another framework", "torch")),
        ("model.pt2", ("--target", "z80"), ("z80",)),
        ("saved", ("--signature", "absent"), ("unknown signature", "'serving_default'")),
        ("saved", ("--shape", "x=4,6"), ("needs a static shape", "(4, 6)")),
        ("models.py:absent", (), ("no such function", "absent")),
        ("models.py:broken", (), ("no such function", "broken")),
        ("models.py:seven", (), ("does not return a model", "int")),
        ("models.py:linear", (), ("no example inputs",)),
        ("models.py:linear", ("--shape", "x=4,5", "--dtype", "x=number"), ("no dtype of PyTorch", "number")),
        ("models.py:fixed", ("--batch", 3), ("--batch needs a callable",)),
        ("models.py:double", (), ("does not return a model", "--framework tensorflow")),
        ("absent_module:model", (), ("no such Python module",)),
    ],
)
def test_refused(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    options: tuple[object, ...],
    expected: tuple[str, ...],
) -> None:
    for name in ("odd.xyz", "model.pth", "weights.safetensors", "text.pt2"):
        (folder / name).write_text("nothing")
    (folder / "empty").mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "zip.pt2", "w") as archive:
        archive.writestr("a/b", "c")
    where = model if model.startswith("absent_module") else folder / model
    text = convert(capsys, where, *options, "-o", tmp_path / "a.gtvm", code=1)
    assert all(part in text for part in expected), text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "options", "operators"),
    [
        ("custom.onnx", ("--shape", "x=4,2"), {"com.example.Twist": "first", "com.example.Bend": "second"}),
        ("saved", ("--signature", "odd"), {"Svd": "Svd", "Qr": "Qr"}),
        ("models.py:odd", (), {"aten.linalg_qr.default": "forward:linalg_qr", "aten._fft_r2c.default": "forward:fft_r2c"}),
    ],
)
def test_everything_unsupported_is_named(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    options: tuple[object, ...],
    operators: dict[str, str],
) -> None:
    text = convert(capsys, folder / model, *options, "-o", tmp_path / "a.gtvm", code=1)
    assert all(name in text and place in text for name, place in operators.items()), text
    found = json.loads(convert(capsys, folder / model, *options, "-o", tmp_path / "a.gtvm", "--report", "json", code=1))
    assert found["error"]["type"] == "UnsupportedOperatorError"
    listed = {entry["operator"]: entry["place"] for entry in found["error"]["unsupported"]}
    assert {name: listed[name] for name in operators} == operators


@pytest.mark.parametrize(
    ("model", "options", "places"),
    [
        ("norms", ("--shape", "x=2,4"), [("LpNormalization", "first"), ("LpNormalization", "second")]),
        # Operators without a converter come first, then settings of others.
        (
            "both_torch",
            (),
            [("aten.linalg_qr.default", "forward:linalg_qr"), ("avg_pool2d", "forward:avg_pool2d"), ("clamp", "forward:clamp")],
        ),
        (
            "both_onnx",
            (),
            [("com.example.Twist", "second"), ("LpNormalization", "first"), ("LpNormalization", "third")],
        ),
        ("both_tensorflow", ("--framework", "tensorflow", "--shape", "x=4,4"), [("Qr", "first"), ("MirrorPad", "second")]),
        ("refused", (), [("avg_pool2d", "forward:avg_pool2d"), ("clamp", "forward:clamp")]),
        ("mirrored", ("--framework", "tensorflow", "--shape", "x=4,4"), [("MirrorPad", "first"), ("MirrorPad", "second")]),
    ],
)
def test_settings_that_are_unsupported_are_all_named(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    model: str,
    options: tuple[object, ...],
    places: list[tuple[str, str]],
) -> None:
    text = convert(capsys, f"{folder}/models.py:{model}", *options, "-o", tmp_path / "a.gtvm", "--report", "json", code=1)
    found = json.loads(text)["error"]["unsupported"]
    assert [(entry["operator"], entry["place"]) for entry in found] == places


def test_another_result_is_an_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.gtvm"
    right = importers.onnx_outputs
    monkeypatch.setattr(importers, "onnx_outputs", lambda *a: ([y * 1.001 for y in right(*a)[0]], "something wrong"))
    text = convert(capsys, folder / "model.onnx", "--shape", "x=4,2", "-o", path, code=1)
    assert "differs from something wrong; nothing was written" in text
    assert "output 'y' differs by 0.000999" in text and "at most 0.0001" in text
    assert not path.exists()
    convert(capsys, folder / "model.onnx", "--shape", "x=4,2", "-o", path, "--tolerance", "0.01", "--no-compile")
    convert(capsys, folder / "model.onnx", "--shape", "x=4,2", "-o", path, "--no-verify", "--no-compile")


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        (np.array([1, 2], np.float32), np.array([1, 4], np.float32), 0.5),
        (np.array([1, 2], np.float32), np.array([[1, 2]], np.float32), np.inf),
        (np.array([1, 2], np.float32), np.array([1, 2], np.float64), np.inf),
        (np.array([np.nan, 2], np.float32), np.array([np.nan, 2], np.float32), 0),
        (np.array([np.inf, 2], np.float32), np.array([-np.inf, 2], np.float32), np.inf),
        (np.array([1, 2], np.float32), np.array([np.nan, 2], np.float32), np.inf),
        (np.array([1, 2]), np.array([1, 3]), np.inf),
        (np.array([True]), np.array([True]), 0),
        (np.zeros((0, 3)), np.zeros((0, 3)), 0),
    ],
)
def test_differences(found: np.ndarray, wanted: np.ndarray, expected: float) -> None:
    assert difference(found, wanted) == expected


# ---- files that would run code --------------------------------------------------------------------------------------


class _Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def _changed(source: Path, path: Path, changes: dict[str, Any]) -> None:
    """A copy of a .pt2 file with members that are replaced or, by a function, changed."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(path, "w") as copy:
        names = archive.namelist()
        for name in names:
            key = name.split("/", 1)[1]
            data = archive.read(name)
            change = changes.get(key, data)
            copy.writestr(name, change(data) if callable(change) else change)
        for key in changes:
            if not any(name.endswith(f"/{key}") for name in names):
                copy.writestr(f"{names[0].split('/')[0]}/{key}", changes[key])


def test_archives_run_no_code(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trap, path, out = tmp_path / "sprung", tmp_path / "evil.pt2", tmp_path / "out.gtvm"
    evil = pickle.dumps(_Trap(trap))
    config = "data/weights/model_weights_config.json"
    program = "models/model.json"
    call = f"__import__('pathlib').Path({str(trap)!r}).touch()".encode()
    cases: list[tuple[dict[str, Any], str]] = [
        (
            {config: lambda d: d.replace(b'"use_pickle": false', b'"use_pickle": true'), "data/weights/weight_0": evil},
            "pickled",
        ),
        ({program: lambda d: d.replace(b"torch.ops.aten.gelu.default", b"torch.serialization.os.system")}, "no operator"),
        ({program: lambda d: d.replace(b"torch.ops.aten.gelu.default", b"torch.ops.aten.__init__.__self__")}, "no operator"),
        (
            {program: lambda d: d.replace(b'{"as_int": 8}', b'{"as_expr": {"expr_str": "' + call + b'", "hint": null}}')},
            "static",
        ),
        ({program: lambda d: d.replace(b'"guards_code": []', b'"guards_code": ["' + call + b'"]')}, "conditions in Python"),
        ({program: lambda d: d.replace(b"builtins.dict", b"collections.defaultdict")}, "imported"),
        ({"data/aotinductor/model/a.so": b"x"}, "more than a program"),
        ({"data/weights/model.pt": evil}, "more than a program"),
        ({program: b"{"}, "damaged"),
        ({program: b"[]"}, "damaged"),
        ({program: b"{}"}, "cannot load"),
    ]
    for changes, expected in cases:
        _changed(folder / "model.pt2", path, changes)
        text = convert(capsys, path, "-o", out, code=1)
        assert expected in text, text
        assert not trap.exists() and not out.exists()
    # Sample inputs are always a pickle: it is not read.
    _changed(folder / "model.pt2", path, {"data/sample_inputs/model.pt": evil})
    convert(capsys, path, "-o", out, "--no-compile")
    assert not trap.exists() and out.exists()


def test_a_pt2_file_with_damaged_compression_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/models/model.json", "{}" * 1000)
    data = bytearray(path.read_bytes())
    start = 30 + len("m/models/model.json")
    data[start : start + 8] = b"\xff" * 8
    path.write_bytes(bytes(data))
    with pytest.raises(ImportModelError, match="cannot be read"):
        load_archive(path)
