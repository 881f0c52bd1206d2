"""Run a compiled program: an executable needs TVM's runtime, not its compiler."""

from __future__ import annotations

import gc
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gensyn_tvm.canonical import rules, serialise
from gensyn_tvm.canonical.graph import STATE_ROLES, Graph, Input, Output
from gensyn_tvm.canonical.types import NARROW, TensorType, from_carrier, to_carrier
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.evidence.digests import state_digest
from gensyn_tvm.runtime.batch import Batch, checked_seed, named_batch, rate_of
from gensyn_tvm.runtime.bound import BoundCall
from gensyn_tvm.runtime.cpu import core_count
from gensyn_tvm.runtime.cuda import CudaMachine
from gensyn_tvm.runtime.footprint import Footprint, footprint_of
from gensyn_tvm.runtime.machine import POOL, Machine
from gensyn_tvm.runtime.plan import ALIGNMENT
from gensyn_tvm.runtime.profile import Row, rows_of
from gensyn_tvm.runtime.storage import address_of, aligned_array
from gensyn_tvm.targets.gpu.target import CUDA

if TYPE_CHECKING:
    from gensyn_tvm.runtime.training_run import TrainingRun

_MISSING = object()


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
        return state_digest({name: as_array(value) for name, value in self.arrays.items()})


