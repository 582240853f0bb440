"""A progress bar on the terminal; nothing at all where standard error is not a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rtx_lab.core.types import Record

_REFRESH_S = 0.2

Show = Callable[[int, Record | None], None]


@contextmanager
def progress_bar(total_steps: int, step: int = 0, *, leads: bool = True) -> Iterator[Show]:
    """Yield the `show` of `rtx_lab.loop.fit`: it takes the step just done, and the record if one was logged."""
    if not (leads and sys.stderr.isatty()):
        yield lambda _step, _record: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TextColumn("loss {task.fields[loss]}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task("", total=total_steps, completed=step, loss="-")
        shown = 0.0

        def show(step: int, record: Record | None) -> None:
            nonlocal shown
            now = time.monotonic()
            if record is not None and "loss" in record:
                bar.update(row, completed=step, loss=f"{record['loss']:.4f}")
            elif now - shown > _REFRESH_S:
                bar.update(row, completed=step)
            else:
                return
            shown = now

        yield show
