"""How every job of a study ended: counts by phase, and the class and reason of those that gave no result."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtx_lab.core.rundir import STATUSES
from rtx_lab.report.runs import Run, study_of

_ORDER = (*STATUSES, "running", "killed", "broken", "waiting")
_SIGNATURE = re.compile(r"-[0-9a-f]{12}$")
_HINTS = {
    "killed": "started and ended without a result; the same command continues it",
    "running": "runs at this moment, or its machine still holds the lock",
    "interrupted": "stopped by a signal; the same command continues it",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A job without a result: its name, its status as class, and why."""

    job: str
    phase: str
    status: str
    reason: str


def read_studies(path: Path) -> list[dict[str, Any]]:
    """Return what the sweeps at `path` and one level below wrote at their start, in order of the folder."""
    folders = [path, *sorted(entry.parent for entry in path.glob("*/study.json"))]
    return [study for folder in folders if (study := study_of(folder))]


def without_result(runs: Iterable[Run], studies: Iterable[dict[str, Any]]) -> list[Outcome]:
    """Return every job that is not done: failed, refused before the start, waiting, or damaged; each job once."""
    runs = list(runs)
    found = [Outcome(short(run.name), run.phase, run.status, _reason(run)) for run in runs if run.status != "done"]
    known = {run.name for run in runs}
    for study in studies:
        phase = str(study.get("phase") or "")
        for row in _rows(study.get("not_run")):
            status = str(row.get("class") or "refused")
            found.append(Outcome(str(row.get("job") or "?"), phase, status, _one_line(row.get("reason"))))
        for job in study.get("jobs") or []:
            if str(job) not in known:
                known.add(str(job))
                found.append(Outcome(short(str(job)), str(job).partition("/")[0], "waiting", "not started"))
    return sorted(set(found), key=lambda one: (one.phase, _rank(one.status), one.job))


def damaged(runs: Iterable[Run]) -> list[Outcome]:
    """Return finished runs whose record is cut: no predictions, or no metrics; evaluations log no steps."""
    found = []
    for run in runs:
        if run.status == "done":
            trained = (run.config.get("budget") or {}).get("steps") != 0
            files = ("predictions.jsonl", *(("metrics.jsonl",) if trained else ()))
            lost = [name for name in files if not (run.path / name).is_file()]
            lost += [] if run.result.get("metrics") else ["the metrics of result.json"]
            if lost:
                found.append(Outcome(short(run.name), run.phase, "done", f"without {' and '.join(lost)}"))
    return found


def count_statuses(runs: Sequence[Run], missing: Sequence[Outcome]) -> dict[str, Counter[str]]:
    """Return, by phase, how many jobs ended how."""
    counts: dict[str, Counter[str]] = {}
    for run in runs:
        if run.status == "done":
            counts.setdefault(run.phase, Counter())["done"] += 1
    for one in missing:
        counts.setdefault(one.phase, Counter())[one.status] += 1
    return dict(sorted(counts.items()))


def statuses_of(counts: dict[str, Counter[str]]) -> list[str]:
    """Return the statuses that occur, in a fixed order."""
    return sorted({status for counter in counts.values() for status in counter}, key=_rank)


def short(name: str) -> str:
    """Return the name of a run without the signature at its end."""
    return _SIGNATURE.sub("", name)


def read_expectations(runs: Iterable[Run], studies: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the `expect` rows of the studies and of the configs, each once, in the order in which they were found."""
    rows: dict[str, dict[str, Any]] = {}
    for source in [*studies, *(run.config for run in runs)]:
        for row in _rows(source.get("expect")):
            rows.setdefault(repr(sorted(row.items(), key=str)), row)
    return list(rows.values())


def _rows(value: Any) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _reason(run: Run) -> str:
    return run.problem or _one_line(run.result.get("reason")) or _HINTS.get(run.status, "no reason was recorded")


def _one_line(value: Any) -> str:
    return " ".join(str(value or "").split())


def _rank(status: str) -> tuple[int, str]:
    return (_ORDER.index(status) if status in _ORDER else len(_ORDER), status)
