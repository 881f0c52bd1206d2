"""What the message of every refusal of a frontend holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gensyn_tvm.errors import ImportModelError

#: A message that has no line ``in:`` begins with the function, or with the framework and the model.
_PLACE = re.compile(r"from_(torch|tensorflow|keras|onnx|tflite)\b|(torch|tensorflow|keras|onnx|tflite):[^\n:]+: ")
_PARTS = ("found", "expected", "what to do")


def check_parts(message: str) -> None:
    """Assert that a message says what is wrong, where, what was found, what was expected and what to do about it."""
    what, *lines = message.split("\n")
    labels = [line.strip().split(":")[0] for line in lines if re.match("  [a-z]", line)]
    assert what, message
    assert "in" in labels or _PLACE.match(what), f"no place: {message}"
    for part in _PARTS:
        assert labels.count(part) == 1, f"not one {part!r}: {message}"
        (text,) = (line.split(":", 1)[1].strip() for line in lines if line.startswith(f"  {part}: "))
        assert text, f"{part!r} is empty: {message}"


@contextmanager
def refused(text: str, kind: type[Exception] = ImportModelError) -> Iterator[Any]:
    """The body raises an error of exactly this class, whose message has all parts and somewhere matches ``text``."""
    with pytest.raises(kind) as info:
        yield info
    assert re.search(text, str(info.value)), str(info.value)
    assert isinstance(info.value, kind)
    check_parts(str(info.value))
