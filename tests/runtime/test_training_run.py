"""Training runs that own their state: the bits of calls with a state, and arrays handed out that never change."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gensyn_tvm
from gensyn_tvm.demo.models import MODELS
from gensyn_tvm.errors import InputError, TrainingError
from gensyn_tvm.runtime.accumulated import AccumulatedExecutable
from gensyn_tvm.runtime.executable import Executable, State
from gensyn_tvm.training.accumulation import accumulated_step
from gensyn_tvm.training.step import TrainingStep


@pytest.fixture(scope="module")
def step() -> TrainingStep:
    return gensyn_tvm.training_step(MODELS[1].load(8), loss="cross_entropy", optimizer="adamw")


@pytest.fixture(scope="module")
def exe(step: TrainingStep) -> Executable:
    return gensyn_tvm.compile(step)


def batch(exe: Executable, seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    types = [i.type for i in exe.graph.inputs if i.role in ("input", "target")]
    return tuple(
        rng.random(t.shape, np.float32) if t.dtype == "float32" else rng.integers(0, 10, t.shape).astype(t.dtype) for t in types
    )


def bits(metrics: dict[str, Any]) -> dict[str, bytes]:
    return {n: np.asarray(v).tobytes() for n, v in metrics.items()}


def test_a_run_gives_the_bits_of_calls(exe: Executable) -> None:
    """Other calls of the same executable, and a second run, in between."""
    state, run, other = exe.init(3), exe.start(exe.init(3)), exe.start()
    for k in range(4):
        state, metrics = exe(state, batch(exe, k), learning_rate=0.01 / (k + 1))
        assert bits(run(batch(exe, k), learning_rate=0.01 / (k + 1))) == bits(metrics)
        other(batch(exe, k + 50))
        assert run.state.digest() == state.digest()
    assert (run.state.step, run.state.seed, run.steps) == (4, 3, 4)
    assert other.state.digest() != state.digest()
    continued = exe.start(run.state)
    state, _ = exe(state, batch(exe, 9))
    continued(batch(exe, 9))
    assert continued.state.digest() == state.digest()


def test_what_was_handed_out_never_changes(exe: Executable) -> None:
    given = State({n: a.copy() for n, a in exe.init().numpy().items()})
    kept = {n: a.tobytes() for n, a in given.arrays.items()}
    first = exe.init().digest()
    run = exe.start(given)
    run(batch(exe, 1))
    early = run.state
    digest = early.digest()
    for array in given.arrays.values():  # nor does the run see what the caller does with his arrays
        array[...] = 0
    run(batch(exe, 2))
    assert early.digest() == digest != run.state.digest()
    assert exe.init().digest() == first
    assert {n: a.tobytes() for n, a in exe.init().numpy().items()} == kept


def test_a_bad_batch_leaves_the_state_as_it_was(exe: Executable) -> None:
    run = exe.start()
    run(batch(exe, 1))
    digest = run.state.digest()
    with pytest.raises(InputError, match="expected"):
        run((np.zeros(3, np.float32), np.zeros(3, np.int64)))
    assert run.state.digest() == digest
    assert run.steps == 1


def test_a_bad_state_is_refused_by_name(exe: Executable) -> None:
    arrays = exe.init().numpy()
    name = next(iter(arrays))
    with pytest.raises(InputError, match="missing"):
        exe.start(State({n: a for n, a in arrays.items() if n != name}))
    with pytest.raises(InputError, match=name):
        exe.start(State({**arrays, name: arrays[name].astype(np.float64)}))


def test_a_step_that_fails_half_way_ends_the_run(exe: Executable, monkeypatch: pytest.MonkeyPatch) -> None:
    run = exe.start()

    def fail(*_: Any) -> None:
        raise MemoryError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(exe._machine, "run", fail)
        with pytest.raises(MemoryError):
            run(batch(exe, 1))
    with pytest.raises(TrainingError, match="half-way"):
        run(batch(exe, 1))
    with pytest.raises(TrainingError, match="half-way"):
        _ = run.state


def test_only_training_steps_are_started() -> None:
    with pytest.raises(InputError, match="only a training step"):
        gensyn_tvm.compile(MODELS[1].load(8)).start()


def test_a_released_state_is_freed_unless_somebody_holds_it(step: TrainingStep, tmp_path: Path) -> None:
    exe, kept = gensyn_tvm.compile(step), gensyn_tvm.compile(step)
    names = list(exe.state.arrays)
    held = exe.state.arrays[names[0]]
    before = held.tobytes()
    others = [weakref.ref(exe.state.arrays[n]) for n in names[1:]]
    run, plain = exe.start(release=True), kept.start()
    assert [r() for r in others] == [None] * len(others)
    for k in range(2):
        assert bits(run(batch(exe, k))) == bits(plain(batch(exe, k)))
    assert run.state.digest() == plain.state.digest()
    assert held.tobytes() == before
    kept.init()
    with pytest.raises(InputError, match="release=True"):
        exe.init()
    with pytest.raises(InputError, match="release=True"):
        exe.start()
    with pytest.raises(InputError, match=r"state=run\.state"):
        exe.save(tmp_path / "a.gtvm")
    exe.save(tmp_path / "a.gtvm", state=run.state)
    loaded = gensyn_tvm.load(tmp_path / "a.gtvm")
    assert loaded.state.digest() == run.state.digest()


def test_a_state_that_does_not_fit_releases_nothing(step: TrainingStep) -> None:
    exe = gensyn_tvm.compile(step)
    with pytest.raises(InputError, match="missing parameter"):
        exe.start(State({}), release=True)
    exe.init()


def test_a_borrowed_state_is_the_present_one_and_cannot_be_written_to(exe: Executable) -> None:
    run = exe.start()
    borrowed = run.borrowed()
    digest = borrowed.digest()
    assert digest == exe.init().digest()
    name = next(iter(borrowed))
    with pytest.raises(ValueError, match="read-only"):
        borrowed.arrays[name][...] = 0
    run(batch(exe, 1))
    large = [n for n, a in borrowed.arrays.items() if a.nbytes > 4096]
    assert large
    assert all(borrowed.arrays[n].tobytes() == run.state[n].tobytes() for n in large)


def test_a_finished_run_hands_out_its_arrays_and_takes_no_further_step(exe: Executable) -> None:
    run, other = exe.start(), exe.start()
    run(batch(exe, 1))
    other(batch(exe, 1))
    arrays = {n: a.ctypes.data for n, a in run.own.items()}
    state = run.finish()
    assert {n: a.ctypes.data for n, a in state.arrays.items()} == arrays
    assert (state.step, state.digest()) == (1, other.state.digest())
    with pytest.raises(TrainingError, match="finished"):
        run(batch(exe, 2))
    with pytest.raises(TrainingError, match="finished"):
        _ = run.state
    other(batch(exe, 2))
    assert state.digest() != other.state.digest()


# ---- one microbatch after another -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def accumulated() -> AccumulatedExecutable:
    """With batch normalisation, whose running statistics each microbatch changes."""
    return gensyn_tvm.compile(accumulated_step(MODELS[0].load(4), microbatches=3, optimizer="adamw"))


def microbatches(exe: AccumulatedExecutable, seed: int, count: int = 3) -> Iterator[tuple[np.ndarray, ...]]:
    return (batch(exe.gradient, seed * 10 + m) for m in range(count))


def test_an_accumulated_run_gives_the_bits_of_calls(accumulated: AccumulatedExecutable) -> None:
    exe = accumulated
    state, run, other = exe.init(3), exe.start(exe.init(3)), exe.start()
    for k in range(3):
        state, metrics = exe(state, microbatches(exe, k), learning_rate=0.01 / (k + 1))
        assert bits(run(microbatches(exe, k), learning_rate=0.01 / (k + 1))) == bits(metrics)
        other(microbatches(exe, k + 50))
        assert run.state.digest() == state.digest()
    assert (run.state.step, run.state.seed, run.steps) == (3, 3, 3)
    assert other.state.digest() != state.digest()


def test_microbatches_that_do_not_fit_leave_the_state_as_it_was(accumulated: AccumulatedExecutable) -> None:
    """Also if the running statistics of earlier microbatches are known by then."""
    exe = accumulated
    run, plain = exe.start(), exe.start()
    run(microbatches(exe, 1))
    plain(microbatches(exe, 1))
    good = list(microbatches(exe, 2))
    for wrong in (good[:2], [*good, good[0]], [*good[:2], (np.zeros(3, np.float32), np.zeros(3, np.int64))]):
        with pytest.raises(InputError, match="expected"):
            run(wrong)
        assert run.state.digest() == plain.state.digest()
    assert bits(run(good)) == bits(plain(good))
    assert run.state.digest() == plain.state.digest()


def test_an_accumulated_step_has_its_initial_arrays_once_and_gives_them_up() -> None:
    exe = gensyn_tvm.compile(accumulated_step(MODELS[0].load(4), microbatches=3, optimizer="adamw"))
    for part in (exe.gradient, exe.apply):
        assert all(exe.state.arrays[n] is a for n, a in part.state.arrays.items())
    plain = exe.start()
    known = [weakref.ref(a) for a in exe.state.arrays.values()]
    run = exe.start(release=True)
    assert [r() for r in known] == [None] * len(known)
    assert bits(run(microbatches(exe, 1))) == bits(plain(microbatches(exe, 1)))
    with pytest.raises(InputError, match="release=True"):
        exe.start()
