"""Processes of a test: who holds a run, and waiting for something that another process does."""

import fcntl
import os
import struct
import time
from pathlib import Path

_FLOCK = "hhqqi"
"""l_type, l_whence, l_start, l_len, l_pid of fcntl.h, as 64-bit Linux lays them out."""


def holder(run):
    """The process that holds the lock of a run directory, None where there is none."""
    try:
        with open(run.lock_path, "rb") as file:
            asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, *_, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except OSError:
        return None
    return pid if kind != fcntl.F_UNLCK else None


def descendants(pid):
    """A process and all that it started: of a local sweep its fork server, its resource tracker and its jobs."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def wait_for(condition, seconds=120):
    """Wait until `condition()` is true and return what it said."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("this did not come about")