#: What an executable has for a state after it handed its own to a training run.
RELEASED = State({})


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
    _machine: Machine | CudaMachine = field(default=None, repr=False)  # type: ignore[assignment]  # from_library sets it

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
        owned: bool = False,
    ) -> Executable:
        """Load a library that the compiler built for ``graph``. A GPU is looked for at the first run only.

        ``owned``: nobody else has the arrays of the state, so that they need not be copied.

        Raises:
            TargetError: the library cannot be loaded on this machine.
            InputError: fewer than one thread.
        """
        threads = core_count() if threads is None else threads
        if not isinstance(threads, int) or threads < 1:
            raise InputError(f"threads={threads!r}; expected at least 1")
        # Copies of our own, which nobody modifies: they need not be looked at again when the program runs.
        own = State({n: _own(a, owned) for n, a in state.arrays.items()}, state.step, state.seed)
        machine = CudaMachine(library) if target == CUDA.name else Machine(library, target)
        return Executable(graph, own, target, schedule, threads, library, learning_rate, machine)

    @property
    def digest(self) -> str:
        """Digest of the program; the same for every target."""
        return serialise.digest(self.graph)

    @property
    def numerics_version(self) -> str:
        """Version of the numerics specification that the program follows."""
        return rules.NUMERICS_VERSION

    @property
    def warnings(self) -> tuple[str, ...]:
        """What ``compile`` logs as warnings: kernels that run with a simpler schedule."""
        return self._machine.plan.warnings

    @cached_property
    def is_training_step(self) -> bool:
        """Whether the program updates state."""
        return any(o.updates for o in self.graph.outputs)

    def init(self, seed: int = 0) -> State:
        """The state before the first step, with the arrays of ``self.state``.

        Raises:
            InputError: the seed is no integer of 64 bits, or the state was released.
        """
        checked = checked_seed(seed)
        if self.state is RELEASED:
            raise InputError(
                "release=True handed the initial state to a training run: take the run's state, or load the program again"
            )
        return State(self.state.arrays, 0, checked)

    def start(self, state: State | None = None, *, release: bool = False) -> TrainingRun:
        """A training run that owns a copy of the state and updates it in place: less memory, the same bits.

        Args:
            state: where it starts; ``init()`` by default.
            release: forget ``self.state`` as the run takes it over, so that it is in memory once rather than twice. Arrays
                that somebody else holds stay as they are. Afterwards ``init()`` is refused, and ``save`` needs a state.

        Raises:
            InputError: it is no training step, the state does not fit, or it was released before.
        """
        from gensyn_tvm.runtime.training_run import TrainingRun

        if not self.is_training_step:
            raise InputError("only a training step can be started: this program updates nothing")
        state = self.init() if state is None else state
        self.check_state(state)
        # Only the new dictionary and what others hold keep the arrays alive: the run empties it one by one.
        arrays, step, seed = dict(state.arrays), state.step, state.seed
        del state
        if release:
            self.release()
        return TrainingRun(self, arrays, step, seed)

    def release(self) -> None:
        """Forget ``self.state``: ``init()`` is refused from now on, and ``save`` needs a state."""
        self.state = RELEASED
        gc.collect()  # an importer's graphs refer to one another, and hold a model's arrays until they are found

    def check_state(self, state: State) -> None:
        """Raise InputError for a state whose arrays are not those of the program, all named."""
        problems = []
        for i in self.graph.inputs:
            if i.role in STATE_ROLES and i.name not in state.arrays:
                problems.append(f"missing {i.role} {i.name!r} of type {i.type}")
            elif i.role in STATE_ROLES:
                problem = _carried(i, state.arrays[i.name])[1]
                problems += [problem] if problem else []
        self._refuse(problems)

    def _refuse(self, problems: Sequence[str]) -> None:
        if problems:
            shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
            raise InputError(describe(f"program {self.graph.name!r} cannot run on these arrays", found=shown))

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Run once; see the class for the two forms.

        Options of a training step: ``learning_rate`` (float). Raises ``InputError`` for arrays that do not fit.
        """
        if self.is_training_step:
            return self._train(*arguments, **options)
        return self._infer(*arguments, **options)

    def bind(self, state: Mapping[str, Any] | None = None) -> BoundCall:
        """The program with its parameters bound, for the least overhead for each call; see ``BoundCall``.

        Args:
            state: arrays instead of those of ``self.state``. Arrays of NumPy may be modified between two calls, and cost a
                comparison in each.

        Raises:
            InputError: it is a training step.
        """
        if self.is_training_step:
            raise InputError("a training step cannot be bound: its state changes with each call")
        return BoundCall(self, self.state.arrays if state is None else state)

    @cached_property
    def _call(self) -> BoundCall:
        return self.bind()

    def _infer(self, *inputs: Any, **named: Any) -> Any:
        if inputs and not named and self._call.state is self.state.arrays and len(inputs) == len(self._call.names):
            return self._call(*inputs)
        names = [i.name for i in self.graph.inputs if i.role not in STATE_ROLES]
        if (inputs and named) or len(inputs) > len(names):
            raise InputError(f"expected the inputs {', '.join(names)}, by position or by name")
        given = dict(zip(names, inputs, strict=False)) if inputs else named
        arrays = self._run(given, self.state.arrays, tensors=())
        return arrays[0] if len(arrays) == 1 else arrays

    def _train(
        self, state: State | None = None, batch: Batch | None = None, *, learning_rate: float | None = None
    ) -> tuple[State, dict[str, float]]:
        if not isinstance(state, State) or batch is None:
            raise InputError("a training step is called as exe(state, batch); state comes from exe.init(seed)")
        updated = {o.name for o in self.graph.outputs if o.updates}
        outputs = self._run(self._step_inputs(state, batch, learning_rate), state.arrays, tensors=updated)
        arrays, metrics = {}, {}
        for declared, value in zip(self.graph.outputs, outputs, strict=True):
            if declared.updates:
                arrays[declared.name] = value
            else:
                metrics[declared.name] = as_array(value)
        kept = {n: v for n, v in state.arrays.items() if n not in arrays}
        return State({**kept, **arrays}, state.step + 1, state.seed), {n: scalar_of(v) for n, v in metrics.items()}

    def _step_inputs(self, state: State, batch: Batch, learning_rate: float | None) -> dict[str, Any]:
        return self._clocked(state.step, state.seed, batch, learning_rate)

    def _clocked(self, step: int, seed: int, batch: Batch, learning_rate: float | None) -> dict[str, Any]:
        """All inputs of a step but its state."""
        named = named_batch(self.graph, batch)
        scalars = {
            "step": np.int64(step),
            "seed": np.int64(seed),
            "learning_rate": rate_of(self.graph, self.learning_rate if learning_rate is None else learning_rate),
        }
        control = {i.name: np.asarray(scalars[i.role]) for i in self.graph.inputs if i.role in scalars}
        return {**named, **control}

    def run(
        self, given: Mapping[str, Any], state: Mapping[str, Any], *, own: Mapping[str, np.ndarray] | None = None
    ) -> list[Any]:
        """Run on named arrays; the outputs in the order of the graph, as TVM tensors.

        Outputs that TVM cannot hold (of a narrow dtype, or cut to an extent computed at run time) are NumPy arrays.

        Args:
            given: the inputs.
            state: the arrays of state.
            own: instead, carried and checked arrays of state that are read where they are. Whoever writes to one of them calls
                ``forget`` before the next run.

        Raises:
            InputError: missing, unknown or ill-typed arrays, all named.
        """
        return self._run(given, state, {o.name for o in self.graph.outputs}, own)

    def forget(self) -> None:
        """Look at all arrays of state anew in the next run, whatever was given in the last."""
        with POOL:
            self._machine.forget()

    def _run(
        self,
        given: Mapping[str, Any],
        state: Mapping[str, Any],
        tensors: Collection[str],
        own: Mapping[str, np.ndarray] | None = None,
    ) -> list[Any]:
        """The outputs, those called ``tensors`` as TVM tensors and the others as NumPy arrays; ``own`` as of ``_give``."""
        machine = self._machine
        with POOL:
            _held = self._give(given, state, own)
            lasting = [o.name in tensors for o in self.graph.outputs]
            lasting += [False] * (len(machine.plan.outputs) - len(lasting))
            arrays = machine.outputs(lasting)
            machine.run(self.threads, arrays)
            # What lies in a fixed place is copied before the next run.
            arrays = [
                a if keep or not machine.is_staged(k) else a.copy()
                for k, (a, keep) in enumerate(zip(arrays, lasting, strict=True))
            ]
        extents = iter(arrays[len(self.graph.outputs) :])
        return [
            _output(o, self._types[o.value], a, extents, keep)
            for o, a, keep in zip(self.graph.outputs, arrays, lasting, strict=False)
        ]

    def outputs_of(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, of arrays as the code wrote them."""
        return [from_carrier(a, self._types[o.value].dtype) for o, a in zip(self.graph.outputs, arrays, strict=False)]

    def _metrics(self, arrays: Sequence[np.ndarray]) -> dict[str, Any]:
        """What a step shows, of arrays as its code wrote them."""
        pairs = zip(self.graph.outputs, self.outputs_of(arrays), strict=True)
        return {o.name: scalar_of(a) for o, a in pairs if not o.updates}

    @cached_property
    def state_types(self) -> Mapping[str, TensorType]:
        """The types of the arrays of a state by name."""
        return {i.name: i.type for i in self.graph.inputs if i.role in STATE_ROLES}

    @cached_property
    def _types(self) -> Mapping[int, TensorType]:
        return dict(enumerate(self.graph.value_types()))

    @cached_property
    def _feeds(self) -> list[tuple[int, Input, Any, bool]]:
        """Slot, declaration, dtype of arrays that need no conversion, and whether it is state that stays bound."""
        updated = {o.name for o in self.graph.outputs if o.updates}
        feeds = []
        for slot, i in enumerate(self.graph.inputs):
            dtype = None if i.type.dtype in NARROW else np.dtype(i.type.dtype)
            feeds.append((slot, i, dtype, i.name not in updated))
        return feeds

    def _give(
        self, given: Mapping[str, Any], state: Mapping[str, Any], own: Mapping[str, np.ndarray] | None = None
    ) -> list[Any]:
        """Bind all inputs; the result must be held until the run is over.

        ``own``: carried arrays of state by name that are checked already and that only the caller writes to.
        """
        machine, problems, held, found = self._machine, [], [], 0
        for slot, declared, dtype, keep in self._feeds:
            is_state = declared.role in STATE_ROLES
            if own is not None and is_state and declared.name in own:
                array = own[declared.name]
                if slot not in machine.states or machine.states[slot].given is not array:
                    held.append(machine.bind(slot, array, array, lasting=True, keep=keep))
                continue
            source = state if is_state else given
            value = source.get(declared.name, _MISSING)
            if value is _MISSING:
                problems.append(f"missing {declared.role} {declared.name!r} of type {declared.type}")
                continue
            found += not is_state
            bound = machine.states.get(slot) if is_state else None
            if bound is not None and bound.given is value:
                continue
            if type(value) is np.ndarray and value.dtype == dtype and value.shape == declared.type.shape:
                array, problem = value, ""
            else:
                array, problem = _carried(declared, value)
            if problem:
                problems.append(problem)
            elif is_state:
                lasting = value is self.state.arrays.get(declared.name) or isinstance(value, _tensor_type())
                held.append(machine.bind(slot, value, array, lasting=lasting, keep=keep))
            else:
                held.append(machine.feed(slot, array))
        if found < len(given):
            expected = {i.name for i in self.graph.inputs if i.role not in STATE_ROLES}
            problems = [f"unknown input {name!r}" for name in given if name not in expected] + problems
        self._refuse(problems)
        return held

    def profile(self, *arguments: Any) -> list[Row]:
        """Run kernel by kernel, after a run to warm up: what each kernel takes, the slowest first.

        Args:
            arguments: those of a call: the inputs, or the state and the batch of a training step.

        Raises:
            InputError: arrays that do not fit.
        """
        self(*arguments)
        if self.is_training_step:
            given, state = self._step_inputs(arguments[0], arguments[1], None), arguments[0].arrays
        else:
            given, state = dict(zip(self._call.names, arguments, strict=True)), self.state.arrays
        with POOL:
            _held = self._give(given, state)
            _results = self._machine.outputs([True] * len(self._machine.plan.outputs))
            seconds = self._machine.timed(self.threads)
            self._machine.reset_places()
        return rows_of(self._machine, seconds)

    def footprint(self) -> Footprint:
        """What the program needs of memory, and which arrays are alive where it needs most; ``gensyn-tvm inspect --memory``."""
        return footprint_of(self._machine.plan)

    def save(self, path: str | os.PathLike[str], *, state: State | None = None, others: Sequence[Executable] = ()) -> None:
        """Write a ``.gtvm`` file with the program and this library; completely or not at all.

        Args:
            path: where to.
            state: arrays to store instead of the initial ones, for instance after training.
            others: the same program compiled for other targets, whose libraries go into the file too.
        """
        from gensyn_tvm.runtime.packaging import save_executables

        save_executables(Path(path), [self, *others], state)


