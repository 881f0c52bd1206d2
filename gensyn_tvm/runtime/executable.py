"""Run a compiled program: an executable needs TVM's runtime, not its compiler."""

from __future__ import annotations

import os
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gensyn_tvm.canonical import rules, serialise
from gensyn_tvm.canonical.graph import STATE_ROLES, Graph, Input, Output
from gensyn_tvm.canonical.types import NARROW, TensorType, from_carrier, to_carrier
from gensyn_tvm.errors import InputError, TargetError, describe
from gensyn_tvm.evidence.digests import state_digest
from gensyn_tvm.runtime.cpu import core_count
from gensyn_tvm.runtime.fpenv import ieee754_environment

ENVIRONMENT_KERNEL = "gensyn_fp_environment"
_ENTRY = "main"
_ALL_CORES = 1  # TVM's affinity mode "big"

Batch = Mapping[str, Any] | Sequence[Any]

#: TVM has one thread pool for the process; runs with different numbers of threads must not overlap.
_POOL_LOCK = threading.Lock()


@dataclass(frozen=True)
class State(Mapping[str, Any]):
    """Named arrays between two steps of training: parameters, buffers and optimizer state, with the step and the seed.

    Attributes:
        arrays: by name; values support ``numpy()`` or are NumPy arrays. Never modified in place.
        step: number of steps taken.
        seed: seed of every random operator.
    """

    arrays: Mapping[str, Any]
    step: int = 0
    seed: int = 0

    def __getitem__(self, name: str) -> np.ndarray:
        value = self.arrays[name]
        # A copy either way, so that writing into it changes neither this state nor the model that it came from.
        return value.copy() if isinstance(value, np.ndarray) else value.numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def numpy(self) -> dict[str, np.ndarray]:
        """All arrays as NumPy arrays."""
        return {name: self[name] for name in self}

    def digest(self) -> str:
        """SHA-256 (hex) over names, dtypes, shapes and bits of all arrays."""
        return state_digest(self.numpy())


