"""A mistake that only a fused kernel has is narrowed down to the operators of that kernel."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
import tvm_ffi

from gensyn_tvm.canonical.graph import Graph, GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import source_of
from gensyn_tvm.errors import InputError
from gensyn_tvm.evidence.hidden import locate
from gensyn_tvm.evidence.report import examine
from gensyn_tvm.evidence.trace import trace
from gensyn_tvm.operators import exact
from gensyn_tvm.passes import pipeline


def layers() -> Graph:
    """Four layers; only the third has a sigmoid behind its sum."""
    b = GraphBuilder("layers")
    x = b.add_input("x", "input", TensorType((3, 5), "float32"))
    ws = [b.add_input(f"w{k}", "parameter", TensorType((5, 5), "float32")) for k in range(4)]
    for k, w in enumerate(ws):
        b.source = f"layer {k}"
        x = b.emit("matmul", x, w)
        x = b.emit("add", x, x)
        x = b.emit("sigmoid" if k == 2 else "tanh", x)
    b.add_output("y", x)
    return b.finish()


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fusing a sum and a sigmoid, so that the sum itself is not seen, turns the sum into a product."""
    real = pipeline.fuse

    def spoilt(call: Any, mutator: Any) -> Any:
        call = mutator.default_mutate(call)
        return exact.mul(*call.args) if call.op.name == f"{exact.PREFIX}add" else call

    def fuse(module: Any, *, rows: bool) -> Any:
        module = real(module, rows=rows)
        for gv, function in pipeline.kernels(module):
            if "add" in gv.name_hint and "sigmoid" in gv.name_hint and "rows" not in gv.name_hint:
                body = tvm_ffi.structural_mutate(function.body, [(tvm.ir.Call, spoilt)])
                module.update_func(gv, function.with_body(body))
        return module

    monkeypatch.setattr(pipeline, "fuse", fuse)


def test_fused_kernel_is_located(broken: None, capsys: pytest.CaptureFixture[str]) -> None:
    graph = layers()
    report = examine(source_of(graph), None)
    assert report.comparison is not None
    assert (report.comparison.first, report.changed, report.clean) == (None, (("native", "y"),), False)
    ((way, hidden),) = report.hidden
    assert way == "native"
    assert hidden.operators == (("add", "layer 2"), ("sigmoid", "layer 2"))
    assert hidden.differ == (hidden.values.stop - 1,)
    assert report.as_object()["hidden_by_tracing"][0]["operators"][1] == {"operator": "sigmoid", "place": "layer 2"}
    assert str(hidden) == "%12 to %13, compiled together, give another %13: add at layer 2; sigmoid at layer 2"
    report.print()
    printed = capsys.readouterr().out
    assert "all 12 values agree in every bit between native and interpreter" in printed
    assert "tracing changes the output 'y' of native" in printed
    assert f"native: {hidden}" in printed


def test_nothing_is_located_where_nothing_is_wrong() -> None:
    assert locate(trace(layers())) is None
    with pytest.raises(InputError, match="did not keep"):
        locate(trace(layers(), target="interpreter", keep=False))