def as_array(value: Any) -> np.ndarray:
    """A NumPy array, or a TVM tensor as one."""
    return value if isinstance(value, np.ndarray) else value.numpy()


def _output(declared: Output, type_: TensorType, array: np.ndarray, extents: Iterator[np.ndarray], as_tensor: bool) -> Any:
    """What the caller sees of a result."""
    if declared.extents:
        for axis, _ in declared.extents:
            array = array[(slice(None),) * axis + (slice(0, max(int(next(extents)), 0)),)]
        array = np.array(array, order="C")
    elif as_tensor and type_.dtype not in NARROW:
        import tvm_ffi

        return tvm_ffi.from_dlpack(array)
    return from_carrier(array, type_.dtype)


def scalar_of(value: np.ndarray) -> Any:
    """A scalar as one, other arrays as they are."""
    return value[()] if value.shape == () else value


def _own(value: Any, owned: bool) -> np.ndarray:
    array = as_array(value)
    t = TensorType(array.shape, str(array.dtype))
    if array.nbytes and not np.ascontiguousarray(array).reshape(-1).view(np.uint8).any():
        copy = np.zeros(array.shape, array.dtype)  # memory that nobody writes to: an optimizer's first state takes none
    elif owned and address_of(array) % ALIGNMENT == 0 and array.flags.c_contiguous:
        copy = array
    else:
        copy = aligned_array(TensorType(t.shape, t.carrier)).view(array.dtype)
        copy[...] = array
    copy.flags.writeable = False
    return copy


@cache
def _tensor_type() -> type:
    from tvm import runtime

    return runtime.Tensor


def _carried(declared: Input, value: Any) -> tuple[Any, str]:
    """The array as its carrier, or what is wrong with it. Arrays and DLPack objects are accepted."""
    try:
        array = np.asarray(value) if isinstance(value, np.ndarray | np.generic) else _from_dlpack(value)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        return None, f"{declared.role} {declared.name!r} is a {type(value).__name__} that NumPy cannot read ({error})"
    if (array.shape, str(array.dtype)) != (declared.type.shape, declared.type.dtype):
        found = f"{array.dtype}[{', '.join(map(str, array.shape))}]"
        return None, f"{declared.role} {declared.name!r} is {found}, expected {declared.type}"
    return np.asarray(to_carrier(array)), ""


def _from_dlpack(value: Any) -> np.ndarray:
    return np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(value)
