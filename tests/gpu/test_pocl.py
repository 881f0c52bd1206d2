"""The name that PoCL's description of a device has for a processor that its LLVM does not know."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest

from gensyn_tvm.runtime.cpu import supported_levels
from gensyn_tvm.runtime.pocl import name_processor

POCL = "Portable Computing Language"


def named(platform: str, version: str) -> bytes:
    """The name in a description after it has been looked at."""
    description = (ctypes.c_uint64 * 512)()
    name = ctypes.create_string_buffer(b"generic")
    description[80] = ctypes.addressof(name)
    device = SimpleNamespace(platform=SimpleNamespace(name=platform), version=version, int_ptr=ctypes.addressof(description))
    name_processor(device)
    return ctypes.string_at(description[80])


@pytest.mark.skipif(not supported_levels(), reason="not an x86-64 processor")
def test_an_unknown_processor_gets_the_name_of_its_instruction_set() -> None:
    assert named(POCL, "OpenCL 3.0 PoCL HSTR: pthread-x86_64-unknown-linux-gnu-generic") in (b"x86-64-v3", b"x86-64")


@pytest.mark.parametrize(
    ("platform", "version"), [(POCL, "OpenCL 3.0 PoCL HSTR: pthread-x86_64-unknown-linux-gnu-znver3"), ("Other", "x-generic")]
)
def test_other_devices_stay_as_they_are(platform: str, version: str) -> None:
    assert named(platform, version) == b"generic"
