"""One network in four frameworks: one structure digest, the same weights, the same bits; or what differs, in words."""

from __future__ import annotations

import json
import os
import warnings
from functools import cache
from itertools import combinations
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in ("torch", "tensorflow", "keras", "onnx"):
        pytest.importorskip(name)
    from . import in_keras, in_onnx, in_tensorflow, in_torch

from gensyn_tvm import interpreter
from gensyn_tvm.canonical import serialise
from gensyn_tvm.canonical.normal import normalise, structure_digest
from gensyn_tvm.cli import main
from gensyn_tvm.compiler import Source, source_of
from gensyn_tvm.errors import InputError
from gensyn_tvm.runtime.executable import State
from gensyn_tvm.runtime.packaging import save_source
from gensyn_tvm.structure_diff import diff_structures
from gensyn_tvm.weights.transfer import transferred
from tests.weights.training import trained

NETWORKS = ("mlp", "cnn", "lstm", "block")
FRAMEWORKS: dict[str, ModuleType] = {"torch": in_torch, "tensorflow": in_tensorflow, "keras": in_keras, "onnx": in_onnx}


@cache
def source(framework: str, network: str) -> Source:
    return source_of(getattr(FRAMEWORKS[framework], network)())


def outputs(framework: str, network: str, x: np.ndarray) -> np.ndarray:
    """The output for a batch in torch's layout; by the graph as it was imported."""
    found = source(framework, network)
    layout = x.transpose(0, 2, 3, 1) if network == "cnn" and framework in ("tensorflow", "keras") else x
    (declared,) = (i for i in found.graph.inputs if i.role == "input")
    return interpreter.run(found.graph, {**found.state.numpy(), declared.name: np.ascontiguousarray(layout)})[0]


@pytest.mark.parametrize("network", NETWORKS)
def test_one_digest(network: str) -> None:
    sources = [source(framework, network) for framework in FRAMEWORKS]
    assert len({structure_digest(s.graph) for s in sources}) == 1
    assert len({normalise(s.graph).graph.nodes[-1].op for s in sources}) == 1
    for other in sources[1:]:
        found = diff_structures(sources[0], other)
        assert found.equal and found.weights is True and found.pairs
    (declared,) = (i for i in sources[0].graph.inputs if i.role == "input")
    x = np.random.Generator(np.random.Philox(9)).standard_normal(declared.type.shape).astype(np.float32)
    x.reshape(-1)[:4] = [-0.0, 1e-40, -3e38, 1e-30]
    bits = {outputs(framework, network, x).tobytes() for framework in FRAMEWORKS}
    assert len(bits) == 1


def test_the_graphs_themselves_differ() -> None:
    """What the normal form has to do: of 16 imported programs no two frameworks' CNNs, LSTMs or blocks are one."""
    for network in ("cnn", "lstm", "block"):
        assert len({serialise.digest(source(framework, network).graph) for framework in ("torch", "keras", "onnx")}) == 3


def test_other_weights_are_noticed() -> None:
    first = source("torch", "mlp")
    second = source("keras", "mlp")
    changed = {name: array + (name == "out/bias") for name, array in second.state.numpy().items()}
    found = diff_structures(first, Source(second.graph, State(changed)))
    assert found.equal and found.weights is False
    assert found.as_lines(("a", "b"))[2] == "the same computation, with other weights"


