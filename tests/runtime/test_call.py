"""Calls in C: they take what they may take, leave the rest to Python, and lose nothing."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gensyn_tvm.canonical.graph import GraphBuilder
from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.compiler import Source, compile
from gensyn_tvm.errors import EnvironmentChangedError, InputError
from gensyn_tvm.runtime import _call, plan
from gensyn_tvm.runtime.bound import BoundCall
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.runtime.machine import NO_ENVIRONMENT, POOL, Machine, _fail
from gensyn_tvm.runtime.storage import KEPT, PAGE, address_of

SMALL, MIDDLE, LARGE = (3, 5), (100, 200), (KEPT // 4, 1)
SHAPES = {"small": SMALL, "middle": MIDDLE, "large": LARGE, "a scalar": (), "empty": (0, 3)}


def program(shape: tuple[int, ...], dtype: str = "float32", outputs: int = 1, threads: int | None = 1) -> Executable:
    """x + y, and -x if there are two outputs."""
    b = GraphBuilder("both")
    x, y = (b.add_input(name, "input", TensorType(shape, dtype)) for name in "xy")
    b.add_output("sum", b.emit("add", x, y))
    if outputs == 2:
        b.add_output("negative", b.emit("neg", x))
    return compile(Source(b.finish(), State({})), threads=threads)


def arrays(shape: tuple[int, ...], seed: int = 0, dtype: str = "float32") -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray(np.asarray(rng.integers(-1000, 1000, shape)) / 8).astype(dtype) for _ in range(2)]


def armed(exe: Executable, given: list[np.ndarray]) -> BoundCall:
    """A bound call whose next call is a short one."""
    call = exe.bind()
    call(*given)
    assert call.is_short
    return call


def equal(a: Any, b: np.ndarray) -> bool:
    return type(a) is np.ndarray and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture
def long_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has an element for each run that took the long way."""
    runs: list[int] = []
    through = BoundCall._long

    def counted(self: BoundCall, inputs: Any) -> Any:
        runs.append(len(inputs))
        return through(self, inputs)

    monkeypatch.setattr(BoundCall, "_long", counted)
    return runs


def test_constants_are_those_of_plans() -> None:
    assert (_call.ACCEPTED, _call.ALIGNMENT, _call.PAGE) == (plan.ACCEPTED, plan.ALIGNMENT, PAGE)


def machine_of(exe: Executable) -> Machine:
    assert isinstance(exe._machine, Machine)
    return exe._machine


def outer(rows: int = 1024, columns: int = 1024) -> Executable:
    """A column times a row."""
    b = GraphBuilder("outer")
    x = b.add_input("x", "input", TensorType((rows, 1), "float32"))
    y = b.add_input("y", "input", TensorType((1, columns), "float32"))
    b.add_output("product", b.emit("mul", *(b.emit("broadcast_to", v, shape=(rows, columns)) for v in (x, y))))
    return compile(Source(b.finish(), State({})), threads=1)


def test_small_inputs_beside_a_large_result_have_pages_of_their_own(long_runs: list[int]) -> None:
    exe = outer()
    x, y = (np.random.default_rng(k).standard_normal(s).astype(np.float32) for k, s in enumerate(((1024, 1), (1, 1024))))
    first, second = armed(exe, [x, y]), exe.bind()
    assert equal(second(y.T.copy(), x.T.copy()), y.T * x.T)
    long_runs.clear()
    for call in (first, second, first, second):  # each knows the one place, and is asked again after the other
        assert equal(call(x, y), x * y)
        assert equal(call(-x, unaligned(y)), -x * y)
    assert len(long_runs) == 4
    assert equal(exe.run({"x": y.T, "y": x.T}, {})[0].numpy(), y.T * x.T)
    machine = machine_of(exe)
    for slot in range(2):
        assert machine.stage_input(slot) is machine.stage(slot)
        assert address_of(machine.stage(slot)) % PAGE == 0 and machine.table[slot] == address_of(machine.stage(slot))
    assert [address_of(a) % PAGE for a in (first(x, y), first(x, y))] == [0, 0]  # by the long way, and by the short one


def test_inputs_get_their_pages_while_nobody_runs() -> None:
    exe = outer()
    machine = machine_of(exe)
    before = machine.table.copy()
    binding = threading.Thread(target=exe.bind)
    with POOL:  # as a run has
        binding.start()
        binding.join(0.3)
        assert binding.is_alive() and (machine.table == before).all()
    binding.join(60)
    assert not binding.is_alive() and (machine.table != before).any()


