"""The pass: which paths it takes, and that every operator is either differentiable or constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tvm import relax
from tvm.relax import op

from gensyn_tvm import interpreter
from gensyn_tvm.canonical import rules
from gensyn_tvm.canonical.from_relax import CONVERTERS, freeze
from gensyn_tvm.canonical.relax_ops import canonical
from gensyn_tvm.errors import InvalidProgramError, UnsupportedOperatorError
from gensyn_tvm.training import ops
from gensyn_tvm.training.differentiate import check_differentiable, differentiate
from gensyn_tvm.training.emit import Emitter, build_function, inline
from gensyn_tvm.training.gradients import CANONICAL, CONSTANT, RELAX, RELAX_CONSTANT


def _tensor(name: str, shape: Sequence[int], dtype: str = "float32") -> Any:
    return relax.Var(name, relax.TensorType(list(shape), dtype))


def _gradients(module: Any, arrays: dict[str, np.ndarray], parameters: slice = slice(None)) -> list[np.ndarray]:
    adjoint = differentiate(module, parameters)
    outer = [relax.Var(p.name, p.ty) for p in adjoint.params]
    flat = build_function(outer, lambda e: inline(e, adjoint, outer)[1])
    names = [p.name for p in outer]
    count = len(names[parameters])
    graph = freeze(flat, name="g", inputs=[(n, "input") for n in names], outputs=[(f"d{k}", False) for k in range(count)])
    return interpreter.run(graph, arrays)


def test_every_operator_has_a_rule_or_is_constant() -> None:
    assert set(CANONICAL) | set(CONSTANT) == set(rules.RULES)
    assert not set(CANONICAL) & set(CONSTANT)
    own = {"gensyn.stop_gradient", "gensyn.random_bits"}
    assert (set(RELAX) | set(RELAX_CONSTANT)) - own <= set(CONVERTERS)


def test_integers_and_masks_stay_out() -> None:
    x, i = _tensor("x", (4,)), _tensor("i", (4,), "int64")

    def body(e: Emitter) -> Sequence[Any]:
        mask = e(op.greater(e(op.add(i, relax.const(1, "int64"))), relax.const(2, "int64")))
        return [e(op.sum(e(op.where(mask, x, e.mul(x, 3.0)))))]

    arrays = {"x": np.ones(4, "float32"), "i": np.arange(4)}
    (dx,) = _gradients(build_function([x, i], body), arrays, slice(0, 1))
    assert dx.tolist() == [3.0, 3.0, 1.0, 1.0]


def test_no_gradient_passes_a_stop() -> None:
    x = _tensor("x", (3,))

    def body(e: Emitter) -> Sequence[Any]:
        return [e(op.sum(e.mul(x, e(ops.stop_gradient(x)))))]

    (dx,) = _gradients(build_function([x], body), {"x": np.array([1, 2, 3], "float32")})
    assert dx.tolist() == [1.0, 2.0, 3.0]


def test_parts_of_a_tuple_that_are_not_used() -> None:
    x = _tensor("x", (6,))

    def body(e: Emitter) -> Sequence[Any]:
        parts = e(op.split(x, 3, 0))
        return [e(op.sum(e.mul(relax.TupleGetItem(parts, 1), 2.0)))]

    (dx,) = _gradients(build_function([x], body), {"x": np.ones(6, "float32")})
    assert dx.tolist() == [0.0, 0.0, 2.0, 2.0, 0.0, 0.0]


def test_storage_in_bfloat16_is_gathered_in_float32() -> None:
    x, i = _tensor("x", (2, 3), "bfloat16"), _tensor("i", (300,), "int64")

    def body(e: Emitter) -> Sequence[Any]:
        return [e(op.sum(e.cast(e(op.take(x, i, 0)), "float32")))]

    import ml_dtypes

    arrays = {"x": np.ones((2, 3), ml_dtypes.bfloat16), "i": np.zeros(300, "int64")}
    (dx,) = _gradients(build_function([x, i], body), arrays, slice(0, 1))
    assert dx.dtype == ml_dtypes.bfloat16 and dx.astype("float32").tolist() == [[300.0] * 3, [0.0] * 3]


def test_second_derivatives() -> None:
    """Gradients are made of operators that have gradients."""
    x = _tensor("x", (3,))
    once = build_function([x], lambda e: [e(op.sum(e(op.tanh(x))))])
    adjoint = differentiate(once, slice(None))
    y = _tensor("x", (3,))
    twice = build_function([y], lambda e: [e(op.sum(inline(e, adjoint, [y])[1][0]))])
    values = np.array([-0.5, 0.25, 2.0], "float32")
    (found,) = _gradients(twice, {"x": values})
    t = np.tanh(values.astype(np.float64))
    np.testing.assert_allclose(found, -2 * t * (1 - t * t), rtol=1e-6)


def test_errors_name_the_place() -> None:
    x, w = _tensor("x", (4,)), _tensor("w", (4,))

    def body(e: Emitter) -> Sequence[Any]:
        e.place = "encoder:argmax"
        best = e.cast(e(op.argmax(w, 0)), "float32")
        return [e.add(e(op.sum(x)), best)]

    module = build_function([x, w], body)
    text = r"no path from w to the loss that can be differentiated \(only through relax.argmax at encoder:argmax"
    with pytest.raises(InvalidProgramError, match=text):
        check_differentiable(module["main"], slice(None), ["x", "w"])

    def unknown(e: Emitter) -> Sequence[Any]:
        e.place = "head:selu"
        return [e(op.sum(e(op.nn.selu(x))))]

    with pytest.raises(UnsupportedOperatorError, match=r"(?s)relax.nn.selu.*head:selu"):
        differentiate(build_function([x], unknown), slice(None))


def test_one_open_path_is_enough() -> None:
    """A parameter that is read through a constant operator as well as through a differentiable one has a gradient."""
    x, w, unused = _tensor("x", (4,)), _tensor("w", (4,)), _tensor("unused", (4,))

    def body(e: Emitter) -> Sequence[Any]:
        e(op.add(unused, w))
        return [e(op.sum(e.add(e(op.round(w)), e.mul(e(op.round(x)), w))))]

    module = build_function([x, w, unused], body)
    check_differentiable(module["main"], slice(1, 2), ["w"])
    with pytest.raises(InvalidProgramError, match=r"no path from x, unused to the loss .*only through relax.round"):
        check_differentiable(module["main"], slice(None), ["x", "w", "unused"])


def test_one_matrix_beside_many_is_one_reduction() -> None:
    """The gradient of weights that meet a batch of matrices has no intermediate for each of them."""
    x, w = _tensor("x", (5, 7, 3)), _tensor("w", (3, 2))
    adjoint = differentiate(build_function([x, w], lambda e: [e(op.sum(e(op.matmul(x, w))))]), slice(1, 2))
    outer = [relax.Var(p.name, p.ty) for p in adjoint.params]
    flat = build_function(outer, lambda e: inline(e, adjoint, outer)[1])
    graph = freeze(flat, name="g", inputs=[("x", "input"), ("w", "input")], outputs=[("dw", False)])
    assert [n.types[0].shape for n in graph.nodes if n.op == "matmul"] == [(3, 2)]


def test_float64_functions_have_gradients_or_are_refused() -> None:
    x = _tensor("x", (3,), "float64")
    values = np.array([0.5, 1.0, 3.0])
    (dlog,) = _gradients(build_function([x], lambda e: [e(op.sum(e(op.log(x))))]), {"x": values})
    np.testing.assert_allclose(dlog, 1 / values, rtol=1e-15)
    (dexp,) = _gradients(build_function([x], lambda e: [e(op.sum(e(op.exp(x))))]), {"x": values})
    np.testing.assert_allclose(dexp, np.exp(values), rtol=1e-15)

    def bits(e: Emitter) -> Sequence[Any]:
        e.place = "layer:bits"
        return [e(op.sum(e.cast(e(canonical("bitcast", x, dtype="int64")), "float64")))]

    with pytest.raises(UnsupportedOperatorError, match=r"(?s)bitcast.*layer:bits.*stop the gradient"):
        differentiate(build_function([x], bits), slice(None))
