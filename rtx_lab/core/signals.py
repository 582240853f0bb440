"""Signals that ask a run to stop: the first is remembered, the second leaves at once.

A handler only sets a flag. The loop sees it after the step at hand, saves, and returns; whatever handler stood there
before (submitit's, which requeues the job) is called once everything is saved, never before.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 0, signal.SIGUSR2: 0}
"""Exit code of a run that was stopped by a signal; the last two are how a cluster announces its time limit: no failure.

SIGUSR2 is submitit's choice and is caught only where it has a handler.
"""

_TORCHRUN_ECHO_S = 2.0
"""torchrun forwards the Ctrl-C that its workers have already had from the terminal: no second wish within this time."""


class Stopped(Exception):
    """Raised by `StopSignal.check` in the middle of an evaluation."""


class StopSignal:
    """Remembers the first of the signals of EXIT_CODES while it is entered; in other threads it does nothing.

    Example: `with StopSignal() as stop: outcome = fit(..., stop=stop)`. Leaving restores the earlier handlers and then
    calls the one whose signal came, if it is a Python function that is neither `leave` nor Python's own for SIGINT.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._since = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for signum in EXIT_CODES:
                if signum != signal.SIGUSR2 or callable(signal.getsignal(signum)):
                    self._previous[signum] = signal.signal(signum, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for signum, previous in self._previous.items():
            signal.signal(signum, previous if previous is not None else signal.SIG_DFL)
        previous = self._previous.get(self.signum) if self.signum is not None else None
        if callable(previous) and previous not in (signal.default_int_handler, leave):
            previous(self.signum, None)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum, self._since = signum, time.monotonic()
        elif "TORCHELASTIC_RUN_ID" not in os.environ or time.monotonic() - self._since > _TORCHRUN_ECHO_S:
            os._exit(exit_code(signum))  # the state on disk is whole at every moment, so nothing needs to be undone

    def check(self) -> None:
        """Raise Stopped if a signal came; for long work between two steps, such as an evaluation."""
        if self.signum is not None:
            raise Stopped(signal.Signals(self.signum).name)


def leave(signum: int, frame: FrameType | None) -> None:
    """Handler for the time outside a run, where nothing needs saving: end with the signal's exit code."""
    raise SystemExit(exit_code(signum))


def exit_code(signum: int | None) -> int:
    """Exit code for a run that the signal interrupted: 143, 130 or 0; 0 without a signal."""
    return EXIT_CODES.get(signal.Signals(signum), 128 + signum) if signum is not None else 0
