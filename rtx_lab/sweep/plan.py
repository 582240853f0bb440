"""Tables that a person reads before and after a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rtx_lab.core.rundir import RunDir
from rtx_lab.core.schema import Settled

EXIT_PARTLY_FAILED = 4


@dataclass(frozen=True, slots=True)
class Job:
    """One distinct experiment: the overrides that first named it and its run directory."""

    overrides: tuple[str, ...]
    settled: Settled
    run: RunDir


def print_plan(rows: list[tuple[Settled, Any]]) -> None:
    """What would run: name, parameters, bytes of weights, gradients and optimizer state."""
    table = _table(f"{len(rows)} job{'s' * (len(rows) != 1)}; nothing was written", "run directory")
    for column in ("parameters", "weights", "gradients", "optimizer", "state in all"):
        table.add_column(column, justify="right")
    for settled, examined in rows:
        sizes = [examined.weight_bytes, examined.gradient_bytes, examined.optimizer_bytes, examined.state_bytes]
        table.add_row(settled.directory, f"{examined.parameters:,}", *(_gigabytes(size) for size in sizes))
    _console().print(table)


def print_outcomes(jobs: Sequence[Job]) -> int:
    """What came of each job, told apart by what was swept; return the exit code of the whole sweep."""
    table = _table(
        "Sweep", "swept", "status", "test accuracy (95 %)", "reasoning steps", "time", "run directory or reason"
    )
    shared = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    results = [job.run.read_result() or {"status": job.run.status()} for job in jobs]
    for job, result in zip(jobs, results, strict=True):
        done = result["status"] == "done"
        table.add_row(
            " ".join(override for override in job.overrides if override not in shared),
            result["status"],
            _accuracy(result.get("metrics") or {}),
            _number((result.get("metrics") or {}).get("test/avg_reasoning_steps"), 2),
            f"{result.get('time_s', 0):.0f} s",
            job.settled.directory if done else str(result.get("reason") or job.settled.directory),
        )
    _console().print(table)
    return _exit_code(results)


def _exit_code(results: list[dict[str, Any]]) -> int:
    stopped = [result for result in results if result["status"] == "interrupted"]
    if stopped:
        return int(stopped[0].get("exit_code", 130))
    done = [result for result in results if result["status"] in ("done", "pruned")]
    return 0 if len(done) == len(results) else EXIT_PARTLY_FAILED


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
    return console if console.is_terminal else Console(width=160)


def _accuracy(metrics: dict[str, Any]) -> str:
    value, low, high = (metrics.get(f"test/accuracy{end}") for end in ("", "_low", "_high"))
    return f"{_number(value)} ({_number(low)}-{_number(high)})" if value is not None else "-"


def _number(value: Any, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "-"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3f} GB"
