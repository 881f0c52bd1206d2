"""Runs a program's inference through stock TVM, to compare what was imported with the framework."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from gensyn_tvm.program import Program
from gensyn_tvm.training.ops import attrs_of


@relax.expr_functor.mutator
class _Inference(relax.PyExprMutator):
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        name = getattr(call.op, "name", "")
        if name == "gensyn.dropout":
            return call.args[0]
        if name != "gensyn.batch_norm":
            return call
        x, gamma, beta, mean, var = call.args
        shape = [1, -1] + [1] * (int(x.ty.ndim) - 2)
        column = lambda v: self.builder_.emit(relax.op.reshape(v, shape))  # noqa: E731
        spread = relax.op.sqrt(relax.op.add(var, relax.const(attrs_of(call)["epsilon"], str(var.ty.dtype.dtype))))
        y = relax.op.divide(relax.op.subtract(x, column(mean)), column(self.builder_.emit(spread)))
        y = self.builder_.emit(relax.op.add(relax.op.multiply(y, column(gamma)), column(beta)))
        return relax.Tuple([y, mean, var])


@pytest.fixture(scope="session")
def infer() -> Callable[..., list[np.ndarray]]:
    """``infer(program, *inputs)``: the outputs, then the state updates."""

    def run(program: Program, *inputs: np.ndarray) -> list[np.ndarray]:
        module = tvm.IRModule({"main": _Inference().visit_expr(program.module["main"])})
        machine = relax.VirtualMachine(tvm.compile(relax.transform.Normalize()(module), "llvm"), tvm.cpu())
        arrays = [*inputs, *program.parameters.values(), *program.states.values()]
        return [t.numpy() for t in machine["main"](*(tvm.runtime.tensor(a) for a in arrays))]

    return run


def operators(program: Program) -> list[str]:
    """Names of the operators that ``main`` calls, in order."""
    return [b.value.op.name for b in program.module["main"].body.blocks[0].bindings if isinstance(b.value, tvm.ir.Call)]


def calls(program: Program, name: str) -> list[Any]:
    """The calls of one operator."""
    values = [b.value for b in program.module["main"].body.blocks[0].bindings]
    return [v for v in values if isinstance(v, tvm.ir.Call) and v.op.name == name]


@pytest.fixture(scope="session")
def inspect() -> Any:
    """The functions ``operators`` and ``calls``."""

    class Inspect:
        operators = staticmethod(operators)
        calls = staticmethod(calls)

    return Inspect
