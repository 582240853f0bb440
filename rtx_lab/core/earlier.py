"""A run that is done and is run anyway: the finished attempt moves aside whole, and goes when the next one is done.

While it moves it lies in `.earlier/`, then in `earlier/`. `result.json` moves first: from then on the folder is that
of an unfinished run, which every start continues, and none of them meets a checkpoint of the finished attempt.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rtx_lab.core.errors import RunError
from rtx_lab.core.rundir import RunDir

_PARTS = ("result.json", "metrics.jsonl", "predictions.jsonl", "checkpoints", "tensorboard")


def set_aside(directory: RunDir, *, run_anyway: bool) -> None:
    """Move a finished attempt that is to be run anyway to `earlier/`, or finish a move that was cut short.

    Call while the lock is held. Raises RunError when the disk refuses.
    """
    moving, kept = directory.path / ".earlier", directory.path / "earlier"
    finished = (directory.read_result() or {}).get("status") == "done"
    if not moving.exists() and not (run_anyway and finished):
        return
    try:
        moving.mkdir(exist_ok=True)
        for name in _PARTS:
            if (directory.path / name).exists():
                os.replace(directory.path / name, moving / name)
        _remove(kept)
        moving.rename(kept)
    except OSError as error:
        raise RunError(
            f"the finished attempt in {directory.path} cannot be moved aside ({error.strerror}); "
            "free space or change its permissions"
        ) from error


def drop(directory: RunDir, result: Mapping[str, Any]) -> None:
    """Delete the earlier attempt once a result that is done stands in its place."""
    if result.get("status") == "done":
        with suppress(OSError):  # what cannot be deleted is in nobody's way
            _remove(directory.path / "earlier")


def _remove(folder: Path) -> None:
    """Delete a folder; one that is half deleted must not pass for a whole one, so it goes by another name first."""
    if folder.exists():
        doomed = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
