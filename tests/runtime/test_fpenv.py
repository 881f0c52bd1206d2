"""The FP environment guard under libraries that set FTZ/DAZ or another rounding mode."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from gensyn_tvm.errors import EnvironmentChangedError
from gensyn_tvm.runtime import fpenv
from gensyn_tvm.runtime.fpenv import ieee754_environment, is_default

torch = pytest.importorskip("torch")

LIBC = ctypes.PyDLL(None)
FE_DFL_ENV = ctypes.c_void_p(-1)
# x86-64 <fenv.h>; AArch64 numbers its modes otherwise.
ROUNDING = {"downward": 0x400, "upward": 0x800, "toward_zero": 0xC00}


def raw_environment() -> bytes:
    buffer = (ctypes.c_uint8 * 256)()
    assert LIBC.fegetenv(ctypes.byref(buffer)) == 0
    return bytes(buffer)


def set_hostile(kind: str) -> None:
    if kind == "flush":
        assert torch.set_flush_denormal(True)
    else:
        assert LIBC.fesetround(ROUNDING[kind]) == 0


HOSTILE = ["flush", *ROUNDING]


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    LIBC.fesetenv(FE_DFL_ENV)
    yield
    LIBC.fesetenv(FE_DFL_ENV)


def half_of_smallest_normal() -> int:
    x = np.array([0x00800000], np.uint32).view(np.float32)
    return int((x * np.float32(0.5)).view(np.uint32)[0])


def test_default_is_recognised() -> None:
    assert is_default()


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_environment_is_recognised_and_replaced(kind: str) -> None:
    set_hostile(kind)
    assert not is_default()
    before = raw_environment()
    with ieee754_environment():
        assert is_default()
        assert half_of_smallest_normal() == 0x00400000
    assert raw_environment() == before
    assert not is_default()


def test_flush_and_rounding_together() -> None:
    set_hostile("flush")
    set_hostile("upward")
    before = raw_environment()
    with ieee754_environment():
        assert is_default()
    assert raw_environment() == before
    assert half_of_smallest_normal() == 0


@pytest.mark.parametrize("kind", HOSTILE)
def test_restored_after_an_exception(kind: str) -> None:
    set_hostile(kind)
    before = raw_environment()
    with pytest.raises(ZeroDivisionError), ieee754_environment():
        raise ZeroDivisionError
    assert raw_environment() == before


def test_nested_guards_restore_level_by_level() -> None:
    set_hostile("flush")
    outer = raw_environment()
    with ieee754_environment():
        set_hostile("upward")
        middle = raw_environment()
        with ieee754_environment():
            assert is_default()
        assert raw_environment() == middle
        assert LIBC.fegetround() == ROUNDING["upward"]
    assert raw_environment() == outer


def test_status_flags_of_the_caller_survive() -> None:
    # Division by zero: the guard's own probes do not raise it.
    fe_divbyzero = 0x4
    LIBC.feraiseexcept(fe_divbyzero)
    with ieee754_environment():
        assert LIBC.fetestexcept(fe_divbyzero) == 0
    assert LIBC.fetestexcept(fe_divbyzero) == fe_divbyzero


def test_other_threads_are_left_alone() -> None:
    seen: list[bool] = []
    entered, looked = threading.Event(), threading.Event()

    def hostile_thread() -> None:
        set_hostile("flush")
        entered.wait(10)
        seen.append(is_default())
        looked.set()

    thread = threading.Thread(target=hostile_thread)
    thread.start()
    with ieee754_environment():
        entered.set()
        assert looked.wait(10)
        assert is_default()
    thread.join()
    assert seen == [False]


def test_a_thread_started_inside_inherits_the_default() -> None:
    set_hostile("flush")
    seen: list[bool] = []
    with ieee754_environment():
        thread = threading.Thread(target=lambda: seen.append(is_default()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_an_environment_that_cannot_be_set_is_refused_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    set_hostile("flush")
    before = raw_environment()
    monkeypatch.setattr(fpenv, "is_default", lambda: False)
    with pytest.raises(EnvironmentChangedError, match="cannot be set to the IEEE-754 default"), ieee754_environment():
        pytest.fail("the body must not run")
    assert raw_environment() == before