#: What Keras' own layers, and PyTorch's, compute in another way: lines of the report.
DIFFERENCES: dict[str, tuple[str, str, list[str]]] = {
    "LSTM: one bias, which comes last": (
        "lstm",
        "own_lstm",
        [
            "input only in the first: parameter 'lstm.bias_hh_l0' float32[6]",
            "  + add(matmul(x, lstm.weight_ih_l0), matmul(broadcast_to(0.0), lstm.weight_hh_l0))",
        ],
    ),
    "flatten: channel by channel, or place by place": (
        "flattened",
        "flattened",
        [
            "operators only in b: transpose",
            "  - add(reshape(conv(input, 0.weight)), reshape(0.bias))",
            "  + add(transpose(reshape(conv(x, 0.weight))), 0.bias)",
        ],
    ),
    "GELU: 1 + erf(x), or erfc(-x)": ("gelu", "gelu", ["operators only in a: erf", "operators only in b: erfc, neg"]),
    "layer normalisation: division by a root, or multiplication by 1 / root": (
        "block",
        "own_norm",
        [
            "  - div(sub(x, reshape(div(…, 8.0))), reshape(sqrt(add(…, 1e-05))))",
            "  + div(1.0, sqrt(add(div(…, 8.0), 1e-05)))",
        ],
    ),
    "attention: division by the root of the width, or multiplication": (
        "block",
        "own_attention",
        ["operator div: 8 | 7 nodes", "operator mul: 4 | 5 nodes", "  - div(reshape(add(reshape(q.bias), transpose(…))), 2.0)"],
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_differs_is_said(name: str) -> None:
    ours, theirs, expected = DIFFERENCES[name]
    found = diff_structures(source("torch", ours), source("keras", theirs))
    lines = found.as_lines(("a", "b"))
    assert not found.equal and lines[2] == "the normal forms differ:"
    assert [line for line in expected if line not in lines] == [], "\n".join(lines)
    assert lines[-1].startswith("output 0, output | output: another value")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for framework in ("torch", "keras"):
        save_source(tmp_path / f"{framework}.gtvm", source(framework, "mlp"))
    save_source(tmp_path / "gelu.gtvm", source("torch", "gelu"))
    files = [str(tmp_path / f"{name}.gtvm") for name in ("torch", "keras", "gelu")]
    assert main(["diff", files[0], files[1]]) == 1
    text = capsys.readouterr().out
    assert "operators only in" in text and "the same computation, with the same weights" in text
    assert "  0.weight transposed (1, 0) | hidden/kernel\n" in text
    assert main(["diff", "--normal", files[0], files[1]]) == 0
    assert "operators only in" not in capsys.readouterr().out
    assert main(["diff", "--normal", files[0], files[2]]) == 1
    assert "the normal forms differ:" in capsys.readouterr().out
    assert main(["diff", "--normal", "--json", files[0], files[1]]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["equal"] is True and told["structure"]["digests"][0] == told["structure"]["digests"][1]
    assert main(["diff", "--json", files[0], files[0]]) == 0
    assert json.loads(capsys.readouterr().out)["structure"] is None


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("first", "second"), [*combinations(FRAMEWORKS, 2)])
def test_weights_go_to_another_framework(network: str, first: str, second: str) -> None:
    """Two steps of one framework's program, then into the other's program, and back: the same bits."""
    ours, theirs = source(first, network), source(second, network)
    state = trained_state(first, network)
    changed = Source(ours.graph, State({name: state[name] for name in ours.state}))
    arrays = transferred(changed, theirs)
    assert set(arrays) == set(theirs.state)
    moved = Source(theirs.graph, State(arrays))
    assert diff_structures(changed, moved).weights is True
    back = transferred(moved, ours)
    assert all(back[name].tobytes() == np.asarray(state[name]).tobytes() for name in ours.state)


@cache
def trained_state(framework: str, network: str) -> dict[str, np.ndarray]:
    return trained(getattr(FRAMEWORKS[framework], network)())


def test_weights_of_another_computation_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="the programs do not compute the same"):
        transferred(source("torch", "mlp"), source("torch", "gelu"))
    first, second = source("torch", "mlp"), source("keras", "mlp")
    zeros = Source(second.graph, State({name: np.zeros_like(a) for name, a in second.state.numpy().items()}))
    for name, saved in (("a", first), ("b", zeros)):
        save_source(tmp_path / f"{name}.gtvm", saved)
    arguments = ["weights", "transfer", str(tmp_path / "a.gtvm"), str(tmp_path / "b.gtvm"), "-o", str(tmp_path / "c.gtvm")]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arrays"] == 4
    assert main(["diff", "--normal", str(tmp_path / "a.gtvm"), str(tmp_path / "c.gtvm")]) == 0
    assert "with the same weights" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "c.gtvm")]) == 0
    assert f"structure {structure_digest(first.graph)}" in capsys.readouterr().out