def test_inputs_that_are_large_or_beside_small_results_are_read_where_they_are() -> None:
    for exe, staged in ((outer(16384, 512), (False, True)), (outer(1000, 1000), (False, False))):
        exe.bind()
        assert tuple(machine_of(exe).stage(slot) is not None for slot in range(2)) == staged


def test_what_makes_results_has_their_size() -> None:
    exe = program(LARGE)
    call, machine = exe.bind(), machine_of(exe)
    slots = call._inputs(machine), call._outputs(machine)
    for wrong in (lambda: None, _call.Results(LARGE, "float64")):
        with pytest.raises(ValueError, match="Results of its size"):
            _call.Call(exe, machine.entry, slots[0], ((*slots[1][0][:4], wrong),))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("outputs", [1, 2])
def test_short_calls_have_the_bits_of_long_ones(shape: tuple[int, ...], outputs: int, long_runs: list[int]) -> None:
    exe = program(shape, outputs=outputs)
    call = armed(exe, arrays(shape))
    long_runs.clear()
    held = []
    for seed in range(4):
        x, y = arrays(shape, seed)
        x.flags.writeable = seed % 2 == 0
        found = call(x, y)
        assert not long_runs
        assert isinstance(found, list) == gc.is_tracked(found) == (outputs == 2)
        held.append((found if outputs == 2 else [found], [np.asarray(x + y), np.asarray(-x)]))
    for results, expected in held:  # the later calls have not written over them
        for array, wanted in zip(results, expected, strict=False):
            assert equal(array, wanted)
            assert array.flags.writeable and array.flags.c_contiguous
    long = [a.numpy() for a in exe.run(dict(zip("xy", arrays(shape), strict=True)), {})]
    assert all(equal(a, b) for a, b in zip(held[0][0], long, strict=True))


class Sub(np.ndarray):
    """A subclass that would like to be asked."""


def unaligned(array: np.ndarray) -> np.ndarray:
    """The same four bytes behind a multiple of 16."""
    whole = np.empty(array.nbytes + 32, np.uint8)
    start = -whole.ctypes.data % 16 + 4
    copy = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


#: What is right but needs a look by Python, for arrays that are copied to fixed places and for others.
DETOURS: dict[str, Callable[[np.ndarray], Any]] = {
    "a subclass": lambda a: a.view(Sub),
    "another byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "a tensor": lambda a: __import__("torch").from_numpy(a),
}
VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "in Fortran's order": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "unaligned": unaligned,
}


@pytest.mark.parametrize("shape", [SMALL, MIDDLE], ids=str)
@pytest.mark.parametrize("name", [*VIEWS, *DETOURS])
def test_unusual_arrays(shape: tuple[int, ...], name: str, long_runs: list[int]) -> None:
    call = armed(program(shape), arrays(shape))
    long_runs.clear()
    x, y = arrays(shape, 5)
    given = {**DETOURS, **VIEWS}[name](x)
    if name == "another byte order":
        with pytest.raises(InputError, match="input 'x' is >f4"):
            call(given, y)
    else:
        assert equal(call(given, y), x + y)
        assert equal(call(y, given), x + y)
    assert bool(long_runs) == (name in DETOURS or shape == MIDDLE)
    assert equal(call(x, y), x + y)


def test_arrays_that_do_not_fit_are_refused_each_time() -> None:
    x, y = arrays(SMALL)
    call = armed(program(SMALL), [x, y])
    wrong = [x.astype(np.float64), x.view(np.int32), x.astype(object), x[:2], x.reshape(5, 3), x[..., None], 3.0, None, "x"]
    for value in wrong:
        for given in ((value, y), (y, value)):
            with pytest.raises(InputError, match="cannot run on these arrays"):
                call(*given)
        assert equal(call(x, y), x + y)
    for few in ((), (x,), (x, y, x)):
        with pytest.raises(InputError, match=rf"{len(few)} inputs; expected x, y"):
            call(*few)
    with pytest.raises(TypeError, match="unexpected keyword"):
        call(x, y, into=x)  # type: ignore[call-arg]
    assert call.is_short and equal(call(x, y), x + y)


