"""The local launcher: a process per job from a warm fork server, as many at once as the devices hold.

Each job is the single run that a user would type, so what skips, resumes or refuses it is what a single run meets. An
exception, an out-of-memory, a segfault or a SIGKILL costs one job; nothing that a job does raises here.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType

from hydra.core.utils import JobReturn, JobStatus

from rtx_lab.core.rundir import RunDir
from rtx_lab.sweep import door
from rtx_lab.sweep.board import Board, Tally, show_board
from rtx_lab.sweep.forked import start, start_server
from rtx_lab.sweep.gate import PLANNED
from rtx_lab.sweep.slots import CPU, Demand, choose, find_devices

_LOST = 255
"""Exit code that multiprocessing makes up when the fork server died before the job."""

_REFRESH_S = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True, slots=True)
class Launched:
    """A job to start: its overrides and what is known of it. `directory` is None where it could not be composed."""

    overrides: tuple[str, ...]
    directory: Path | None
    memory_gb: float = 0.0
    exclusive: bool = False
    hardware_memory_gb: float | None = None
    planned: bool = True
    """A sweep has checked and priced it and written its plan.json."""
    number: int | None = None
    """Its number on the board; None: its place in the launch."""
    title: str = ""
    """Its name there; empty: the overrides that not all jobs of the launch share."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What all jobs of a launch share: the script, what stands before and after a job's overrides, and the devices."""

    script: Path
    flags: tuple[str, ...] = ()
    hydra_overrides: tuple[str, ...] = ()
    jobs_per_device: int = 1
    devices: tuple[str, ...] | None = None


@dataclass(slots=True)
class _Job:
    """A job on its way."""

    number: int
    launched: Launched
    title: str
    passes: int = 0
    device: str = ""
    process: ForkServerProcess | None = None
    output: Path = Path(os.devnull)
    printed_before: int = 0
    result_before: tuple[int, int] | None = None
    started: float = 0.0

    @property
    def demand(self) -> Demand:
        job = self.launched
        return Demand(job.memory_gb, job.hardware_memory_gb, job.exclusive)

    def send(self, signum: int) -> None:
        """Signal the job; a SIGKILL goes to its loader workers too."""
        if self.process is None or self.process.pid is None:
            return
        with suppress(OSError):  # it has just ended
            (os.killpg if signum == signal.SIGKILL else os.kill)(self.process.pid, signum)


@dataclass(slots=True)
class _Stop:
    """Passes the first signal on to the jobs at work; the second ends them at once."""

    running: list[_Job]
    signum: int | None = None

    def receive(self, signum: int, _: FrameType | None) -> None:
        passed_on = signum if self.signum is None else signal.SIGKILL
        self.signum = self.signum or signum
        for job in list(self.running):
            job.send(passed_on)


def launch(jobs: Sequence[Launched], settings: Settings, tally: Tally | None = None) -> list[JobReturn]:
    """Run every job and wait for all; return the objective of those that are done, in the order of `jobs`.

    What ends is counted in `tally` and told to the door, which makes the exit code where a sweeper makes none.
    After SIGINT, SIGTERM or SIGUSR1 the jobs at work save and end, no other one starts, and the signal is raised again
    for the handler that was there before: KeyboardInterrupt, or SystemExit with the exit code of `core.signals.leave`.
    """
    devices = settings.devices or find_devices(os.environ)
    titles = _titles(jobs)
    waiting = [_Job(job.number or i, job, title) for i, (job, title) in enumerate(zip(jobs, titles, strict=True), 1)]
    running: list[_Job] = []
    if jobs:
        start_server()
    with _handled(_Stop(running)) as stop, show_board(tally or Tally(len(jobs))) as board:
        while running or (waiting and stop.signum is None):
            while stop.signum is None and (job := _next(waiting, running, devices, settings.jobs_per_device)):
                _start(job, settings, running, stop, board)
            _wait(running)
            for job in [job for job in running if _has_ended(job)]:
                running.remove(job)
                _tell_end(board, job, *_outcome(job))
            board.refresh()
    return [_job_return(job) for job in jobs]


@contextmanager
def _handled(stop: _Stop) -> Iterator[_Stop]:
    """Catch what asks to stop; give the handlers back afterwards and let the one whose signal came have it."""
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {signum: signal.signal(signum, stop.receive) for signum in _SIGNALS}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
    if stop.signum is not None:
        signal.raise_signal(stop.signum)


def _titles(jobs: Sequence[Launched]) -> list[str]:
    """What each job is called; jobs of the same overrides by all of them."""
    shared = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    told = [job.title or " ".join(word for word in job.overrides if word not in shared) for job in jobs]
    return [title or " ".join(job.overrides) for title, job in zip(told, jobs, strict=True)]


