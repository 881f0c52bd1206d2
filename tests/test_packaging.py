"""The wheel, the source distribution, the light import, and a saved program on a machine that has only the wheel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gensyn_tvm import __version__
from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.evidence.digests import array_digest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("gensyn_tvm", "frontends", "schedules", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
# Nothing of the extras, and nothing that only building or testing needs.
ABSENT = (
    "torch",
    "onnx",
    "onnxscript",
    "sklearn",
    "scipy",
    "optuna",
    "matplotlib",
    "pytest",
    "hypothesis",
    "gmpy2",
    "setuptools",
    "typer",
)


def run_python(python: Path | str, code: str, folder: Path, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [str(python), "-c", code, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is distributed, under a path with a space; building in the checkout would leave folders behind."""
    folder = tmp_path_factory.mktemp("with space") / "source"
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(sources: Path, kind: str) -> Path:
    out = sources.parent / kind
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), str(sources)]
    done = subprocess.run(command, cwd=sources.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(sources: Path) -> Path:
    return build(sources, "wheel")


def modules(root: Path) -> set[str]:
    """Names as installed of all source files of the checkout; the symlinks inside the package are not followed."""
    names: set[str] = set()
    for top, prefix in (("gensyn_tvm", ""), ("frontends", "gensyn_tvm/"), ("schedules", "gensyn_tvm/")):
        for folder, _, files in os.walk(root / top):
            relative = Path(folder).relative_to(root).as_posix()
            names.update(f"{prefix}{relative}/{file}" for file in files if file.endswith(".py"))
    return names


def test_wheel_has_every_module_once(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert len(names) == len(set(names))
    found = {n for n in names if n.endswith(".py")}
    assert found == modules(ROOT)
    assert {"gensyn_tvm/frontends/onnx.py", "gensyn_tvm/frontends/torch.py", "gensyn_tvm/schedules/driver.py"} <= found
    assert {"gensyn_tvm/py.typed", "gensyn_tvm/runtime/_call.pyi", "gensyn_tvm/demo/digits_mlp.onnx"} <= set(names)
    assert [n for n in names if n.endswith(".so")] == [f"gensyn_tvm/runtime/_call{sysconfig.get_config_var('EXT_SUFFIX')}"]
    assert not [n for n in names if n.endswith((".c", ".h"))]
    tuned = {f"gensyn_tvm/schedules/tuned/{p.name}" for p in (ROOT / "schedules" / "tuned").glob("*.json")}
    assert tuned and tuned == {n for n in names if "/tuned/" in n}
    assert {n.split("/")[0] for n in names} == {"gensyn_tvm", f"gensyn_tvm-{__version__}.dist-info"}


def test_sdist_builds_the_same_wheel(sources: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build(sources, "sdist")) as archive:
        inside = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
        assert {f"gensyn_tvm/runtime/_call{end}" for end in (".c", ".h", ".pyi", "_entry.c", "_pool.c")} <= inside
        assert not [n for n in inside if n.endswith(".so")]
        archive.extractall(tmp_path, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(tmp_path)
    (unpacked,) = tmp_path.iterdir()
    again = build(unpacked, "wheel")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())


def test_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"gensyn_tvm-{__version__}.dist-info/METADATA").decode()
        scripts = archive.read(f"gensyn_tvm-{__version__}.dist-info/entry_points.txt").decode()
    lines = metadata.splitlines()
    assert "Requires-Python: <3.14,>=3.10" in lines
    assert "License-Expression: Apache-2.0" in lines
    needed = [line.split(": ", 1)[1] for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert {"apache-tvm==0.27.0.post1", "apache-tvm-ffi==0.1.14.post1"} <= set(needed)
    assert not any(name.startswith(("torch", "onnx", "tensorflow", "keras")) for name in needed)
    extras = {line.split(": ", 1)[1] for line in lines if line.startswith("Provides-Extra:")}
    assert extras == {"onnx", "torch", "tensorflow", "keras", "train", "cuda", "demo", "tune", "bench", "dev"}
    assert "gensyn-tvm = gensyn_tvm.cli:main" in scripts


def test_import_is_light() -> None:
    code = (
        "import sys, json, gensyn_tvm, gensyn_tvm.cli; gensyn_tvm.cli.parser();"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    loaded = set(json.loads(run_python(sys.executable, f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}", ROOT)))
    assert not loaded & {"tvm", "tvm_ffi", "torch", "onnx", "numpy", "rich"}


def test_exports_are_what_type_checkers_see() -> None:
    import gensyn_tvm

    for name in gensyn_tvm.__all__:
        assert getattr(gensyn_tvm, name) is not None
    assert set(gensyn_tvm._EXPORTS) | {"__version__"} == set(gensyn_tvm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gensyn_tvm.nothing  # noqa: B018


CHILD = """
import importlib.abc, json, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)
        return None

ABSENT = json.loads(sys.argv[1])
sys.meta_path.insert(0, Absent())
import numpy as np
import gensyn_tvm
from gensyn_tvm.evidence.digests import array_digest
exe = gensyn_tvm.load(sys.argv[2], threads=1)
out = exe(np.load(sys.argv[3]))
print(json.dumps({
    "file": gensyn_tvm.__file__,
    "frontends": __import__("importlib.util").util.find_spec("gensyn_tvm.frontends").origin,
    "digest": array_digest(out),
    "program": exe.digest,
    "loaded": sorted(set(ABSENT) & {m.split(".")[0] for m in sys.modules}),
    "path": sys.path,
}))
"""


def test_wheel_runs_saved_program(wheel: Path, tmp_path: Path) -> None:
    """A fresh environment with the wheel; its dependencies are lent, without network, from the environment of the tests.

    The lent folder also holds the extras, so a finder refuses to import those, as if they were not there.
    """
    from gensyn_tvm.compiler import compile

    b = GraphBuilder("saved")
    x = b.add_input("x", "input", TensorType((7, 37), "float32"))
    y = b.emit("tanh", b.emit("matmul", x, b.emit("transpose", x, perm=(1, 0))))
    b.add_output("y", y)
    exe = compile(b.finish())
    given = np.random.Generator(np.random.Philox(3)).standard_normal((7, 37), np.float32)
    expected = exe(given)
    exe.save(tmp_path / "saved program.gtvm")
    np.save(tmp_path / "x.npy", given)

    home = tmp_path / "fresh environment"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('platlib'))"
    site = Path(run_python(python, code, tmp_path).strip())
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")

    arguments = [json.dumps(ABSENT), str(tmp_path / "saved program.gtvm"), str(tmp_path / "x.npy")]
    told = json.loads(run_python(python, CHILD, tmp_path, *arguments))
    assert Path(told["file"]).is_relative_to(site)
    assert Path(told["frontends"]).is_relative_to(site)
    assert str(ROOT) not in told["path"]
    assert told["loaded"] == []
    assert told["program"] == exe.digest
    assert told["digest"] == array_digest(expected)
