"""Files of results, which are never half written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_result(path: Path, result: Any) -> None:
    """Replace a JSON file as a whole, making its folder if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