def _next(waiting: list[_Job], running: list[_Job], devices: Sequence[str], jobs_per_device: int) -> _Job | None:
    """Take the job to start now out of `waiting` and give it its device."""
    loads = {device: [job.demand for job in running if job.device == device] for device in devices}
    chosen = choose([(job.demand, job.passes) for job in waiting], loads, jobs_per_device)
    if chosen is None:
        return None
    position, device = chosen
    for job in waiting[:position]:
        job.passes += 1
    job = waiting.pop(position)
    job.device = device
    return job


def _start(job: _Job, settings: Settings, running: list[_Job], stop: _Stop, board: Board) -> None:
    job.started = time.monotonic()
    try:
        _open_output(job)
        arguments = [*settings.flags, *job.launched.overrides, *settings.hydra_overrides]
        job.process = start(settings.script, arguments, environment=_environment(job), output=job.output)
    except (OSError, EOFError) as error:
        _tell_end(board, job, "failed", f"cannot start: {error or 'the fork server ended'}")
        return
    running.append(job)
    if stop.signum is not None:  # it came while the process was being made
        job.send(stop.signum)
    board.started(job.number, job.title, job.device, job.launched.directory)


def _tell_end(board: Board, job: _Job, status: str, reason: str) -> None:
    board.ended(job.number, status, reason, time.monotonic() - job.started)
    door.note_end(door.EXIT_CODES.get(status, 1))


def _open_output(job: _Job) -> None:
    directory = job.launched.directory
    if directory is None:
        job.output = Path(tempfile.mkdtemp(prefix="rtx_lab_job_"), "train.log")
        return
    directory.mkdir(parents=True, exist_ok=True)
    job.output = directory / "train.log"
    job.printed_before = job.output.stat().st_size if job.output.exists() else 0
    job.result_before = _stamp(RunDir(directory).result_path)


def _environment(job: _Job) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != PLANNED}
    if job.device != CPU:
        environment["CUDA_VISIBLE_DEVICES"] = job.device
    if job.launched.planned and job.launched.directory is not None:
        environment[PLANNED] = str(job.launched.directory.absolute())
    return environment


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes whenever the file is written anew."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _wait(running: Sequence[_Job]) -> None:
    """Until a job ends, but no longer than what is shown may be old."""
    known = [job.process.sentinel for job in running if job.process is not None and job.process.exitcode != _LOST]
    if known:
        connection.wait(known, timeout=_REFRESH_S)
    elif running:
        time.sleep(_REFRESH_S)


def _has_ended(job: _Job) -> bool:
    assert job.process is not None
    if job.process.exitcode != _LOST:
        return job.process.exitcode is not None
    try:  # without the fork server nobody tells how the job ended, but it may be at work still
        os.kill(job.process.pid or 0, 0)
    except OSError:
        return True
    return False


def _outcome(job: _Job) -> tuple[str, str]:
    """Status and reason of a job that has ended: from its exit code, its result, and what it printed."""
    code = job.process.exitcode if job.process is not None else None
    printed = _printed(job)
    directory = job.launched.directory
    if code is None or code < 0:
        return "killed", f"by {signal.Signals(-code).name}" if code else ""
    result = (RunDir(directory).read_result() if directory is not None else None) or {}
    is_fresh = directory is not None and _stamp(RunDir(directory).result_path) != job.result_before
    if is_fresh or (code == 0 and result.get("status") == "done"):
        status = str(result.get("status"))
        return status, "" if status == "done" else str(result.get("reason") or "")
    complaints = [line.removeprefix("error: ") for line in printed if line.startswith("error: ")]
    reason = "; ".join(complaints) or next(iter(printed[-1:]), f"ended without a result, exit code {code}")
    return "refused" if complaints and code == 2 else "failed", reason


def _printed(job: _Job) -> list[str]:
    """The lines that this attempt added to its output."""
    try:
        with open(job.output, "rb") as file:
            file.seek(job.printed_before)
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    if job.launched.directory is None:
        shutil.rmtree(job.output.parent, ignore_errors=True)
    return [line.strip() for line in text.splitlines() if line.strip()]


def _job_return(job: Launched) -> JobReturn:
    """What Hydra's sweepers want to know. A job that is not done has no objective and is no error of the launcher's."""
    result = (RunDir(job.directory).read_result() if job.directory is not None else None) or {}
    objective = result.get("objective") if result.get("status") == "done" else None
    return JobReturn(
        overrides=list(job.overrides),
        working_dir=os.getcwd(),
        task_name="train",
        status=JobStatus.COMPLETED,
        _return_value=objective,
    )
