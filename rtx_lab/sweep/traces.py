"""Trace the shapes of a sweep on all cores: one takes about a second, and a study has a hundred of them."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait

from rtx_lab.core.schema import RunConfig
from rtx_lab.sweep.forked import start_server

WORTH_A_PROCESS = 4
"""Shapes for each further process; a process is ready when it has loaded what a trace imports."""

SILENCE_S = 10.0
"""Time without a sign of life that a reader of a log is left alone with."""

Shape = tuple[str, RunConfig, int]


def trace_all(runs: Iterable[RunConfig]) -> None:
    """Trace every shape that this process does not know yet; what a worker could not do is left to be done here."""
    from rtx_lab.core.device import usable_cores
    from rtx_lab.pricing.trace import knows, remember, shape_key

    shapes: dict[str, Shape] = {}
    for run in runs:
        budget = run.budget
        size = budget.micro_batch or budget.global_batch
        if "auto" not in (size, budget.micro_tokens) and not knows(key := shape_key(run, size)):
            shapes[key] = (key, run, size)
    workers = min(usable_cores(), len(shapes) // WORTH_A_PROCESS)
    if workers < 2:
        return
    waiting = list(shapes.values())
    pipes = [_start(waiting[number::workers]) for number in range(workers)]
    with _progress(len(waiting)) as advance:
        while pipes:
            for pipe in wait(pipes):
                assert isinstance(pipe, Connection)
                try:
                    remember(pipe.recv())
                    advance()
                except (EOFError, OSError):
                    pipes.remove(pipe)


def _start(shapes: Sequence[Shape]) -> Connection:
    start_server()
    context = multiprocessing.get_context("forkserver")
    reader, writer = context.Pipe(duplex=False)
    context.Process(target=_work, args=(writer, list(shapes)), daemon=True).start()
    writer.close()
    return reader


def _work(pipe: Connection, shapes: Sequence[Shape]) -> None:
    """In a child: trace one shape after another; an error ends it, and the parent meets it again with a message."""
    import torch

    from rtx_lab.pricing.trace import trace

    torch.set_num_threads(1)
    for key, run, micro_batch in shapes:
        try:
            pipe.send({key: trace(run, micro_batch)})
        except Exception:
            return


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar where someone watches, else a line now and then."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    counted, said = 0, time.monotonic()

    def advance() -> None:
        nonlocal counted, said
        counted += 1
        progress.advance(bar)
        if not console.is_terminal and time.monotonic() - said > SILENCE_S:
            said = time.monotonic()
            print(f"pricing: {counted} of {total} shapes", file=sys.stderr, flush=True)

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("pricing", total=total)
        yield advance
