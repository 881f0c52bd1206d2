"""What every script that generates a page does with its text."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def write_or_check(description: str | None, page: Path, text: str) -> bool:
    """Write a page; with ``--check`` on the command line only exit: 1, with what to run, if the page is out of date.

    Returns:
        Whether it was written.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="exit 1 if the page is out of date, and write nothing")
    if not parser.parse_args().check:
        page.write_text(text, encoding="utf-8")
        return True
    current = page.exists() and page.read_text(encoding="utf-8") == text
    sys.exit(0 if current else f"docs/{page.name} is out of date: run python scripts/{Path(sys.argv[0]).name}")
