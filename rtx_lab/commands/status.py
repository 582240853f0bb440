"""List the runs below a folder, read from their directories alone: done, running, waiting, failed.

python -m rtx_lab status
python -m rtx_lab status multirun/nd_ratio --json
python -m rtx_lab status --watch                 until nothing runs or waits; Ctrl-C leaves, exit code 0
python -m rtx_lab status --phase rank --failed

Every line ends its name with the signature of the run; what stands there, or a part of it, names the run in `infer`,
`export`, `reproduce` and `report --compare`. COLUMNS sets the width, also in a pipe; without it a pipe gets all.

A folder with a study.json (what a sweep writes at its start) also shows the jobs that have not begun, and those of the
other phases that the sweep runs. The time left is that of training, evaluations included.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rtx_lab.commands.listing import accuracy_text, fold, lay_out, page_width, squeeze, step_text
from rtx_lab.commands.places import find_folder, list_runs
from rtx_lab.commands.row import Row, duration, read_row, waiting
from rtx_lab.core.rundir import RunDir, read_json

_AT_WORK = ("running", "waiting")
_FAILED = ("failed", "diverged", "out_of_memory", "refused", "killed", "broken")
_URGENCY = ("running", *_FAILED, "interrupted", "waiting")
"""What a watcher wants to see first."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("path", nargs="?", type=Path, help="a run or a folder of runs (default: multirun)")
    parser.add_argument("--phase", help="only the runs of this phase")
    parser.add_argument("--failed", action="store_true", help="only what ended badly or was not run")
    parser.add_argument(
        "--watch", nargs="?", type=_seconds, const=2.0, metavar="SECONDS",
        help="look again every SECONDS (default 2) until nothing runs or waits; PATH goes before it",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 on (PATH goes before --watch)")
    return value


def main(args: argparse.Namespace) -> int:
    """Print the table; 0 also when runs have failed, since telling so is not a failure."""
    root = find_folder(args.path, "a run or a folder of runs")
    if args.watch is not None:
        return _watch(args, root)
    rows = _select(args, root)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    elif not rows:
        none = f"no runs below {root}: start one with `python train.py`"
        print(*fold("no such runs" if list_rows(root) else none, page_width()), sep="\n")
    else:
        _print_table(rows)
    return 0


def list_rows(root: Path) -> list[Row]:
    """Return a row for each run below `root`, begun or planned, and for each job of the studies that stand there."""
    runs = list_runs(root, ("config.yaml", "plan.json"))
    folders = {os.path.abspath(run.path): run for run in runs}
    rows = [read_row(run) for run in runs]
    for study in (root, *sorted(path.parent for path in root.glob("*/study.json"))):
        record = read_json(study / "study.json") or {}
        for job in record.get("jobs") or []:
            folder = study.parent / str(job)
            if os.path.abspath(folder) not in folders:
                run = folders[os.path.abspath(folder)] = RunDir(folder)
                rows.append(read_row(run) if folder.is_dir() else waiting(folder))
        rows += [_not_run(study, entry) for entry in record.get("not_run") or []]
    return rows


def _not_run(study: Path, entry: dict[str, Any]) -> Row:
    words = {key: " ".join(str(entry.get(key) or "").split()) for key in ("job", "class", "reason")}
    phase, _, name = words["job"].rpartition(": ")
    return Row(
        path=str(study), phase=phase or study.name, name=name, status=words["class"] or "refused", note=words["reason"]
    )


def _select(args: argparse.Namespace, root: Path) -> list[Row]:
    rows = list_rows(root)
    if args.phase is not None:
        rows = [row for row in rows if row.phase == args.phase]
    return [row for row in rows if row.status in _FAILED] if args.failed else rows


def _watch(args: argparse.Namespace, root: Path) -> int:
    """Show the rows again and again: a table that redraws itself on a terminal, a line per change in a pipe."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    told: dict[str, tuple[str, int | None]] = {}
    try:
        with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
            while True:
                before = time.monotonic()
                rows = _select(args, root)
                if console.is_terminal:
                    live.update(_picture(rows), refresh=True)
                else:
                    _tell_changes(rows, told)
                if rows and not any(row.status in _AT_WORK for row in rows):
                    break
                time.sleep(max(args.watch, time.monotonic() - before))  # a scan of many runs takes its time
    except KeyboardInterrupt:
        return 0
    print(_summary(rows))
    return 0


def _tell_changes(rows: list[Row], told: dict[str, tuple[str, int | None]]) -> None:
    """Print the rows whose status or step is not what was printed of them before."""
    for row in rows:
        key, state = f"{row.path} {row.name}", (row.status, row.step)
        if told.get(key) != state:
            told[key] = state
            print(_line(row, page_width()))
    sys.stdout.flush()


def _line(row: Row, width: int | None) -> str:
    loss = "" if row.loss is None else f"loss {row.loss:.4f}"
    left = "" if row.eta_s is None else f"{duration(row.eta_s)} left"
    words = "  ".join(filter(None, (row.status, step_text(row), loss, left, accuracy_text(row), row.note)))
    if width is None:
        return f"{row.phase}/{row.folder}: {words}"
    from rich.cells import cell_len, set_cell_size

    name = squeeze(row.folder, max(len(row.signature), width - cell_len(f"{row.phase}/: {words}")))
    return set_cell_size(f"{row.phase}/{name}: {words}", width).rstrip()


def _picture(rows: list[Row]) -> Any:
    from rich.console import Group

    order = {status: place for place, status in enumerate(_URGENCY)}
    urgent = sorted(rows, key=lambda row: order.get(row.status, len(order)))
    return Group(_summary(rows), *lay_out(urgent, page_width()))


def _print_table(rows: list[Row]) -> None:
    from rich.console import Console

    console, width = Console(highlight=False), page_width()
    for line in lay_out(rows, width):
        console.print(line, soft_wrap=True)
    print("", *fold(_summary(rows), width), sep="\n")


def _summary(rows: list[Row]) -> str:
    left = [row.eta_s for row in rows if row.eta_s is not None]
    soon = f"; the running ones are through in {duration(max(left))}" if left else ""
    return f"{len(rows)} run{'s' * (len(rows) != 1)}: {_counts(row.status for row in rows)}{soon}"


def _counts(statuses: Iterable[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in Counter(statuses).most_common())
