"""The command line: what it prints, writes and returns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gensyn_tvm import __version__, doctor
from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.normal import structure_digest
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.cli import main
from gensyn_tvm.commands import listing, load_arrays
from gensyn_tvm.errors import InputError
from gensyn_tvm.runtime.file import read_gtvm
from gensyn_tvm.runtime.plan import AREAS

MODEL = """
import torch

def small(batch=8):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3)), torch.zeros(batch, 5)

def fixed():
    return torch.nn.Linear(5, 3), (torch.zeros(2, 5),)

def broken():
    return 1 / 0

def nothing():
    return 3

number = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in Python, a learnable data set, an array for inference."""
    folder = tmp_path_factory.mktemp("command line")
    (folder / "model.py").write_text(MODEL)
    rng = np.random.Generator(np.random.Philox(1))
    x = rng.standard_normal((100, 5)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.argmax(x[:, :3], axis=1))
    np.save(folder / "x.npy", x[:8])
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == code
    captured = capsys.readouterr()
    assert (captured.err == "") == (code == 0 or "--json" in arguments)
    return captured.out if code == 0 or "--json" in arguments else captured.err


def call_json(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    result = json.loads(call(capsys, *arguments, "--json", code=code))
    assert isinstance(result, dict)
    return result


@pytest.fixture(scope="module")
def compiled(folder: Path) -> Path:
    path = folder / "compiled.gtvm"
    arguments = [
        "compile",
        f"{folder}/model.py:small",
        "--target",
        "x86-64",
        "--target",
        "native",
        "--target",
        "c",
        "-o",
        str(path),
    ]
    assert main(arguments) == 0
    return path


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"gensyn-tvm {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["import", "m.onnx"],
        ["train", "m.onnx", "-o", "x.gtvm"],
        ["train", "m.onnx", "--data", "d.npz", "-o", "x.gtvm", "--loss", "hinge"],
        ["import", "m.onnx", "-o", "x.gtvm", "--shape", "1,2"],
        ["import", "m.onnx", "-o", "x.gtvm", "--shape", "a=b"],
        ["inspect", "m.gtvm", "--phase", "lift", "--code"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: gensyn-tvm" in capsys.readouterr().err


def test_module_and_script_agree(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "gensyn_tvm.cli", "inspect", "absent.gtvm"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: not a valid .gtvm file\n  in: absent.gtvm")
    assert "Traceback" not in done.stderr


def test_reader_that_goes_away() -> None:
    command = f"{sys.executable!r} -m gensyn_tvm.cli doctor --json | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_import_saves_the_program_without_a_library(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.gtvm"
    told = call_json(capsys, "import", f"{folder}/model.py:small", "-o", out)
    contents = read_gtvm(out)
    assert contents.libraries == {}
    assert told == {"output": str(out), "program": serialise.digest(contents.graph)}
    assert told["program"] in call(capsys, "inspect", out)
    assert "compile it here: gensyn-tvm compile" in call(capsys, "run", out, folder / "x.npy", code=1)


def test_batch_size_reaches_the_python_function(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(capsys, "import", f"{folder}/model.py:small", "--batch", 3, "-o", tmp_path / "m.gtvm")
    assert read_gtvm(tmp_path / "m.gtvm").graph.inputs[0].type == TensorType((3, 5), "float32")
    assert "takes no argument" in call(capsys, "import", f"{folder}/model.py:fixed", "--batch", 3, "-o", "no.gtvm", code=1)


def test_batch_size_of_an_onnx_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = Path(__file__).resolve().parents[1] / "gensyn_tvm" / "demo" / "digits_mlp.onnx"
    by_batch = call_json(capsys, "import", model, "--batch", 4, "-o", tmp_path / "a.gtvm")
    by_shape = call_json(capsys, "import", model, "--shape", "image=4,64", "-o", tmp_path / "b.gtvm")
    assert by_batch["program"] == by_shape["program"]
    assert (tmp_path / "a.gtvm").read_bytes() == (tmp_path / "b.gtvm").read_bytes()
    assert "not static" in call(capsys, "import", model, "-o", tmp_path / "c.gtvm", code=1)
    assert not (tmp_path / "c.gtvm").exists()
    assert "shapes of a .gtvm file are fixed" in call(capsys, "inspect", tmp_path / "a.gtvm", "--batch", 4, code=1)


def test_train_then_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, checkpoint = tmp_path / "trained.gtvm", tmp_path / "step.gtvm"
    arguments = ("train", f"{folder}/model.py:small", "--data", folder / "data.npz", "--epochs", 3, "--lr", 0.05, "-o", out)
    first = call_json(capsys, *arguments, "--checkpoint", checkpoint, "--threads", 2)
    again = call_json(capsys, *arguments, "--threads", 1, "--target", "x86-64")
    other = call_json(capsys, *arguments[:-1], tmp_path / "other.gtvm", "--seed", 1)
    assert first["steps"] == 36
    assert first["last_loss"] < first["first_loss"]
    assert {k: v for k, v in first.items() if k != "checkpoint"} == again
    assert other["weights"] != first["weights"]
    assert other["training_program"] == first["training_program"]
    contents = read_gtvm(checkpoint)
    assert serialise.digest(contents.graph) == first["training_program"]
    trained = read_gtvm(out)
    for name, array in trained.arrays.items():
        assert array.tobytes() == contents.arrays[name].tobytes()
    told = call_json(capsys, "run", out, folder / "x.npy", "-o", tmp_path / "y.npz")
    assert told["program"] == first["program"]
    assert "is a training step" in call(capsys, "run", checkpoint, folder / "x.npy", code=1)


def test_run_gives_the_same_bits_for_every_target(
    folder: Path, compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.load(folder / "x.npy")
    (name,) = (i.name for i in read_gtvm(compiled).graph.inputs if i.role == "input")
    np.savez(tmp_path / "named.npz", **{name: x})
    seen = set()
    for target in sorted(read_gtvm(compiled).libraries):
        for threads in (1, 2):
            for given in (folder / "x.npy", tmp_path / "named.npz"):
                out = tmp_path / "y.bin"
                told = call_json(capsys, "run", compiled, given, "--target", target, "--threads", threads, "-o", out)
                assert (told["target"], told["threads"]) == (target, threads)
                (array,) = load_arrays(str(out)).values()
                assert array.shape == (8, 3)
                seen.add((told["outputs"], array.tobytes()))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["absent.npy"], "arrays cannot be read"),
        (["x.npy", "x.npy"], "by position or by name"),
        (["x.npy", "data.npz"], "give one .npz file"),
        (["data.npz"], "unknown input 'x'|unknown input 'y'"),
        (["model.py"], "arrays cannot be read"),
        (["pickle.npy"], "arrays cannot be read"),
    ],
)
def test_run_refuses_wrong_inputs(
    folder: Path, compiled: Path, capsys: pytest.CaptureFixture[str], inputs: list[str], message: str
) -> None:
    np.save(folder / "pickle.npy", np.array([{}], object), allow_pickle=True)
    told = call_json(capsys, "run", compiled, *(folder / name for name in inputs), code=1)
    assert told["error"]["type"] == "InputError"
    assert any(part in told["error"]["message"] for part in message.split("|"))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("model.txt", "expected: file.onnx, file.tflite or file.py:function"),
        ("absent.onnx", "absent.onnx"),
        ("absent.py:small", "no such Python file"),
        ("model.py:absent", "no such function"),
        ("model.py:number", "no such function"),
        ("model.py:broken", "model.py:12\n  found: ZeroDivisionError: division by zero"),
        ("model.py:nothing", "found: int"),
    ],
)
def test_models_that_cannot_be_imported(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, message: str
) -> None:
    text = call(capsys, "import", folder / model, "-o", tmp_path / "m.gtvm", code=1)
    assert text.startswith("error: ")
    assert message in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((100, 5), np.float32)}, "missing arrays ['y']"),
        ({"x": np.zeros((100, 5), np.float32), "y": np.zeros(100, np.int64), "z": np.zeros(1)}, "unknown arrays ['z']"),
        ({"x": np.zeros((100, 5), np.float32), "y": np.zeros(99, np.int64)}, "cannot be cut into batches"),
        ({"x": np.zeros((7, 5), np.float32), "y": np.zeros(7, np.int64)}, "cannot be cut into batches"),
        ({"x": np.zeros((9, 5), np.float64), "y": np.zeros(9, np.int64)}, "float64"),
    ],
)
def test_data_that_does_not_fit(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "data.npz", **arrays)  # type: ignore[arg-type]
    out = tmp_path / "m.gtvm"
    assert message in call(capsys, "train", f"{folder}/model.py:small", "--data", tmp_path / "data.npz", "-o", out, code=1)
    assert not out.exists()


def test_output_that_cannot_be_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = call(capsys, "import", f"{folder}/model.py:small", "-o", tmp_path / "no" / "m.gtvm", code=1)
    assert "No such file or directory" in text


def test_inspect(folder: Path, compiled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = call(capsys, "inspect", compiled)
    graph = read_gtvm(compiled).graph
    assert text.startswith(f"digest {serialise.digest(graph)}\nstructure {structure_digest(graph)}\nprogram ")
    assert "= matmul(" in text
    assert call(capsys, "inspect", f"{folder}/model.py:small") == text
    assert call_json(capsys, "inspect", compiled) == serialise.to_json(read_gtvm(compiled).graph)
    assert "llvm" not in text
    told = call_json(capsys, "inspect", compiled, "--phase", "legalise")
    assert "exact_fma" in told["text"]
    assert "of the workspace in use at call" in call(capsys, "inspect", compiled, "--memory", "--target", "x86-64")
    assert set(call_json(capsys, "inspect", compiled, "--memory")["areas"]) == set(AREAS)
    assert "main" in call(capsys, "inspect", compiled, "--phase", "lift")
    assert ".text" in call(capsys, "inspect", compiled, "--code", "--target", "x86-64")
    assert "int32_t" in call(capsys, "inspect", compiled, "--code", "--target", "c")
    assert "expected one of lift, legalise" in call(capsys, "inspect", compiled, "--phase", "nonsense", code=1)
    assert "unknown target 'z80'" in call(capsys, "inspect", compiled, "--code", "--target", "z80", code=1)


def test_listing() -> None:
    b = GraphBuilder("list")
    x = b.add_input("x", "input", TensorType((2, 3), "float32"))
    w = b.add_input("w", "parameter", TensorType((3, 4), "float32"))
    b.source = "layer 1"
    b.add_output("y", b.emit("matmul", x, b.emit("transpose", b.emit("transpose", w, perm=(1, 0)), perm=(1, 0))))
    b.add_output("w", w, updates=True)
    assert listing(b.finish()).splitlines() == [
        "program list",
        "  %0 = input 'x' : float32[2, 3]",
        "  %1 = parameter 'w' : float32[3, 4]",
        "  %2 = transpose(%1; perm=(1, 0)) : float32[4, 3]  # layer 1",
        "  %3 = transpose(%2; perm=(1, 0)) : float32[3, 4]  # layer 1",
        "  %4 = matmul(%0, %3) : float32[2, 4]  # layer 1",
        "  output 'y' = %4",
        "  update 'w' = %1",
    ]


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    told = call_json(capsys, "doctor")
    assert told["ok"] is True
    found = {check["name"]: check["status"] for check in told["checks"]}
    for name in ("apache-tvm", "apache-tvm-ffi", "llvm", "arithmetic", "fma of the C library"):
        assert found[name] == "ok"
    assert found["compiled program against interpreter"] == "ok"


def test_doctor_names_what_is_wrong(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PINNED", {"apache-tvm": "0.0.1"})
    monkeypatch.setattr(doctor, "_end_to_end", list)
    assert main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "fail  apache-tvm" in text
    assert "what to do: pip install apache-tvm==0.0.1" in text
    assert "1 of " in text


def test_arrays_from_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(InputError, match="arrays cannot be read"):
        load_arrays(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("option", ("-o", "--checkpoint"))
@pytest.mark.parametrize(("place", "text"), [("nowhere/t.gtvm", "No such file or directory"), ("", "Is a directory")])
def test_outputs_are_checked_before_training(
    capsys: pytest.CaptureFixture[str], folder: Path, option: str, place: str, text: str
) -> None:
    outputs = {"-o": folder / "unused.gtvm", option: folder / place}
    arguments = ("train", f"{folder}/model.py:broken", "--data", folder / "data.npz")
    assert text in call(capsys, *arguments, *(a for pair in outputs.items() for a in pair), code=1)


def test_settings_out_of_range(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    arguments = ("train", f"{folder}/model.py:small", "--data", folder / "data.npz", "-o", folder / "unused.gtvm")
    assert "AdamW: lr must be finite and >= 0" in call(capsys, *arguments, "--lr", "nan", code=1)


def test_checkpoint_and_output_are_two_files(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    outputs = ("-o", folder / "unused.gtvm", "--checkpoint", f"{folder}/./unused.gtvm")
    text = call(capsys, "train", f"{folder}/model.py:broken", "--data", folder / "data.npz", *outputs, code=1)
    assert "are one file" in text


def test_failing_model_code_is_located_from_a_relative_path(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert "in: model.py:12" in call(capsys, "import", "model.py:broken", "-o", "unused.gtvm", code=1)
