"""The door between the shell and a run: exit codes, and one sentence instead of a traceback.

Imported by every start of `train.py`, `--help` included, so it imports nothing heavier than Hydra.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.core.signals import leave

_IS_1_3 = hydra.__version__.startswith("1.3.")
COMPOSE_KEYWORDS: dict[str, Any] = {"version_base": "1.3"} if _IS_1_3 else {}
"""Hydra 1.3 asks which defaults are meant; 1.4 has one set of them."""
HYDRA_KEYWORDS: dict[str, Any] = (
    COMPOSE_KEYWORDS if _IS_1_3 else {"execution_whitelist": ("rtx_lab.*", "hydra_plugins.*")}
)
"""Hydra 1.4 also wants to know which targets a configuration may name."""

EXIT_CODES = {"done": 0, "refused": 2}
"""Exit code of a terminal status; an interrupted run names its own, everything else is 1."""

_SWEEP = {"-m", "--multirun"}
_BAD_WORDS = (
    *("Config group override must be a string", "Exceeds the limit", "range() arg 3 must not be zero"),
    "Only one of --run, --multirun",
)
"""How the ValueErrors begin that Hydra lets pass: `model=null` or `=3`, thousands of digits, range(0,1,0), -m beside
--cfg.
"""

_BAD_FILES = (
    *("Invalid defaults list", "Unsupported item value in defaults", "Unsupported type in defaults", "In "),
    "'utf-8' codec can't decode",
)
"""How those begin that a file of the configuration causes."""

EXIT_PARTLY_FAILED = 4
"""Exit code of a sweep of which not every job is done."""

_exit_codes: list[int] = []
"""Of the jobs that ended in this process or under the local launcher, in the order in which they ended."""


def run_job(config: DictConfig) -> float | None:
    """Run one job of Hydra's; return its monitored metric. Never raises and never exits: the outcome stands on disk."""
    from rtx_lab.run import run
    from rtx_lab.sweep.leases import take_device
    from rtx_lab.sweep.slots import find_devices

    if "joblib" in str(HydraConfig.get().launcher._target_) and HydraConfig.get().mode == RunMode.MULTIRUN:
        take_device(find_devices(os.environ))
    logging.raiseExceptions = False  # on a full disk the log cannot be written, and the reason must not drown in that
    result = run(config)
    note_end(result.get("exit_code", EXIT_CODES.get(result["status"], 1)))
    return result.get("objective")


def note_end(code: int) -> None:
    """Take the exit code of a job that has ended."""
    _exit_codes.append(code)


def _exit_code() -> int:
    """That of a single run; of a sweep whose sweeper does not end with one itself, what its jobs say together."""
    stopped = [code for code in _exit_codes if code > 128]
    if stopped or not _SWEEP & {*sys.argv}:
        return (stopped or _exit_codes or [0])[-1]
    return EXIT_PARTLY_FAILED if any(_exit_codes) else 0


def enter(main: Callable[[], Any]) -> int:
    """Run a Hydra main and return the exit code: 0 done, 2 usage, 1 failed, 4 partly failed, 130/143 stopped."""
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in _SWEEP)  # wherever -m was typed
    _exit_codes.clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its own errors and exits before we can explain them
    before = {signum: signal.signal(signum, leave) for signum in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        main()
    except KeyboardInterrupt:
        print("stopped outside of a run; nothing is half-written", file=sys.stderr)
        return 130
    except UsageError as error:
        return report(error.problems)
    except RunError as error:
        return report([str(error)], code=1)
    except (HydraException, OmegaConfBaseException) as error:
        return _explain(error)
    except Exception as error:
        return _explain(error) if _is_of_the_command_line(error) else unexpected(error)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return _exit_code()


def _is_of_the_command_line(error: Exception) -> bool:
    too_long = isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG  # Hydra looks for a file of that name
    bad_words = isinstance(error, ValueError) and str(error).startswith((*_BAD_WORDS, *_BAD_FILES))
    return too_long or bad_words or isinstance(error, YAMLError)


def unexpected(error: Exception) -> int:
    """One sentence for an error that nobody foresaw, and the exit code; what the disk refuses is foreseen."""
    if os.environ.get("RTX_LAB_TRACEBACK") == "1":
        raise error
    if isinstance(error, OSError) and error.filename is not None:
        return report([f"cannot use {error.filename}: {error.strerror}; free space or change its permissions"], code=1)
    first = (str(error).strip() or "no message").splitlines()[0]
    if first.startswith("No trials are completed yet"):  # hydra-optuna-sweeper's way to say it
        return report(["every job of the search failed: the reasons stand above and in the run directories"], code=1)
    line = f"unexpected {type(error).__name__}: {first} (RTX_LAB_TRACEBACK=1 shows where; please report it)"
    return report([line], code=1)


def report(problems: list[str], *, code: int = 2) -> int:
    """Print one line per problem on standard error and return the exit code."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return code


def _explain(error: Exception) -> int:
    """Turn an error that Hydra met while composing into sentences about the command line."""
    inner = error
    while inner is not None:
        if isinstance(inner, UsageError):
            return report(inner.problems)
        inner = inner.__cause__ or inner.__context__
    from rtx_lab.sweep.diagnosis import diagnose

    return report(diagnose(sys.argv[1:], error))
