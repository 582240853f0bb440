"""Tables that a person reads before and after a sweep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rtx_lab.core.labels import label_of
from rtx_lab.sweep.jobs import Job

EXIT_PARTLY_FAILED = 4
_WIDE = 140
"""Columns of a terminal from which on the memory of every job is shown by kind."""
_WELL = ("done", "pruned")
_KILLED = "its process was killed; the same command goes on from its last checkpoint"


def print_plan(jobs: Sequence[Job]) -> None:
    """What each job would cost, what is done already, and what is not run and why."""
    from rtx_lab.pricing.rows import COLUMNS, SPLIT, cells

    console, names = _console(), names_of(jobs)
    shown = [i for i, column in enumerate(COLUMNS) if console.width >= _WIDE or column not in SPLIT]
    table = _table(_plan_title(jobs), "job", "now")
    for i in shown:
        table.add_column(COLUMNS[i], justify="right")
    before = jobs[0].settled.run.phase
    for job, name in zip(jobs, names, strict=True):
        if job.settled.run.phase != before:
            table.add_section()
        before = job.settled.run.phase
        values = cells(job.price) if job.price is not None else ["-"] * len(COLUMNS)
        table.add_row(name, _now(job), *(values[i] for i in shown))
    console.print(table)
    if len(shown) < len(COLUMNS):
        _print_split(console, jobs, names)
    todo = [job for job in jobs if job.refusal is None and not job.left_out and job.run.status() != "done"]
    console.print(_total(todo))
    _print_reasons(console, jobs, names)


def _print_split(console: Any, jobs: Sequence[Job], names: Sequence[str]) -> None:
    """The memory of the largest job by kind, where the table had no room for it."""
    from rtx_lab.pricing.rows import COLUMNS, SPLIT, cells

    priced = [(job.price.peak_bytes, name, job.price) for job, name in zip(jobs, names, strict=True) if job.price]
    if priced:
        _, name, price = max(priced, key=lambda entry: entry[0])
        parts = [f"{column} {cell}" for column, cell in zip(COLUMNS, cells(price), strict=True) if column in SPLIT]
        console.print(f"largest: {name}: {', '.join(parts)} GB", markup=False, highlight=False)


def _plan_title(jobs: Sequence[Job]) -> str:
    from rtx_lab.pricing.rows import UNITS

    hardware = jobs[0].settled.run.hardware
    memory = f"{hardware.memory_gb:g} GiB" if hardware.memory_gb else "memory unknown"
    return f"{len(jobs)} job{'s' * (len(jobs) != 1)} on {hardware.name} ({memory}); {UNITS}"


def _now(job: Job) -> str:
    if job.refusal is not None:
        return f"refused: {job.refusal.kind}"
    if job.left_out:
        return "left out"
    if job.is_open:
        return f"largest of {len(job.alternatives)}"
    status = job.run.status()
    return {"new": "to run", "done": "done", "running": "running"}.get(status, "goes on")


def _total(jobs: Sequence[Job]) -> str:
    prices = [job.price for job in jobs if job.price is not None]
    hours, kwh = ([getattr(price, name) for price in prices] for name in ("hours", "kwh"))
    known = f"{sum(hours):.2g} h" if None not in hours else "hours unknown: hardware.peak_tflops is not given"
    energy = f", {sum(kwh):.2g} kWh" if None not in kwh else ""
    disk = sum(price.disk_gb for price in prices) * 2**30 / 1e9
    return f"{len(jobs)} to run: {known}{energy}, {disk:.2g} GB of disk"


def _print_reasons(console: Any, jobs: Sequence[Job], names: Sequence[str]) -> None:
    reasons: dict[str, list[str]] = {}
    for job, name in zip(jobs, names, strict=True):
        if job.refusal is not None:
            reasons.setdefault(job.refusal.reason, []).append(name)
    for reason, refused in reasons.items():
        shown = ", ".join(refused[:4]) + (f" and {len(refused) - 4} more" if len(refused) > 4 else "")
        console.print(f"not run: {shown}: {reason}", markup=False, highlight=False)


def print_outcomes(jobs: Sequence[Job]) -> None:
    """What came of each job, told apart by what was swept, with class and reason where it did not end well."""
    console = _console()
    wide = console.width >= _WIDE
    last = "run directory or reason" if wide else "reason"
    table = _table("Sweep", "job", "status", "test accuracy (95 %)", "steps", "time", last)
    for job, name in zip(jobs, names_of(jobs), strict=True):
        result = outcome(job)
        metrics = result.get("metrics") or {}
        reason = "" if result["status"] in _WELL else str(result.get("reason") or "")
        table.add_row(
            name,
            str(result["status"]),
            _accuracy(metrics),
            _number(metrics.get("test/avg_reasoning_steps"), 2),
            f"{result.get('time_s') or 0:.0f} s",
            reason or (job.settled.directory if wide else ""),
        )
    console.print(table)
    if not wide:
        folders = sorted({str(job.run.path.parent) for job in jobs})
        console.print(f"runs: {', '.join(folders)}", markup=False, highlight=False)


def outcome(job: Job) -> dict[str, Any]:
    """The job's terminal status with its reason, from its refusal or its run directory."""
    if job.refusal is not None:
        return {"status": "refused", "reason": f"{job.refusal.kind}: {job.refusal.reason}"}
    if job.left_out:
        return {
            "status": "left out",
            "reason": "it or its parent does not fit, and it was asked for only where it fits",
        }
    status = job.run.status()
    if status == "killed":
        return {"status": status, "reason": _KILLED}
    result = job.run.read_result() or {}
    return {**result, "status": status}


def exit_code(jobs: Sequence[Job]) -> int:
    """0 where all jobs are done, pruned or left out; else 4."""
    return 0 if all(outcome(job)["status"] in (*_WELL, "left out") for job in jobs) else EXIT_PARTLY_FAILED


def names_of(jobs: Sequence[Job]) -> list[str]:
    """What tells a job from the others of its phase: its overrides without those that all share, labels beside them."""
    phases: dict[str, list[Job]] = {}
    for job in jobs:
        phases.setdefault(job.settled.run.phase, []).append(job)
    shared = {
        phase: set.intersection(*(set(job.overrides) for job in own)) if len(own) > 1 else set()
        for phase, own in phases.items()
    }
    prefix = {phase: f"{phase}: " if len(phases) > 1 else "" for phase in phases}
    names = []
    for job in jobs:
        phase = job.settled.run.phase
        names.append(prefix[phase] + _name(job, (line for line in job.overrides if line not in shared[phase])))
    return names


def _name(job: Job, overrides: Iterable[str]) -> str:
    labels, config = job.settled.run.labels, job.settled.config
    named = [(line, label_of(labels, line, config)) for line in overrides]
    parts = [f"{line} ({label})" if label else line for line, label in named]
    return " ".join(parts) or job.settled.directory


def _table(title: str, *columns: str) -> Any:
    from rich.table import Table

    table = Table(title=title)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _console() -> Any:
    """A pipe has no width; a run directory's name needs some."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=180)


def _accuracy(metrics: dict[str, Any]) -> str:
    value, low, high = (metrics.get(f"test/accuracy{end}") for end in ("", "_low", "_high"))
    return f"{_number(value)} ({_number(low)}-{_number(high)})" if value is not None else "-"


def _number(value: Any, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "-"
