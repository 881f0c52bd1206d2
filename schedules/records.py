"""Tuned records: parameters of single operators that measured faster than the rules' own choice.

``tuned/<target>.json`` holds them, or ``tuned/<target>-<maker>.json`` those for one maker's processors. A record cannot change
a bit: it chooses among layouts and loops of which the order verifier proves each, in every build. ``GENSYN_TVM_TUNED`` names
another folder, or ``off``.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.schedules.parameters import Parameters, is_ratio, parse

FOLDER = "GENSYN_TVM_TUNED"
_FORMAT = 1
_FIELDS = ("parameters", "ratio", "threads", "machine", "date")
P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class Record:
    """What was found for one key.

    Attributes:
        parameters: those that are not left to the rule.
        ratio: the default's time divided by theirs.
        threads: numbers of threads that were measured; the ratio is the geometric mean over them.
        machine: the processor.
        date: of the measurement, as in ISO 8601.
    """

    parameters: Parameters
    ratio: float
    threads: tuple[int, ...]
    machine: str
    date: str

    def as_object(self) -> dict[str, Any]:
        """As it stands in a file."""
        return {
            "parameters": self.parameters.given(),
            "ratio": round(self.ratio, 3),
            "threads": list(self.threads),
            "machine": self.machine,
            "date": self.date,
        }


@dataclass(frozen=True)
class Records:
    """Parameters by key, for one target."""

    parameters: Mapping[str, Parameters]

    def find(self, key: str, kind: type[P]) -> P:
        """The parameters of an operator; all left to the rule if there is no record."""
        found = self.parameters.get(key)
        if found is None:
            return kind()
        assert isinstance(found, kind), key
        return found

    def digest(self) -> str:
        """Of everything that decides on schedules; empty for no records."""
        if not self.parameters:
            return ""
        text = json.dumps({key: p.given() for key, p in self.parameters.items()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


NONE = Records({})
_USED: ContextVar[Records | None] = ContextVar("records", default=None)


@contextmanager
def using(records: Records) -> Iterator[None]:
    """Builds within go by these records and no others."""
    token = _USED.set(records)
    try:
        yield
    finally:
        _USED.reset(token)


def folder() -> Path | None:
    """Where the files are; None if no records are to be used."""
    given = os.environ.get(FOLDER, "")
    if given.lower() == "off":
        return None
    return Path(given) if given else Path(__file__).resolve().parent / "tuned"


def library(place: Path, target: str, maker: str = "") -> Path:
    """The file of a target's records in a folder; with a ``maker``, of those that are for its processors only."""
    return place / (f"{target}-{maker}.json" if maker else f"{target}.json")


def active(target: str, maker: str = "") -> Records:
    """The records that builds for a target go by: those for its maker's processors, without such a file those of the target.

    Raises:
        InputError: its file is not valid.
    """
    used = _USED.get()
    if used is not None:
        return used
    place = folder()
    if place is None:
        return NONE
    for path in dict.fromkeys((library(place, target, maker), library(place, target))):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        return _loaded(path, target, status.st_mtime_ns, status.st_size)
    return NONE


@lru_cache(maxsize=16)
def _loaded(path: Path, target: str, _time: int, _size: int) -> Records:
    return Records({key: record.parameters for key, record in read(path, target).items()})


def read(path: Path, target: str) -> dict[str, Record]:
    """The records of a file by key; none if there is no file.

    Raises:
        InputError: the file is not valid; the message names the file and the key.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise _invalid(str(path), str(error), "a file that gensyn-tvm tune wrote") from error
    if not isinstance(data, dict) or data.get("format") != _FORMAT or not isinstance(data.get("records"), dict):
        raise _invalid(str(path), str(data)[:80], f"an object with format {_FORMAT}, target and records")
    if data.get("target") != target:
        raise _invalid(str(path), f"records of target {data.get('target')!r}", f"of {target!r}")
    return {key: _record(key, value, f"{path}, record {key!r}") for key, value in data["records"].items()}


def _record(key: str, value: Any, where: str) -> Record:
    if not isinstance(value, dict) or sorted(value) != sorted(_FIELDS) or not isinstance(value["parameters"], dict):
        raise _invalid(where, str(value)[:120], f"an object of {', '.join(_FIELDS)}")
    threads, ratio = value["threads"], value["ratio"]
    if not is_ratio(ratio):
        raise _invalid(where, f"ratio {ratio!r}", "a positive number")
    if not isinstance(threads, list) or not threads or not all(type(n) is int and n > 0 for n in threads):
        raise _invalid(where, f"threads {threads!r}", "a list of positive integers")
    if not isinstance(value["machine"], str) or not _is_date(value["date"]):
        raise _invalid(where, f"machine {value['machine']!r}, date {value['date']!r}", "a text, and a date like 2026-01-31")
    parameters = parse(key.split(" ", 1)[0], value["parameters"], where)
    return Record(parameters, float(ratio), tuple(threads), value["machine"], value["date"])


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _invalid(where: str, found: str, expected: str) -> InputError:
    remedy = "correct or remove it, or tune again"
    return InputError(describe("tuned records are not valid", where=where, found=found, expected=expected, remedy=remedy))


def merge(path: Path, target: str, found: Mapping[str, Record | None]) -> None:
    """Put records into a file, in place of those of the same keys; None removes one. Written whole or not at all.

    Raises:
        InputError: the file is not valid; it is then left as it is.
        OSError: it cannot be written.
    """
    records = {**read(path, target), **found}
    body = {key: record.as_object() for key, record in sorted(records.items()) if record is not None}
    text = json.dumps({"format": _FORMAT, "target": target, "records": body}, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