@dataclass
class Executable:
    """A program compiled for one target.

    Inference programs are called as ``exe(*inputs)`` and return their outputs; training steps as
    ``exe(state, batch) -> (state, metrics)``.

    Attributes:
        graph: the canonical graph.
        state: values of the state inputs: the initial ones, or those of the file (for inference: the parameters).
        target: name of the target.
        schedule: style of the schedules.
        threads: compute threads.
        learning_rate: default of each step, if the program has one.
    """

    graph: Graph
    state: State
    target: str
    schedule: str
    threads: int
    library: bytes = field(repr=False)
    learning_rate: float | None = None
    _machine: Any = field(default=None, repr=False)
    _enter: Any = field(default=None, repr=False)

    @staticmethod
    def from_library(
        graph: Graph,
        state: State,
        library: bytes,
        *,
        target: str,
        schedule: str,
        threads: int | None = None,
        learning_rate: float | None = None,
    ) -> Executable:
        """Load a shared library that the compiler built for ``graph``.

        Raises:
            TargetError: the library cannot be loaded on this machine.
            InputError: fewer than one thread.
        """
        threads = core_count() if threads is None else threads
        if not isinstance(threads, int) or threads < 1:
            raise InputError(f"threads={threads!r}; expected at least 1")
        exe = Executable(graph, state, target, schedule, threads, library, learning_rate)
        exe._load()
        return exe

    @property
    def digest(self) -> str:
        """Digest of the program; the same for every target."""
        return serialise.digest(self.graph)

    @property
    def numerics_version(self) -> str:
        """Version of the numerics specification that the program follows."""
        return rules.NUMERICS_VERSION

    @property
    def is_training_step(self) -> bool:
        """Whether the program updates state."""
        return any(o.updates for o in self.graph.outputs)

    def _load(self) -> None:
        import tvm_ffi  # noqa: F401  (loads the FFI before TVM's runtime)
        from tvm import runtime
        from tvm.runtime.vm import VirtualMachine

        with tempfile.TemporaryDirectory(prefix="gensyn-tvm-") as folder:
            path = Path(folder) / "program.so"
            path.write_bytes(self.library)
            try:
                module = runtime.load_module(str(path))
                self._enter = module.get_function(ENVIRONMENT_KERNEL, query_imports=True)
                self._machine = VirtualMachine(module, runtime.cpu())
            except (RuntimeError, OSError, AttributeError) as error:
                raise TargetError(
                    describe(
                        f"the library for target {self.target!r} cannot be loaded",
                        found=str(error)[:400],
                        remedy="compile the program on this machine",
                    )
                ) from error

    def init(self, seed: int = 0) -> State:
        """The state before the first step, with the arrays of ``self.state``.

        Raises:
            InputError: the seed is no integer of 64 bits.
        """
        if not isinstance(seed, int | np.integer) or not -(2**63) <= seed < 2**63:
            raise InputError(f"seed={seed!r}; expected a 64-bit integer")
        return State(self.state.arrays, 0, int(seed))

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run once; see the class for the two forms.

        Options of a training step: ``learning_rate`` (float). Raises ``InputError`` for arrays that do not fit.
        """
        if self.is_training_step:
            return self._train(*arguments, **options)
        return self._infer(*arguments, **options)

    def _infer(self, *inputs: Any, **named: Any) -> Any:
        names = [i.name for i in self.graph.inputs if i.role not in STATE_ROLES]
        if (inputs and named) or len(inputs) > len(names):
            raise InputError(f"expected the inputs {', '.join(names)}, by position or by name")
        given = dict(zip(names, inputs, strict=False)) if inputs else named
        outputs = self.run({**given}, self.state.arrays)
        arrays = [as_array(o) for o in outputs]
        return arrays[0] if len(arrays) == 1 else arrays

    def _train(
        self, state: State | None = None, batch: Batch | None = None, *, learning_rate: float | None = None
    ) -> tuple[State, dict[str, float]]:
        if not isinstance(state, State) or batch is None:
            raise InputError("a training step is called as exe(state, batch); state comes from exe.init(seed)")
        batch = named_batch(self.graph, batch)
        scalars = {
            "step": np.int64(state.step),
            "seed": np.int64(state.seed),
            "learning_rate": rate_of(self.graph, self.learning_rate if learning_rate is None else learning_rate),
        }
        control = {i.name: np.asarray(scalars[i.role]) for i in self.graph.inputs if i.role in scalars}
        outputs = self.run({**batch, **control}, state.arrays)
        arrays, metrics = {}, {}
        for declared, value in zip(self.graph.outputs, outputs, strict=True):
            if declared.updates:
                arrays[declared.name] = value
            else:
                metrics[declared.name] = as_array(value)
        kept = {n: v for n, v in state.arrays.items() if n not in arrays}
        return State({**kept, **arrays}, state.step + 1, state.seed), {n: scalar_of(v) for n, v in metrics.items()}

    def run(self, given: Mapping[str, Any], state: Mapping[str, Any]) -> list[Any]:
        """Run on named arrays; the outputs in the order of the graph, as TVM tensors.

        Outputs that TVM cannot hold (of a narrow dtype, or cut to an extent computed at run time) are NumPy arrays.

        Raises:
            InputError: missing, unknown or ill-typed arrays, all named.
        """
        arguments = self._arguments(given, state)
        with _POOL_LOCK, ieee754_environment():
            _use_threads(self.threads)
            if self.threads > 1:
                self._enter(self.threads)
            results = list(self._machine[_ENTRY](*arguments))
        types = self.graph.value_types()
        extents = iter(results[len(self.graph.outputs) :])
        return [_output(o, types[o.value], r, extents) for o, r in zip(self.graph.outputs, results, strict=False)]

    def _arguments(self, given: Mapping[str, Any], state: Mapping[str, Any]) -> list[Any]:
        problems = []
        expected = {i.name for i in self.graph.inputs if i.role not in STATE_ROLES}
        problems += [f"unknown input {name!r}" for name in given if name not in expected]
        arguments = []
        for declared in self.graph.inputs:
            source = state if declared.role in STATE_ROLES else given
            if declared.name not in source:
                problems.append(f"missing {declared.role} {declared.name!r} of type {declared.type}")
                continue
            value, problem = _tensor(declared, source[declared.name])
            problems += [problem] if problem else []
            arguments.append(value)
        if problems:
            shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
            raise InputError(describe(f"program {self.graph.name!r} cannot run on these arrays", found=shown))
        return arguments

    def save(self, path: str | os.PathLike[str], *, state: State | None = None, others: Sequence[Executable] = ()) -> None:
        """Write a ``.gtvm`` file with the program and this library; completely or not at all.

        Args:
            path: where to.
            state: arrays to store instead of the initial ones, for instance after training.
            others: the same program compiled for other targets, whose libraries go into the file too.
        """
        from gensyn_tvm.runtime.packaging import save_executables

        save_executables(Path(path), [self, *others], state)


def named_batch(graph: Graph, batch: Batch) -> Mapping[str, Any]:
    """The arrays of a batch by name: they are given so, or in the order of the graph's inputs.

    Raises:
        InputError: something else, or another number of arrays.
    """
    if isinstance(batch, Mapping):
        return batch
    names = [i.name for i in graph.inputs if i.role in ("input", "target")]
    if not isinstance(batch, Sequence):
        raise InputError(f"the batch is a {type(batch).__name__}, expected {', '.join(names)} in a tuple or by name")
    if len(batch) != len(names):
        raise InputError(f"the batch has {len(batch)} arrays, expected {len(names)}: {', '.join(names)}")
    return dict(zip(names, batch, strict=True))


def rate_of(graph: Graph, rate: Any) -> np.float32:
    """The learning rate as the program reads it; zero if the program has none.

    Raises:
        InputError: it is no finite float32.
    """
    if rate is None and all(i.role != "learning_rate" for i in graph.inputs):
        return np.float32(0.0)
    if not isinstance(rate, int | float | np.number) or not abs(float(rate)) <= float(np.finfo(np.float32).max):
        raise InputError(f"learning_rate={rate!r}; expected a finite number")
    return np.float32(rate)


def as_array(value: Any) -> np.ndarray:
    """A NumPy array, or a TVM tensor as one."""
    return value if isinstance(value, np.ndarray) else value.numpy()


def _output(declared: Output, type_: TensorType, value: Any, extents: Iterator[Any]) -> Any:
    """What the caller sees of a result: the tensor itself wherever that is possible."""
    if declared.extents:
        array = value.numpy()
        for axis, _ in declared.extents:
            array = array[(slice(None),) * axis + (slice(0, max(int(next(extents).numpy()), 0)),)]
        return from_carrier(np.array(array, order="C"), type_.dtype)
    return from_carrier(value.numpy(), type_.dtype) if type_.dtype in NARROW else value


def scalar_of(value: np.ndarray) -> Any:
    """A scalar as one, other arrays as they are."""
    return value[()] if value.shape == () else value


def _tensor(declared: Input, value: Any) -> tuple[Any, str]:
    """The array as an aligned TVM tensor, or what is wrong with it. Arrays and DLPack objects are accepted."""
    from tvm import runtime

    if isinstance(value, runtime.Tensor):
        found = (tuple(int(e) for e in value.shape), str(value.dtype))
        tensor = value
    else:
        try:
            array = np.asarray(value) if isinstance(value, np.ndarray | np.generic) else _from_dlpack(value)
        except (TypeError, ValueError, RuntimeError, BufferError) as error:
            return None, f"{declared.role} {declared.name!r} is a {type(value).__name__} that NumPy cannot read ({error})"
        found = (array.shape, str(array.dtype))
        tensor = None
    if found != (declared.type.shape, declared.type.dtype):
        text = f"{declared.role} {declared.name!r} is {found[1]}[{', '.join(map(str, found[0]))}], expected {declared.type}"
        return None, text
    return (runtime.tensor(np.asarray(to_carrier(array), order="C")) if tensor is None else tensor), ""


def _from_dlpack(value: Any) -> np.ndarray:
    return np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(value)


_CURRENT_THREADS = 0


def _use_threads(threads: int) -> None:
    """Size TVM's thread pool, which exists once in a process and is made at its first use.

    Its own default is half the hardware threads, and the number it is made with is the most that it can ever use.
    """
    global _CURRENT_THREADS
    if threads == _CURRENT_THREADS:
        return
    import tvm_ffi

    os.environ.setdefault("TVM_NUM_THREADS", str(max(threads, core_count())))
    # Otherwise TVM pins the calling thread to one core, and with it whatever else the process computes.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    tvm_ffi.get_global_func("runtime.config_threadpool")(_ALL_CORES, threads)
    used = tvm_ffi.get_global_func("runtime.NumThreads")()
    if used < threads:
        warnings.warn(
            f"TVM's thread pool has {used} threads, fewer than the {threads} asked for: it was made earlier in this process, "
            f"or TVM_NUM_THREADS={os.environ['TVM_NUM_THREADS']} limits it. Results are the same bits, only slower.",
            RuntimeWarning,
            stacklevel=4,
        )
    _CURRENT_THREADS = threads
