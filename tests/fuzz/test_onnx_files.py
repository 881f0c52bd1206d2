"""scripts/fuzz_onnx_files.py: damaged ONNX files are imported or refused; exceptions of any other kind are found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gensyn_tvm.frontends import onnx_reader
from scripts import fuzz_onnx_files as fuzz

ROOT = Path(__file__).resolve().parents[2]


def test_no_findings(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    command = [sys.executable, "-W", "ignore", str(ROOT / "scripts" / "fuzz_onnx_files.py"), "--first", "1000000"]
    command += ["--count", "150", "--output", str(output), "--failures", str(tmp_path / "failures")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(output.read_text(encoding="utf-8"))
    assert result["mutations"] == 150 == sum(result["outcomes"].values())
    refused = sum(n for kind, n in result["outcomes"].items() if kind.startswith("ImportModelError"))
    assert refused > 50 and result["outcomes"]["imported"] > 5
    assert not result["findings"]


def test_other_exceptions_are_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x07not a model")
    assert fuzz.outcome(str(path)) == ("ImportModelError from DecodeError", "")

    def broken(data: bytes, origin: str) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(onnx_reader, "check_wire", broken)
    assert fuzz.outcome(str(path)) == ("error", "KeyError: 'planted'")


def test_a_worker_that_dies_is_a_finding(tmp_path: Path) -> None:
    worker = fuzz.Worker(limit=0.001, log=tmp_path / "log")
    assert worker.outcome(tmp_path / "model.onnx") == ("timeout", "longer than 0.001 s")


def test_a_number_names_one_file() -> None:
    files = fuzz.corpus()[:40]
    once, again = ([fuzz.mutated(s, files) for s in range(60)] for _ in range(2))
    assert once == again
    assert len({data for data, _ in once} - {data for _, data in files}) > 40
