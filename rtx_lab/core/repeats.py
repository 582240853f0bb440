"""How often a run does what a rehearsal does once: a price reads one place for all those of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_TIMES: ContextVar[int] = ContextVar("times", default=1)


@contextmanager
def repeated(times: int) -> Iterator[None]:
    """Let all work within count so many times, and 0 not at all; what it holds in memory counts as it is."""
    token = _TIMES.set(_TIMES.get() * times)
    try:
        yield
    finally:
        _TIMES.reset(token)


def times() -> int:
    """How often the work that is done now counts."""
    return _TIMES.get()
