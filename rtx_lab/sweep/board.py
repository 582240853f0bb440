"""What a terminal shows of jobs at work: a line per event, and below the lines how far each job is.

In a pipe there are the lines alone.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rtx_lab.core.rundir import RunDir
from rtx_lab.sweep.slots import CPU

_TAIL_BYTES = 8192
_COLOURS = {"done": "green", "started": "cyan", "interrupted": "yellow", "killed": "yellow"}


@dataclass(frozen=True, slots=True)
class _Row:
    title: str
    directory: Path | None
    total_steps: int | None


@dataclass(slots=True)
class Tally:
    """How many jobs there are in all and what came of those that have ended; a search keeps one over many launches."""

    total: int
    noun: str = ""
    """What one of them is called, as `trial`."""
    ended_as: Counter[str] = field(default_factory=Counter)
    """Those of earlier commands too."""
    ended_now: int = 0
    """Those of this command alone."""
    since: float = field(default_factory=time.monotonic)

    def label(self, number: int) -> str:
        """How a job is told from the others, as `[ 3/20]` or `[trial 3/20]`."""
        place = f"{self.noun} {number}" if self.noun else f"{number:{len(str(self.total))}}"
        return f"[{place}/{self.total}]"


@dataclass(slots=True)
class Board:
    """The jobs of one launch as they are shown; `live` is None where nobody watches."""

    tally: Tally
    console: Console
    live: Live | None = None
    rows: dict[int, _Row] = field(default_factory=dict)

    def started(self, number: int, title: str, device: str, directory: Path | None) -> None:
        """Tell that a job runs, and where."""
        plan = (RunDir(directory).read_plan() if directory is not None else None) or {}
        self.rows[number] = _Row(title, directory, (plan.get("price") or {}).get("steps"))
        place = "" if device == CPU else f"on GPU {device}"
        self._tell(number, "started", " ".join(part for part in (title, place) if part))

    def ended(self, number: int, status: str, reason: str, time_s: float) -> None:
        """Tell what came of a job."""
        row = self.rows.pop(number, None)
        self.tally.ended_as[status] += 1
        self.tally.ended_now += 1
        details = [row.title if row is not None else "", f"({time_s:.1f} s)"]
        self._tell(number, status, " ".join(part for part in details if part) + (f": {reason}" if reason else ""))

    def refresh(self) -> None:
        """Bring the lower part up to date."""
        if self.live is not None:
            self.live.update(self._picture(), refresh=True)

    def _tell(self, number: int, event: str, words: str) -> None:
        line = Text.assemble(f"{self.tally.label(number)} ", (event, _COLOURS.get(event, "red")), f" {words}")
        with suppress(OSError):  # whoever read the pipe has left; the jobs go on
            self.console.print(line, soft_wrap=True)

    def _picture(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for number, row in self.rows.items():
            table.add_row(Text(f"[{number}]"), Text(row.title), *_progress(row))
        waiting = self.tally.total - sum(self.tally.ended_as.values()) - len(self.rows)
        counts = [f"{count} {status}" for status, count in sorted(self.tally.ended_as.items())]
        counts += [f"{len(self.rows)} running", f"{waiting} waiting"]
        table.add_row("", Text(", ".join(counts)), "", "", self._left(waiting + len(self.rows)))
        return table

    def _left(self, open_jobs: int) -> str:
        """Time until all have ended, if the rest takes as long as what this command has ended."""
        if self.tally.ended_now == 0 or open_jobs <= 0:
            return ""
        return f"{_duration((time.monotonic() - self.tally.since) / self.tally.ended_now * open_jobs)} left"


@contextmanager
def show_board(tally: Tally) -> Iterator[Board]:
    """Yield the board of a launch, which counts its jobs in `tally`."""
    console = Console(highlight=False)
    board = Board(tally, console)
    if not console.is_terminal:
        yield board
        return
    with Live(console=console, transient=True, auto_refresh=False) as board.live:
        yield board


def _progress(row: _Row) -> tuple[str, str, str]:
    """Step, loss and time left, from the last line of metrics.jsonl that has them."""
    last = last_record(RunDir(row.directory).metrics_path) if row.directory is not None else {}
    step, step_time_s = last.get("step"), last.get("step_time_s")
    if step is None:
        return "starting", "", ""
    loss = f"loss {last['loss']:.4f}" if isinstance(last.get("loss"), float) else ""
    if not row.total_steps:
        return f"step {step}", loss, ""
    left = f"{_duration((row.total_steps - step) * step_time_s)} left" if isinstance(step_time_s, float) else ""
    return f"step {step}/{row.total_steps}", loss, left


def last_record(path: Path) -> dict[str, Any]:
    """The last whole line with a loss in a metrics file, found from its end; empty where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "loss" in record:
            return record
    return {}


def _duration(time_s: float) -> str:
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