def test_integers_of_another_name_are_equal_ones() -> None:
    call = armed(program(SMALL, "int64"), [a.astype(np.int64) for a in arrays(SMALL)])
    x, y = (a.astype(np.longlong) for a in arrays(SMALL, 1))
    assert equal(call(x, y), (x + y).astype(np.int64))


@pytest.mark.parametrize("shape", [SMALL, MIDDLE, LARGE], ids=str)
def test_results_may_go_over_inputs(shape: tuple[int, ...]) -> None:
    call = armed(program(shape, outputs=2), arrays(shape))
    x, y = arrays(shape, 2)
    expected = [x + y, -x]
    found = call(x, y, out=[y, x])
    assert found[0] is y and found[1] is x
    assert all(equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", [SMALL, MIDDLE, LARGE], ids=str)
def test_nothing_is_lost_in_many_calls(shape: tuple[int, ...]) -> None:
    call = armed(program(shape, outputs=2), arrays(shape))
    x, y = arrays(shape, 1)
    wrong = x.astype(np.float64)
    watched: list[Any] = [x, y, wrong, call, call._host, call._exe, x.dtype, None, POOL]

    def some(count: int) -> None:
        for _ in range(count):
            call(x, y)
        for _ in range(count // 100):
            with pytest.raises(InputError):
                call(wrong, y)
            call(x, y, out=[y, y])

    some(200)
    gc.collect()
    before = [sys.getrefcount(o) for o in watched]
    tracemalloc.start()
    size = tracemalloc.get_traced_memory()[0]
    some(100_000 if shape == SMALL else 1000 if shape == MIDDLE else 100)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - size
    tracemalloc.stop()
    assert all(abs(a - sys.getrefcount(o)) < 20 for a, o in zip(before, watched, strict=True))
    assert grown < 50_000


def test_calls_and_programs_go_when_nobody_holds_them() -> None:
    exe = program(SMALL)
    x, y = arrays(SMALL)
    calls = [armed(exe, [x, y]) for _ in range(3)]
    exe(x, y)  # the executable holds a call, which holds it
    gone = [weakref.ref(o) for o in (*calls, exe, exe._machine)]
    owner = calls.pop()
    owner(x, y)
    assert owner.is_short
    del owner
    gc.collect()
    assert gone[2]() is None
    assert equal(exe(x, y), x + y)
    calls.clear()
    del exe
    gc.collect()
    assert all(r() is None for r in gone)


def test_bound_calls_take_turns() -> None:
    """Parameters changed by another call, number of threads changed by another executable."""
    b = GraphBuilder("scaled")
    x = b.add_input("x", "input", TensorType(MIDDLE, "float32"))
    w = b.add_input("w", "parameter", TensorType(MIDDLE, "float32"))
    b.add_output("y", b.emit("mul", x, b.emit("exp", w)))
    value = np.ones(MIDDLE, np.float32)
    one = compile(Source(b.finish(), State({"w": value})), threads=1)
    two = replace(one, threads=2, state=State({"w": one.state["w"]}))
    given, weights = arrays(MIDDLE)[0], arrays(MIDDLE)[1] / np.float32(100)
    alone = one(given)
    other = one.bind({"w": weights})(given)
    assert not equal(alone, other)
    assert equal(one(given), alone) and equal(two(given), alone)
    calls = [one.bind(), one.bind({"w": weights}), two.bind(), two.bind({"w": weights})]
    for k in np.random.default_rng(3).integers(0, 4, 200):
        for _ in range(2):
            assert equal(calls[k](given), other if k % 2 else alone)
    one.run({"x": given}, {"w": weights})
    assert not any(call.is_short for call in calls)
    assert equal(calls[0](given), alone)
    one.threads = 2
    assert equal(calls[0](given), alone)
    assert POOL.threads == 2


@pytest.mark.parametrize(("given", "kept"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_narrow_inputs_take_the_long_way_and_narrow_parameters_do_not(given: str, kept: str) -> None:
    b = GraphBuilder("narrow")
    x = b.add_input("x", "input", TensorType(SMALL, given))
    w = b.add_input("w", "parameter", TensorType(SMALL, kept))
    b.add_output("y", b.emit("add", *(b.emit("cast", v, dtype="float64") for v in (x, w))))
    first, second = (a.astype(name) for a, name in zip(arrays(SMALL), (given, kept), strict=True))
    call = compile(Source(b.finish(), State({"w": second}))).bind()
    for _ in range(3):
        assert equal(call(first), first.astype(np.float64) + second.astype(np.float64))
    assert call.is_short == (given == "float32")


def test_forgetting_takes_the_short_way_away() -> None:
    exe = program(SMALL)
    call = armed(exe, arrays(SMALL))
    exe.forget()
    assert not call.is_short
    x, y = arrays(SMALL, 1)
    assert equal(call(x, y), x + y)
    again = call.is_short
    exe.profile(x, y)
    assert [again, call.is_short] == [True, False]


@pytest.mark.parametrize("shape", [SMALL, MIDDLE, LARGE], ids=str)
def test_threads_of_python_call_at_the_same_time(shape: tuple[int, ...]) -> None:
    first, second = program(shape, outputs=2), program(shape, threads=2)
    calls: list[Any] = [armed(first, arrays(shape)), armed(first, arrays(shape)), armed(second, arrays(shape)), first]
    shared = calls[0]
    wrong: list[int] = []

    def work(k: int) -> None:
        for i in range(10 if shape == LARGE else 150):
            x, y = arrays(shape, 1000 * k + i)
            for call in (calls[k], shared):
                found = call(x, y)
                if not equal(found[0] if isinstance(found, list) else found, x + y):
                    wrong.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in workers:
        t.start()
    for t in workers:
        t.join()
    assert not wrong


class _Any(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("zero", ctypes.c_uint32), ("value", ctypes.c_int64)]


_Function = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(_Any), ctypes.c_int32, ctypes.POINTER(_Any))


class Fake:
    """An entry whose code is a function of Python, with one small input and output; ``_long`` answers None."""

    def __init__(self, code: Callable[[list[int]], int], status: int = 0, fail: Callable[[int], Any] = _fail) -> None:
        self.table = np.zeros(3, np.int64)
        self.threads = 1

        def called(_handle: Any, given: Any, count: int, _result: Any) -> int:
            assert all(given[k].type == 1 for k in range(count))
            self.table[2] = status
            return code([given[k].value for k in range(count)])

        self.function = _Function(called)
        address = ctypes.cast(self.function, ctypes.c_void_p).value or 0
        self.entry = _call.Entry(POOL, self.table, None, fail, address, address, False, 2, 5, 7)
        self.places = [np.zeros(4, np.int32) for _ in range(2)]

        class Short(_call.Call):
            """A call that says when it goes the long way."""

            def _long(self, inputs: Any) -> str:
                return f"long {len(inputs)}"

        slots = [(k, np.dtype(np.int32), (4,), place, None) for k, place in enumerate(self.places)]
        self.call = Short(self, self.entry, (slots[0],), (slots[1],))
        self.entry.own(self.call)
        POOL.threads = 1


@pytest.fixture(autouse=True)
def pool() -> Any:
    """Tests with fakes say how many threads the pool has; afterwards it is asked."""
    yield
    POOL.threads = 0


def test_the_code_is_called_as_tvm_s() -> None:
    seen = []

    def code(values: list[int]) -> int:
        seen.append(values)
        fake.places[1][...] = fake.places[0] * 2
        return 0

    fake = Fake(code)
    x = np.arange(4, dtype=np.int32)
    assert equal(fake.call(x), x * 2)
    assert seen == [[fake.table.ctypes.data, 5, 7, 1]]
    fake.threads = 3
    assert fake.call(x) == "long 1"
    fake.threads = 1
    fake.entry.own(None)
    assert fake.call(x) == "long 1"


@pytest.mark.parametrize(
    ("status", "returned", "error"),
    [(NO_ENVIRONMENT, 0, EnvironmentChangedError), (-1, 0, MemoryError), (0, -1, MemoryError)],
)
def test_a_status_is_an_error_and_gives_the_lock_back(status: int, returned: int, error: type[Exception]) -> None:
    fake = Fake(lambda _: returned, status)
    x = np.arange(4, dtype=np.int32)
    count = sys.getrefcount(x)
    for _ in range(3):
        with pytest.raises(error):
            fake.call(x)
    with pytest.raises(RuntimeError, match="this thread does not have the lock"):
        POOL.__exit__(None, None, None)
    assert sys.getrefcount(x) == count
    silent = Fake(lambda _: returned, status, lambda _: None)
    with pytest.raises(RuntimeError, match="the code returned status"):
        silent.call(x)


def test_threads_that_are_no_number() -> None:
    fake = Fake(lambda _: 0)
    fake.threads = "many"  # type: ignore[assignment]
    with pytest.raises(TypeError):
        fake.call(np.arange(4, dtype=np.int32))
    del fake.threads
    with pytest.raises(AttributeError):
        fake.call(np.arange(4, dtype=np.int32))


def test_what_an_entry_and_a_call_refuse() -> None:
    fake = Fake(lambda _: 0)
    good = (0, np.dtype(np.int32), (4,), None, None)
    for slot, error in (
        ((3, *good[1:]), ValueError),
        ((-1, *good[1:]), ValueError),
        ((*good[:3], np.zeros(3, np.int32), None), ValueError),
        ((*good[:3], [1, 2, 3, 4], None), ValueError),
        ((0, "int32", (4,), None, None), TypeError),
        (good[:4], TypeError),
        (None, TypeError),
    ):
        with pytest.raises(error):
            _call.Call(fake, fake.entry, (good, slot), ())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="initialised once"):
        fake.call.__init__(fake, fake.entry, (), ())  # type: ignore[misc]
    with pytest.raises(TypeError, match="the owner of an entry"):
        fake.entry.own(_call.Call(fake, Fake(lambda _: 0).entry, (), ()))
    table = np.zeros(3, np.int64)
    for memory, guarded, bare in ((np.zeros(3), 1, 1), (np.zeros((3, 1), np.int64), 1, 1), (table, 0, 1), (table, 1, 0)):
        with pytest.raises(ValueError, match="an entry needs"):
            _call.Entry(POOL, memory, None, _fail, guarded, bare, False, 2, 0, 1)
    with pytest.raises(ValueError, match="no slot 3"):
        _call.Entry(POOL, table, None, _fail, 1, 1, False, 3, 0, 1)


def test_a_call_inside_of_a_call_and_the_lock_of_its_thread() -> None:
    with POOL, POOL:
        call = armed(program(SMALL), arrays(SMALL))
        x, y = arrays(SMALL, 4)
        assert equal(call(x, y), x + y)
        taken = []
        other = threading.Thread(target=lambda: taken.append(call(x, y)))
        other.start()
        other.join(0.05)
        assert not taken and other.is_alive()
    other.join(10)
    assert equal(taken[0], x + y)


def test_an_interrupt_while_waiting_leaves_the_lock_as_it_was() -> None:
    call = armed(program(SMALL), arrays(SMALL))
    x, y = arrays(SMALL, 4)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with POOL:
            entered.set()
            leave.wait(20)

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(10)
    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        before = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            call(x, y)
        assert time.monotonic() - before < 10
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        leave.set()
    holder.join(10)
    assert equal(call(x, y), x + y)


def test_without_the_compiled_module_there_is_an_error_that_says_so() -> None:
    """Not where only a GPU runs: ``scripts/gpu_check.py`` is taken to other machines without an installation."""
    without = "import sys; sys.modules['gensyn_tvm.runtime._call'] = None; import gensyn_tvm.runtime."
    code = f"{without}cuda; import gensyn_tvm.runtime.bound"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env={**os.environ})
    assert done.returncode != 0 and "runtime/cuda.py" not in done.stderr
    for part in ("TargetError: gensyn_tvm's compiled module cannot be loaded", "found: ", "expected: ", "what to do: install"):
        assert part in done.stderr


def test_the_lock_is_with_one_thread_at_a_time() -> None:
    """Threads that wait, that are interrupted while they wait, and that take it again are all served."""
    lock = _call.Pool()
    inside: list[int] = []
    wrong: list[int] = []

    def work(k: int) -> None:
        for i in range(300):
            with lock:
                if inside:
                    wrong.append(k)
                inside.append(k)
                if i % 3 == 0:
                    time.sleep(0)
                with lock:
                    inside.pop()

    old = signal.signal(signal.SIGALRM, lambda _number, _frame: None)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        workers = [threading.Thread(target=work, args=(k,)) for k in range(6)]
        for t in workers:
            t.start()
        work(6)
        for t in workers:
            t.join(60)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert not wrong and not inside and not any(t.is_alive() for t in workers)
