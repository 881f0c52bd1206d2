"""What is tested here is what the rules choose by themselves."""

from __future__ import annotations

import pytest

from gensyn_tvm.schedules import records


@pytest.fixture(autouse=True)
def untuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tuned records."""
    monkeypatch.setenv(records.FOLDER, "off")
