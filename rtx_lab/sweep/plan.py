"""What a person reads before a sweep: what each job would cost, what all of them cost, and what is not run and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rtx_lab.sweep.jobs import Job, names_of

HOURS = (
    "hours: all steps of the budget and every evaluation, at the longest lengths, one job after another. Not in them: "
    "starting a job, reading and encoding its data, writing checkpoints; nor what ending early saves."
)
"""What `pricing.price` counts as hours, and what it does not."""


def print_plan(jobs: Sequence[Job]) -> None:
    """The table of the jobs, the sums of each phase and of all, and the reasons of what is refused."""
    print_sums(jobs)
    print_reasons(jobs)


def print_sums(jobs: Sequence[Job]) -> None:
    """The table of the jobs, and the sums of each phase and of all."""
    from rtx_lab.sweep.tables import open_console, print_note

    print_costs(jobs)
    console = open_console()
    phases = list(dict.fromkeys(job.settled.run.phase for job in jobs))
    if len(phases) > 1:
        console.print(_sums_by_phase(jobs, phases).drawn())
    todo = [job for job in jobs if _state(job) == "to run"]
    lines = [f"{_counts(jobs)}: {_cost(todo)}" if todo else _counts(jobs)]
    lines += [HOURS] * any(job.price is not None and job.price.hours is not None for job in todo)
    if any(job.is_open for job in todo):
        lines.append("a job that takes values from another phase is counted with those that need the most memory.")
    if any(_now(job) == "goes on" for job in todo):
        lines.append("a job that goes on is counted whole.")
    for line in lines:
        print_note(console, line)


def print_costs(jobs: Sequence[Job]) -> None:
    """The table alone: a line for each job; by memory kind where there is room for it, else for the largest job."""
    from rtx_lab.pricing.rows import COLUMNS, LESS_NEEDED, SPLIT, cells
    from rtx_lab.sweep.tables import Table, fit, open_console

    console, names = open_console(), names_of(jobs)
    table = Table(_title(jobs), ("job", "now", *COLUMNS), numbers=frozenset(COLUMNS))
    before = jobs[0].settled.run.phase
    for job, name in zip(jobs, names, strict=True):
        if job.settled.run.phase != before:
            table.rows.append(None)
        before = job.settled.run.phase
        table.rows.append((name, _now(job), *(cells(job.price) if job.price is not None else ["-"] * len(COLUMNS))))
    shown = fit(console, table, [SPLIT, LESS_NEEDED])
    console.print(shown.drawn())
    if not SPLIT & {*shown.columns}:
        _print_split(console, jobs, names)


def print_reasons(jobs: Sequence[Job]) -> None:
    """Why jobs are refused, each reason once, with the jobs that it keeps from running."""
    from rtx_lab.sweep.tables import open_console, print_line

    reasons: dict[str, list[str]] = {}
    for job, name in zip(jobs, names_of(jobs), strict=True):
        if job.refusal is not None:
            reasons.setdefault(job.refusal.reason, []).append(name)
    console = open_console()
    for reason, refused in reasons.items():
        shown = ", ".join(refused[:4]) + (f" and {len(refused) - 4} more" if len(refused) > 4 else "")
        print_line(console, f"not run: {shown}: {reason}")


def print_unreadable(jobs: Sequence[Job]) -> None:
    """Which data of one's own cannot be opened here: a plan prices them all the same, and a run would be refused."""
    from rtx_lab.pricing.data import shape_of
    from rtx_lab.sweep.tables import open_console, print_line

    priced = {str(job.settled.run.dataset): job.settled.run for job in jobs if job.price is not None}
    # as they were priced: over a tokenizer without words, since a plan asks no hub
    sources = [getattr(shape_of(run).dataset, "sources", {}).values() for run in priced.values()]
    told = [next(filter(None, (one.problem() for one in some if hasattr(one, "problem"))), None) for some in sources]
    for problem in dict.fromkeys(filter(None, told)):
        print_line(open_console(), f"data not readable here, so a run would be refused: {problem}")


def _print_split(console: Any, jobs: Sequence[Job], names: Sequence[str]) -> None:
    """The memory of the largest job by kind, where the table had no room for it."""
    from rtx_lab.pricing.rows import COLUMNS, SPLIT, cells, short
    from rtx_lab.sweep.tables import print_note

    priced = [(job.price.peak_bytes, name, job.price) for job, name in zip(jobs, names, strict=True) if job.price]
    if priced:
        _, name, price = max(priced, key=lambda entry: entry[0])
        parts = [f"{column} {cell}" for column, cell in zip(COLUMNS, cells(price), strict=True) if column in SPLIT]
        held = price.evaluation - price.weights - price.optimizer
        scoring = f"; scoring holds {short(held / 1e9, 3)} GB" if price.evaluation > price.training else ""
        print_note(console, f"largest: {name}: {', '.join(parts)} GB{scoring}")


def _title(jobs: Sequence[Job]) -> str:
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
        return f"largest of {len(job.alternatives)}" if len(job.alternatives) > 1 else "after its parent"
    status = job.run.status()
    return {"new": "to run", "done": "done", "running": "running"}.get(status, "goes on")


def _state(job: Job) -> str:
    """What the sums count a job as: to run (or to wait for), done, or why it is not run."""
    if job.refusal is not None:
        return f"refused ({job.refusal.kind})"
    if job.left_out:
        return f"left out ({job.left_out})"
    return "done" if not job.is_open and job.run.status() == "done" else "to run"


def _counts(jobs: Sequence[Job]) -> str:
    counts = Counter(_state(job) for job in jobs)
    states = ["to run", *(["done"] if counts["done"] else []), *sorted(counts.keys() - {"to run", "done"})]
    return ", ".join(f"{counts[state]} {state}" for state in states)


def _sums_by_phase(jobs: Sequence[Job], phases: Sequence[str]) -> Any:
    from rtx_lab.sweep.tables import Table

    states = sorted({_state(job) for job in jobs} - {"to run"}, key=lambda state: (state != "done", state))
    counted = ("jobs", "to run", *states)
    table = Table("Sums of what is to run", ("phase", *counted, *_SUMS), numbers=frozenset({*counted, *_SUMS}))
    for phase in (*phases, None):
        own = [job for job in jobs if phase in (job.settled.run.phase, None)]
        counts = Counter(_state(job) for job in own)
        sums = _sums([job for job in own if _state(job) == "to run"])
        cells = (str(len(own)), *(str(counts[state]) for state in counted[1:]), *sums)
        table.rows.extend([(phase, *cells)] if phase is not None else [None, ("all", *cells)])
    return table


_SUMS = ("hours", "kWh", "disk (GB)")


def _sums(jobs: Sequence[Job]) -> tuple[str, str, str]:
    """Hours, kilowatt-hours and gigabytes; `-` where those of a job are not known."""
    from rtx_lab.pricing.rows import short

    prices = [job.price for job in jobs if job.price is not None]
    hours, kwh = ([getattr(price, name) for price in prices] for name in ("hours", "kwh"))
    disk = sum(price.disk_gb for price in prices) * 2**30 / 1e9
    return short(sum(hours)) if None not in hours else "-", short(sum(kwh)) if None not in kwh else "-", short(disk)


def _cost(jobs: Sequence[Job]) -> str:
    hours, kwh, disk = _sums(jobs)
    known = f"{hours} h" if hours != "-" else "hours unknown: hardware.peak_tflops is not given"
    return ", ".join([known, *([f"{kwh} kWh"] if kwh != "-" else []), f"{disk} GB of disk"])
