"""List the runs below a folder, read from their directories alone.

python -m rtx_lab status
python -m rtx_lab status multirun/nd_ratio --json
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import RunDir, find_runs

DEFAULT_ROOT = Path("multirun")
_SIGNATURE = re.compile(r"-[0-9a-f]{12}$")
_COLOURS = {"done": "green", "running": "cyan", "interrupted": "yellow", "killed": "yellow", "new": "dim"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one run directory tells; None where it does not."""

    path: str
    phase: str
    name: str
    status: str
    step: int | None = None
    total_steps: int | None = None
    monitor: str | None = None
    best: float | None = None
    best_step: int | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    time_s: float | None = None
    note: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("path", nargs="?", type=Path, help="a run or a folder of runs (default: multirun)")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")


def main(args: argparse.Namespace) -> int:
    """Print the table; 0 also when runs have failed, since telling so is not a failure."""
    root = args.path or DEFAULT_ROOT
    if args.path is not None and not root.is_dir():
        raise UsageError(f"there is no folder {root}: give a run or a folder of runs")
    rows = [read_row(run) for run in list_runs(root)]
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    elif not rows:
        print(f"no runs below {root}: start one with `python train.py`")
    else:
        _print_table(rows)
    return 0


def list_runs(root: Path) -> list[RunDir]:
    """Return the runs below `root`; exported folders keep a config.yaml of their own and are no runs."""
    return [run for run in find_runs(root) if not (run.path / "config.json").exists()]


def read_row(run: RunDir) -> Row:
    """Read one run directory; whatever is damaged becomes the status `broken` with a note, never an error."""
    place: dict[str, Any] = {"path": str(run.path), "phase": run.path.resolve().parent.name}
    place["name"] = _SIGNATURE.sub("", run.path.resolve().name)
    try:
        return _read(run, place)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return Row(**place, status="broken", note=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _read(run: RunDir, place: dict[str, Any]) -> Row:
    status, result = run.status(), run.read_result()
    if result is None and run.result_path.exists() and status != "running":
        return Row(**place, status="broken", note="result.json cannot be read: run the same command again")
    last, best = _last_metrics(run)
    result = result or {}
    if status == "running":  # what stands there is of an earlier attempt
        result = {}
    metrics, best = result.get("metrics") or {}, result.get("best") or best
    step = _first_number(result.get("steps"), last.get("step"), best.get("step"))
    total = _first_number(result.get("total_steps"), last.get("total_steps"))
    note = str(result.get("reason") or "") if status != "done" else ""
    return Row(
        **place,
        status=status,
        step=None if step is None else int(step),
        total_steps=_configured_steps(run) if total is None else int(total),
        monitor=result.get("monitor"),
        best=_first_number(best.get("value")),
        best_step=best.get("step"),
        accuracy=_first_number(metrics.get("test/accuracy")),
        accuracy_low=_first_number(metrics.get("test/accuracy_low")),
        accuracy_high=_first_number(metrics.get("test/accuracy_high")),
        time_s=_first_number(result.get("time_s"), _elapsed(run, status)),
        note=" ".join(note.split()) or _HINTS.get(status, ""),
    )


_HINTS = {"killed": "run the same command again to continue", "interrupted": "run the same command again to continue"}


def _last_metrics(run: RunDir) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the last logged line and the best validation accuracy among all of them."""
    last: dict[str, Any] = {}
    best: dict[str, Any] = {}
    for record in run.read_metrics():
        last |= {key: record[key] for key in ("step", "total_steps") if key in record}
        value = _first_number(record.get("validation/accuracy"))
        if value is not None and value > best.get("value", float("-inf")):
            best = {"step": record.get("step"), "value": value}
    return last, best


def _configured_steps(run: RunDir) -> int | None:
    import yaml

    try:
        config = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError("config.yaml is not valid YAML") from error
    if not isinstance(config, dict) or not isinstance(config.get("budget"), dict):
        raise ValueError("config.yaml is not that of a run")
    return config["budget"].get("steps")


def _elapsed(run: RunDir, status: str) -> float | None:
    if status == "running":
        return max(0.0, time.time() - run.config_path.stat().st_mtime)
    return None


def _first_number(*values: Any) -> float | None:
    return next((value for value in values if isinstance(value, int | float)), None)


def _print_table(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("phase", "run", "status", "step", "best", "test accuracy", "time", "note"):
        table.add_column(column, overflow="fold", justify="right" if column in ("step", "best", "time") else "left")
    for row in rows:
        colour = _COLOURS.get(row.status, "red")
        cells = (_step(row), _best(row), _accuracy(row), duration(row.time_s), row.note)
        table.add_row(row.phase, row.name, Text(row.status, style=colour), *map(Text, cells))
    console = Console()
    # Into a file or pipe, one run is one line.
    (console if console.is_terminal else Console(width=250)).print(table)
    print(f"\n{len(rows)} run{'s' * (len(rows) != 1)}: {_counts(row.status for row in rows)}")


def _counts(statuses: Iterable[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in Counter(statuses).most_common())


def _step(row: Row) -> str:
    step = "-" if row.step is None else str(row.step)
    return f"{step}/{row.total_steps}" if row.total_steps else step


def _best(row: Row) -> str:
    return "-" if row.best is None else f"{row.best:.4f} @ {row.best_step}"


def _accuracy(row: Row) -> str:
    if row.accuracy is None:
        return "-"
    if row.accuracy_low is None or row.accuracy_high is None:
        return f"{row.accuracy:.4f}"
    return f"{row.accuracy:.4f} [{row.accuracy_low:.4f}, {row.accuracy_high:.4f}]"


def duration(time_s: float | None) -> str:
    """Return seconds as '45 s', '12 min 5 s' or '3 h 7 min'."""
    if time_s is None:
        return "-"
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
