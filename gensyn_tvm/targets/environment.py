"""The floating-point environment of the compute threads.

Compute threads inherit the environment of whoever created them, and any library in the process may have changed that
(flush-to-zero, rounding mode). Every compiled program therefore carries a kernel that sets the IEEE-754 default in each thread
of the pool; the runtime calls it before a run.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from gensyn_tvm.runtime.executable import ENVIRONMENT_KERNEL


def add_environment_kernel(module: Any) -> Any:
    """The module with ``ENVIRONMENT_KERNEL(threads)``, which calls ``fesetenv(FE_DFL_ENV)`` once in each thread.

    ``FE_DFL_ENV`` is the pointer -1 in glibc and musl; it clears flush-to-zero and denormals-are-zero too.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_name(ENVIRONMENT_KERNEL)
        # TVM's LLVM generator takes "noalias" from whichever function it saw last, for the whole module: without it here every
        # kernel would keep its accumulators in memory.
        T.func_attr({"global_symbol": ENVIRONMENT_KERNEL, "tirx.noalias": True})
        threads = T.arg("threads", tirx.Var("threads", "int32"))
        with T.parallel(0, threads):
            default = tirx.reinterpret("handle", tirx.IntImm("int64", -1))
            T.evaluate(tirx.call_extern("int32", "fesetenv", default))
    module[ENVIRONMENT_KERNEL] = builder.get()
    return module
