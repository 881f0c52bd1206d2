"""Backward graphs of common layers hold nothing larger than their forward pass does; and what the draws of cases cover."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tvm import relax
from tvm.relax import op

from gensyn_tvm.canonical.from_relax import freeze
from gensyn_tvm.canonical.graph import Graph, Node
from gensyn_tvm.training.differentiate import differentiate
from gensyn_tvm.training.emit import Emitter, build_function

from .backward import frozen
from .draw import Drawn, cases

Shapes = Sequence[tuple[int, ...]]

LAYERS: dict[str, tuple[Callable[..., Any], Shapes]] = {
    "linear": (lambda x, w, b: op.add(op.matmul(x, op.permute_dims(w)), b), [(8, 6, 16), (24, 16), (24,)]),
    "matrix and vector": (op.matmul, [(8, 6, 16), (16,)]),
    "product of batches": (op.matmul, [(8, 6, 16), (8, 16, 5)]),
    "convolution": (
        lambda x, w, b: op.add(op.nn.conv2d(x, w, padding=1), op.reshape(b, (1, 8, 1, 1))),
        [(8, 4, 7, 7), (8, 4, 3, 3), (8,)],
    ),
    "softmax": (lambda x: op.nn.softmax(x, -1), [(8, 6, 16)]),
    "layer norm": (lambda x, g, b: op.nn.layer_norm(x, g, b, axes=[-1]), [(8, 6, 16), (16,), (16,)]),
    "embedding": (lambda t: op.take(t, relax.const(np.arange(24).reshape(8, 3) % 7, "int64"), 0), [(100, 16)]),
    "GELU": (op.nn.gelu, [(8, 6, 16)]),
    "every second element": (lambda x: op.strided_slice(x, [1], [0], [6], [2]), [(8, 6, 16)]),
    "max pool": (lambda x: op.nn.max_pool2d(x, (2, 2), (2, 2)), [(8, 4, 8, 8)]),
}


def largest(graph: Graph) -> int:
    return max(t.size for t in graph.value_types())


@pytest.mark.parametrize("name", LAYERS)
def test_nothing_grows(name: str) -> None:
    body, shapes = LAYERS[name]
    variables = [relax.Var(f"x{k}", relax.TensorType(list(s), "float32")) for k, s in enumerate(shapes)]
    names = [v.name for v in variables]

    def forward(e: Emitter) -> Sequence[Any]:
        e.place = "layer"
        y = e(body(*variables))
        return [e(op.sum(e.mul(y, y)))]

    module = build_function(variables, forward)
    ahead = freeze(module, name="forward", inputs=[(n, "input") for n in names], outputs=[("loss", False)])
    back = frozen(differentiate(module, slice(0, len(names))), names, len(names), "backward")
    assert largest(back) <= largest(ahead)


# ---- coverage -------------------------------------------------------------------------------------------------------


def drawn(name: str, examples: int = 240) -> Iterator[tuple[Drawn, Node]]:
    """Cases as ``make gradients`` draws them, each with its operator's node.

    Enough of them that it does not matter which constants hypothesis finds in the modules that happen to be loaded.
    """
    found: list[Drawn] = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(name))
    def gather(case: Drawn) -> None:
        found.append(case)

    gather()
    return ((case, case.graph.nodes[-1]) for case in found)


@pytest.mark.parametrize("name", ["conv", "conv_backward_data", "conv_backward_weight"])
def test_convolutions_of_all_kinds_are_drawn(name: str) -> None:
    attrs = [node.attrs for _, node in drawn(name)]
    assert {len(a["strides"]) for a in attrs} == {1, 2, 3}
    assert {a["groups"] for a in attrs} == {1, 2, 3}
    assert all(any(max(a[key]) > 1 for a in attrs) for key in ("strides", "dilations"))
    assert any(low != high for a in attrs for low, high in a["padding"])


def test_scatters_of_all_kinds_are_drawn() -> None:
    kinds = [{node.attrs["reduction"] for _, node in drawn(name)} for name in ("scatter_elements", "scatter_nd")]
    assert set.union(*kinds) == {"none", "add", "mul", "max", "min"}
    assert min(map(len, kinds)) >= 4


def test_products_of_all_ranks_are_drawn() -> None:
    ranks = {tuple(i.type.rank for i in case.graph.inputs) for case, _ in drawn("matmul")}
    assert {r[0] for r in ranks if len(r) == 2} == {r[1] for r in ranks if len(r) == 2} == {2, 3, 4}
    assert any(min(r) > 2 for r in ranks)


def test_poolings_of_all_kinds_are_drawn() -> None:
    attrs = [node.attrs for _, node in drawn("avg_pool")]
    assert {len(a["strides"]) for a in attrs} == {1, 2, 3}
    assert {a["count_include_pad"] for a in attrs} == {True, False}
    assert any(max(a["dilations"]) > 1 for a in attrs) and any(sum(map(sum, a["padding"])) for a in attrs)
