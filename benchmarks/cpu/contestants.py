"""Those who compute a workload: this compiler and its peers.

A contestant is built from a workload once. ``ready(threads)`` returns a function without arguments that computes on inputs
which already lie in the library's own tensors; ``arrays`` turns what it returned into NumPy arrays.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch

import gensyn_tvm
from benchmarks.cpu.cases import Workload
from benchmarks.cpu.stock_tvm import StockTvm
from gensyn_tvm.canonical.graph import Graph
from gensyn_tvm.runtime.executable import Executable

#: Learning rate of every training step.
RATE = 1e-3
OURS = "gensyn_tvm"


class Contestant(Protocol):
    """See the module."""

    name: str

    def ready(self, threads: int) -> Callable[[], Any]:
        """A function that computes once; to be called again before each block, for libraries whose threads are global."""

    def arrays(self, value: Any) -> list[np.ndarray]:
        """What the function returned; of a training step the loss only."""


class Ours:
    """This compiler: the library is built once, and loaded for each number of threads.

    Attributes:
        seconds: of importing the module and of compiling it.
    """

    name = OURS

    def __init__(self, workload: Workload) -> None:
        start = time.perf_counter()
        program = None if workload.graph else gensyn_tvm.from_torch(workload.module, workload.inputs)
        imported = time.perf_counter()
        self.training = workload.target is not None
        if program is None:
            self.built = gensyn_tvm.compile(cast(Graph, workload.graph))
        elif self.training:
            step = gensyn_tvm.training_step(program, loss="cross_entropy", optimizer=gensyn_tvm.AdamW(lr=RATE))
            self.built = gensyn_tvm.compile(step)
        else:
            self.built = gensyn_tvm.compile(program)
        self.seconds = {"import": imported - start, "compile": time.perf_counter() - imported}
        values = [*(i.numpy() for i in workload.inputs), *([workload.target] if workload.target is not None else [])]
        names = [i.name for i in self.built.graph.inputs if i.role in ("input", "target")]
        self.inputs = dict(zip(names, map(np.ascontiguousarray, values), strict=True))
        self.loaded: dict[int, Callable[[], Any]] = {}

    def ready(self, threads: int) -> Callable[[], Any]:
        """A call of the program; for training, each continues from the state of the one before."""
        if threads not in self.loaded:
            exe = self.executable(threads)
            self.loaded[threads] = self._step(exe) if self.training else self._bound(exe)
        return self.loaded[threads]

    def executable(self, threads: int) -> Executable:
        """The library, loaded for so many threads."""
        b = self.built
        if b.threads == threads:
            return b
        options: dict[str, Any] = {"target": b.target, "schedule": b.schedule, "learning_rate": b.learning_rate}
        return Executable.from_library(b.graph, b.state, b.library, threads=threads, **options)

    def _bound(self, exe: Executable) -> Callable[[], Any]:
        call, arrays = exe.bind(), list(self.inputs.values())
        return lambda: call(*arrays)

    def _step(self, exe: Executable) -> Callable[[], Any]:
        step = exe.start(exe.init(seed=0))
        return lambda: step(self.inputs)["loss"]

    def arrays(self, value: Any) -> list[np.ndarray]:
        """The outputs, or the loss."""
        return value if isinstance(value, list) else [np.asarray(value)]

    def digested(self) -> dict[str, np.ndarray]:
        """The arrays whose digest is recorded: outputs, or all state after two steps."""
        if self.training:
            state = self.built.init(seed=0)
            for _ in range(2):
                state, _metrics = self.built(state, self.inputs)
            return state.numpy()
        return {str(k): a for k, a in enumerate(self.arrays(self._bound(self.built)()))}


class Torch:
    """PyTorch, eager or compiled by its inductor."""

    def __init__(self, workload: Workload, *, compiled: bool = False) -> None:
        self.name = "torch.compile" if compiled else "torch"
        self.workload = workload
        # A copy: training changes it, and the others start from the same weights.
        self.module = _copy(workload.module) if workload.target is not None else workload.module
        self.function = torch.compile(self.module, dynamic=False) if compiled else self.module
        self.run = self._step() if workload.target is not None else self._infer

    def ready(self, threads: int) -> Callable[[], Any]:
        """One inference or training step."""
        torch.set_num_threads(threads)
        return self.run

    def _infer(self) -> Any:
        with torch.inference_mode():
            return self.function(*self.workload.inputs)

    def _step(self) -> Callable[[], Any]:
        optimizer = torch.optim.AdamW(self.module.parameters(), lr=RATE)
        target = torch.from_numpy(self.workload.target)

        def run() -> Any:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(self.function(*self.workload.inputs), target)
            loss.backward()
            optimizer.step()
            return loss.detach()

        return run

    def arrays(self, value: Any) -> list[np.ndarray]:
        """The outputs, or the loss."""
        return [v.detach().numpy() for v in (value if isinstance(value, tuple) else (value,))]


class OnnxRuntime:
    """ONNX Runtime on what PyTorch exports, inputs and outputs bound to its tensors."""

    name = "onnxruntime"

    def __init__(self, workload: Workload) -> None:
        # A folder of its own as long as the object lives: weights above 2 GB lie in a file of their own.
        self.folder = tempfile.TemporaryDirectory(prefix="gensyn-tvm-bench-")
        self.path = Path(self.folder.name) / "model.onnx"
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(workload.module, workload.inputs, str(self.path), dynamo=True, verbose=False)
        self.workload = workload
        self.calls: dict[int, Callable[[], Any]] = {}

    def ready(self, threads: int) -> Callable[[], Any]:
        """A run of the session with so many threads."""
        if threads not in self.calls:
            self.calls[threads] = self._session(threads)
        return self.calls[threads]

    def _session(self, threads: int) -> Callable[[], Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for declared, value in zip(session.get_inputs(), self.workload.inputs, strict=True):
            binding.bind_ortvalue_input(declared.name, onnxruntime.OrtValue.ortvalue_from_numpy(value.numpy()))
        for output in session.get_outputs():
            binding.bind_output(output.name, "cpu")

        def run() -> Any:
            session.run_with_iobinding(binding)
            return binding

        return run

    def arrays(self, value: Any) -> list[np.ndarray]:
        """The bound outputs."""
        return list(value.copy_outputs_to_cpu())


class NumPy:
    """NumPy, with the OpenBLAS that it carries."""

    name = "numpy"

    def __init__(self, workload: Workload) -> None:
        from threadpoolctl import ThreadpoolController

        if workload.numpy is None:
            raise ValueError("NumPy has no such function")
        self.blas = ThreadpoolController().select(internal_api="openblas")
        self.function, self.inputs = workload.numpy, [i.numpy() for i in workload.inputs]

    def ready(self, threads: int) -> Callable[[], Any]:
        """The function; BLAS's threads are the process's, and only products have any."""
        self.blas.limit(limits=threads)
        return lambda: self.function(*self.inputs)

    def arrays(self, value: Any) -> list[np.ndarray]:
        """The output."""
        return [value]


def peers_of(workload: Workload, *, compiled: bool) -> dict[str, Callable[[], Contestant]]:
    """Constructors of those who can compute the workload, by name; ``compiled`` adds torch.compile."""
    makers: dict[str, Callable[[], Contestant]] = {"torch": lambda: Torch(workload)}
    if compiled:
        makers["torch.compile"] = lambda: Torch(workload, compiled=True)
    if workload.target is None and workload.graph is None:
        makers["onnxruntime"] = lambda: OnnxRuntime(workload)
        makers[StockTvm.name] = lambda: StockTvm(workload)
    if workload.numpy is not None:
        makers["numpy"] = lambda: NumPy(workload)
    return makers


def _copy(module: torch.nn.Module) -> torch.nn.Module:
    import copy

    return copy.deepcopy(module)
