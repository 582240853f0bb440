"""A GPU of its own for each worker of a launcher that knows nothing of GPUs, as joblib's.

A worker leases a device for as long as it lives, before CUDA starts in it: a later job in the same process could not
change it any more. Leases are locks on files, so they end with the process, however that ends.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

MOST_WORKERS = 64
"""Workers that may share one device; far more than any card holds."""

_held: list[IO[bytes]] = []
"""The lock file of this process, open until it ends."""


def take_device(devices: Sequence[str], folder: Path | None = None) -> str | None:
    """Lease the device with the fewest workers and make it the only one that CUDA will see in this process.

    Returns its name, or None where this process has one already, or where there is nothing to choose.
    """
    if _held or len(devices) < 2:
        return None
    place = folder or Path(tempfile.gettempdir()) / f"rtx_lab-gpus-{os.getuid()}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    for seat in range(MOST_WORKERS):
        for device in devices:
            file = open(place / f"{device.replace('/', '_')}-{seat}.lock", "a+b")  # noqa: SIM115  open as long as we live
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                continue
            _held.append(file)
            os.environ["CUDA_VISIBLE_DEVICES"] = device
            return device
    return None
