"""A process per job from a warm fork server: what the server loads, and what a child does before it is `train.py`.

The server holds imported modules and nothing else: no thread of ours, no CUDA, no handlers, no open files of the sweep.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pkgutil
import runpy
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import rtx_lab

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_PACKAGES = ("data", "inference", "models", "nn", "scoring", "tasks", "core")
_PRELOADED = (
    *("rtx_lab.run", "rtx_lab.sweep.gate", "rtx_lab.sweep.forked", "hydra.main", "hydra_plugins.rtx_lab.study"),
    *("safetensors.torch", "tokenizers", "yaml", "rich.console", "torch.utils.data", "torch.utils.tensorboard"),
    # loaded by the meta device, fake tensors and a rank correlation: more than half of a short job's time
    *("torch._dynamo", "torch._refs", "torch._decomp", "torch._meta_registrations", "scipy.stats"),
)
_SERVER_ENVIRONMENT = {
    # not installed, the package is found beside train.py alone
    "PYTHONPATH": os.pathsep.join(filter(None, (str(Path(rtx_lab.__path__[0]).parent), os.environ.get("PYTHONPATH")))),
    # numpy would start threads when it is loaded, and a fork copies none of them
    "OPENBLAS_NUM_THREADS": "1",
}


def start_server() -> None:
    """Start the fork server, unless it runs; it loads what a run imports while this process goes on."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(loaded_modules())
    with _silenced():
        resource_tracker.ensure_running()  # apart from the server: it takes the block of two signals away again
        with _signals_blocked(), _environment(_SERVER_ENVIRONMENT):
            forkserver.ensure_running()


def start(script: Path, arguments: Sequence[str], *, environment: Mapping[str, str], output: Path) -> ForkServerProcess:
    """Run `script arguments` as `__main__` in a process of its own; what it prints is added to the file `output`."""
    process = multiprocessing.get_context("forkserver").Process(
        target=_become_main,
        args=(str(script), list(arguments), dict(environment), os.getcwd(), str(output)),
        daemon=False,  # a daemon could not have loader workers
    )
    start_server()
    process.start()
    return process


def loaded_modules() -> list[str]:
    """What a run imports, as far as it starts no thread and touches no GPU."""
    own = [
        f"rtx_lab.{package}.{module.name}"
        for package in _PACKAGES
        for module in pkgutil.iter_modules([str(Path(rtx_lab.__path__[0], package))])
    ]
    return [*_PRELOADED, *own]


@contextmanager
def _silenced() -> Iterator[None]:
    """Processes started here write to nowhere: a pipe that we write to ends with us, not with the last of our jobs."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read the pipe has left
            stream.flush()
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in saved:
            os.dup2(null, descriptor)
        yield
    finally:
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(null)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A signal to the whole process group would end the server, and with it what tells how a job ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _become_main(script: str, arguments: list[str], environment: dict[str, str], folder: str, output: str) -> None:
    """In the child: leave the terminal, take the environment, then be what a shell would have started."""
    os.setsid()  # a Ctrl-C reaches the sweep alone, which passes it on once; a closed terminal reaches no job
    for signum in _SIGNALS:
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    if "numpy" in sys.modules:
        import numpy

        numpy.random.seed()  # every child would draw alike; `random` sees to itself
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
