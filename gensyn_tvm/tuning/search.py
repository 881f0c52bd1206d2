"""The search: trials of each task in a journal that survives interruption, the best measured again, gains kept as records."""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gensyn_tvm.build_cache import sources_digest
from gensyn_tvm.errors import InputError, describe
from gensyn_tvm.passes.layout_tasks import Task
from gensyn_tvm.runtime.cpu import processor_name
from gensyn_tvm.schedules.parameters import Parameters, parse
from gensyn_tvm.schedules.records import Record, merge
from gensyn_tvm.targets.cpu import CpuTarget
from gensyn_tvm.tuning.measure import CONFIRM, SEARCH, Effort, Measurer, Refused
from gensyn_tvm.tuning.space import suggest

if TYPE_CHECKING:
    import optuna

#: The gain from which a record is kept, in two repeated measurements; how many of the best candidates are measured again; the
#: loss that no number of threads may have.
GAIN, FINALISTS, LOSS = 1.03, 4, 0.98
_PARAMETERS = "parameters"
#: Receives (task, trials done, trials in all, best ratio so far or None).
Report = Callable[[str, int, int, "float | None"], None]


@dataclass(frozen=True)
class Settings:
    """How to tune.

    Attributes:
        target: what code is generated for.
        trials: candidates of each task.
        seconds: after which no further candidate is tried; None: no limit.
        threads: numbers of threads that are measured.
        journal: the file with all trials.
        library: the file that records are merged into.
        search, confirm: how long candidates are measured, and the best of them again.
    """

    target: CpuTarget
    trials: int
    seconds: float | None
    threads: tuple[int, ...]
    journal: Path
    library: Path
    search: Effort = SEARCH
    confirm: Effort = CONFIRM


@dataclass
class Outcome:
    """What came of it.

    Attributes:
        records: kept, by key.
        trials: candidates that were tried this time.
        unfinished: keys of tasks that time did not suffice for.
    """

    records: dict[str, Record] = field(default_factory=dict)
    trials: int = 0
    unfinished: list[str] = field(default_factory=list)


def tune(tasks: Mapping[str, Task], settings: Settings, report: Report) -> Outcome:
    """Search for each task and merge its record as soon as it is known. Interrupted and called again, it goes on.

    Raises:
        InputError: optuna is missing, or the journal cannot be used.
        VerificationError: a candidate's bits are not the default's.
    """
    storage = _storage(settings.journal)
    outcome = Outcome()
    end = math.inf if settings.seconds is None else time.monotonic() + settings.seconds
    with Measurer("native" if settings.target.maker else settings.target.name, settings.threads) as measurer:
        for key, task in tasks.items():
            study = _study(storage, key, settings)
            finished = _search(study, task, settings, measurer, end, outcome, report)
            if not finished:
                outcome.unfinished.append(key)
                continue
            record = _confirmed(study, task, settings, measurer)
            merge(settings.library, settings.target.name, {key: record})
            if record is not None:
                outcome.records[key] = record
    return outcome


def _storage(journal: Path) -> optuna.storages.BaseStorage:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        remedy = "pip install 'gensyn_tvm[tune]'"
        raise InputError(describe("optuna is not installed", found=str(error), remedy=remedy)) from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        _repair(journal)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        storage.get_all_studies()  # reads it
    except (OSError, ValueError, KeyError) as error:
        expected = "a journal of gensyn-tvm tune, in a folder that can be written"
        raise InputError(
            describe("the journal cannot be used", where=str(journal), found=str(error), expected=expected)
        ) from error
    return storage


def _repair(journal: Path) -> None:
    """Cut off a last line that a killed process left unfinished; what would be added to it could not be read.

    Raises:
        ValueError: the file is no journal.
    """
    if not journal.exists():
        return
    data = journal.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    first = json.loads(whole.partition(b"\n")[0] or b"{}")
    if not isinstance(first, dict) or (whole and "op_code" not in first) or (data and not whole):
        raise ValueError(f"it begins with {data[:40]!r}")
    if len(whole) < len(data):
        os.truncate(journal, len(whole))


def _study(storage: Any, key: str, settings: Settings) -> optuna.Study:
    """The trials of a task that were made with this code and these threads."""
    import optuna

    name = json.dumps([settings.target.name, key, list(settings.threads), sources_digest()])
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
    # Interrupted and continued, the sampler must not repeat what it drew before.
    study.sampler = optuna.samplers.TPESampler(seed=zlib.crc32(f"{key} {len(study.trials)}".encode()), n_startup_trials=10)
    return study


def _finished(study: optuna.Study) -> list[Any]:
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]


def _search(
    study: optuna.Study,
    task: Task,
    settings: Settings,
    measurer: Measurer,
    end: float,
    outcome: Outcome,
    report: Report,
) -> bool:
    """Trials until there are enough; False if time is up before."""
    seen = {t.user_attrs[_PARAMETERS]: t.value for t in _finished(study) if _PARAMETERS in t.user_attrs}
    for done in range(len(_finished(study)), settings.trials):
        report(task.key(), done, settings.trials, max((v for v in seen.values() if v is not None), default=None))
        if time.monotonic() >= end:
            return False
        trial = study.ask()
        parameters = suggest(trial, task, settings.target)
        text = json.dumps(parameters.given(), sort_keys=True)
        trial.set_user_attr(_PARAMETERS, text)
        if text not in seen:
            seen[text] = _value(measurer, task, parameters, settings.search)
            outcome.trials += 1
        _tell(study, trial, seen[text])
    report(task.key(), settings.trials, settings.trials, max((v for v in seen.values() if v is not None), default=None))
    return True


def _tell(study: optuna.Study, trial: optuna.Trial, value: float | None) -> None:
    import optuna

    if value is None:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, value)


def _value(measurer: Measurer, task: Task, parameters: Parameters, effort: Effort) -> float | None:
    """The geometric mean of the ratios; None for a candidate that cannot be measured."""
    try:
        return _mean(measurer.ratios(task, parameters, effort))
    except Refused:
        return None


def _mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def _confirmed(study: optuna.Study, task: Task, settings: Settings, measurer: Measurer) -> Record | None:
    """The record of the candidate that is the best when the best are measured again, if its gain is there each time."""
    best: dict[str, float] = {}
    for t in _finished(study):
        if t.value is not None and t.value >= GAIN:
            best[t.user_attrs[_PARAMETERS]] = t.value
    again: dict[str, float] = {}
    for text in sorted(best, key=lambda t: -best[t])[:FINALISTS]:
        again[text] = _steady(measurer, task, _parameters(task, text), settings.confirm)
    text = max(again, key=lambda t: again[t], default="")
    if not text or again[text] < GAIN:
        return None
    parameters = _parameters(task, text)
    ratio = min(again[text], _steady(measurer, task, parameters, settings.confirm))
    if ratio < GAIN:
        return None
    today = datetime.now(timezone.utc).date().isoformat()
    return Record(parameters, ratio, settings.threads, processor_name(), today)


def _parameters(task: Task, text: str) -> Parameters:
    return parse(task.op, json.loads(text), f"journal, {task.key()}")


def _steady(measurer: Measurer, task: Task, parameters: Parameters, effort: Effort) -> float:
    """The mean ratio; 0 for a candidate that loses with some number of threads."""
    ratios = measurer.ratios(task, parameters, effort)
    return 0.0 if min(ratios) < LOSS else _mean(ratios)
