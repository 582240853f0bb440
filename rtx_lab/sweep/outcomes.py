"""What came of the jobs of a sweep: statuses with their reasons, the table of them, the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rtx_lab.sweep.door import EXIT_PARTLY_FAILED
from rtx_lab.sweep.jobs import Job, names_of

_WELL = ("done", "pruned")
_KILLED = "its process was killed; the same command goes on from its last checkpoint"


def print_outcomes(jobs: Sequence[Job]) -> None:
    """What came of each job, told apart by what was swept, with class and reason where it did not end well."""
    from rtx_lab.sweep.tables import Table, fit, open_console, print_line

    console, names, outcomes = open_console(), names_of(jobs), [outcome(job) for job in jobs]
    heading, scores = _scores(outcomes)
    columns = ("job", "status", heading, "reasoning steps", "time")
    reasons = ["" if found["status"] in _WELL else str(found.get("reason") or "") for found in outcomes]
    places = [job.settled.directory for job in jobs]

    def table(last: str, cells: Sequence[str]) -> Table:
        rows = [
            (name, str(found["status"]), score, *_steps_and_time(found), cell)
            for name, found, score, cell in zip(names, outcomes, scores, cells, strict=True)
        ]
        return Table("Sweep", (*columns, last), prose=frozenset({last}), rows=[*rows])

    if len(fit(console, table("", places), [{""}]).columns) > len(columns):
        both = [reason or place for reason, place in zip(reasons, places, strict=True)]
        console.print(table("run directory or reason", both).drawn())
        return
    console.print(table("reason", reasons).without(() if any(reasons) else {"reason"}).drawn())
    folders = sorted({str(job.run.path.parent) for job in jobs})
    print_line(console, f"runs: {', '.join(folders)}")


def outcome(job: Job) -> dict[str, Any]:
    """The job's terminal status with its reason, from its refusal or its run directory."""
    if job.refusal is not None:
        return {"status": "refused", "reason": f"{job.refusal.kind}: {job.refusal.reason}"}
    if job.left_out:
        return {"status": "left out", "reason": f"{job.left_out}, and it was asked for only where it fits"}
    status = job.run.status()
    if status == "killed":
        return {"status": status, "reason": _KILLED}
    result = job.run.read_result() or {}
    return {**result, "status": status}


def exit_code(jobs: Sequence[Job]) -> int:
    """0 where all jobs are done, pruned or left out; else 4."""
    return 0 if all(outcome(job)["status"] in (*_WELL, "left out") for job in jobs) else EXIT_PARTLY_FAILED


def _scores(outcomes: Sequence[dict[str, Any]]) -> tuple[str, list[str]]:
    """A heading, and for each job what its task is judged by, on the test split; where that differs, with its name."""
    metrics = [str(found.get("monitor") or "").partition("/")[2] for found in outcomes]  # none: not come that far
    scores = [_score(found.get("metrics") or {}, metric) for found, metric in zip(outcomes, metrics, strict=True)]
    known = sorted({*metrics} - {""})
    if len(known) == 1:
        return f"test {known[0]} (95 %)", scores
    named = [score if score == "-" else f"{metric} {score}" for score, metric in zip(scores, metrics, strict=True)]
    return "test score (95 %)", named


def _score(metrics: dict[str, Any], metric: str) -> str:
    """A metric of the test split with its interval, where it has one."""
    value, low, high = (metrics.get(f"test/{metric}{end}") for end in ("", "_low", "_high"))
    return _number(value) if low is None else f"{_number(value)} ({_number(low)}-{_number(high)})"


def _steps_and_time(found: dict[str, Any]) -> tuple[str, str]:
    """Reasoning steps, and seconds."""
    metrics = found.get("metrics") or {}
    return _number(metrics.get("test/avg_reasoning_steps"), 2), f"{found.get('time_s') or 0:.0f} s"


def _number(value: Any, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "-"
