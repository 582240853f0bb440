"""Tables that a person reads before and after a sweep."""

from __future__ import annotations

from typing import Any

from rtx_lab.core.rundir import RunDir
from rtx_lab.core.schema import Settled

EXIT_PARTLY_FAILED = 4


def print_plan(rows: list[tuple[Settled, Any]]) -> None:
    """What would run: name, parameters, bytes of weights, gradients and optimizer state."""
    from rich.table import Table

    table = Table(title=f"{len(rows)} job{'s' * (len(rows) != 1)}; nothing was written")
    for column in ("run directory", "parameters", "weights", "gradients", "optimizer", "state in all"):
        table.add_column(column, justify="left" if column == "run directory" else "right", overflow="fold")
    for settled, examined in rows:
        sizes = [examined.weight_bytes, examined.gradient_bytes, examined.optimizer_bytes, examined.state_bytes]
        table.add_row(settled.directory, f"{examined.parameters:,}", *(_gigabytes(size) for size in sizes))
    _wide_console().print(table)


def print_outcomes(rows: list[tuple[Settled, RunDir]]) -> int:
    """What came of each job; return the exit code of the whole sweep."""
    from rich.table import Table

    table = Table(title="Sweep")
    for column in ("run directory", "status", "test accuracy", "interval", "steps", "time", "reason"):
        table.add_column(column, overflow="fold")
    results = []
    for settled, run in rows:
        result = run.read_result() or {"status": run.status()}
        results.append(result)
        metrics = result.get("metrics") or {}
        table.add_row(
            settled.directory,
            result["status"],
            _number(metrics.get("test/accuracy")),
            f"{_number(metrics.get('test/accuracy_low'))}-{_number(metrics.get('test/accuracy_high'))}",
            _number(metrics.get("test/avg_reasoning_steps"), 2),
            f"{result.get('time_s', 0):.0f} s",
            str(result.get("reason") or ""),
        )
    _wide_console().print(table)
    return _exit_code(results)


def _wide_console() -> Any:
    """A pipe has no width; a run directory's name needs some."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def _exit_code(results: list[dict[str, Any]]) -> int:
    stopped = [result for result in results if result["status"] == "interrupted"]
    if stopped:
        return int(stopped[0].get("exit_code", 130))
    done = [result for result in results if result["status"] in ("done", "pruned")]
    return 0 if len(done) == len(results) else EXIT_PARTLY_FAILED


def _number(value: Any, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "-"


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3f} GB"
