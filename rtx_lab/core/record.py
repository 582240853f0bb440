"""What a run's record says of its surroundings: versions, the state of the code, and where a traceback went."""

from __future__ import annotations

import platform
import subprocess
import traceback
from importlib import metadata
from pathlib import Path

_PACKAGES = ("rtx-lab", "torch", "numpy", "hydra-core", "omegaconf", "transformers", "peft", "datasets", "bitsandbytes")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result may depend on; absent packages are left out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: Path) -> dict[str, str | bool] | None:
    """The commit of the checkout that holds `folder`, and whether files differ from it; None outside a checkout."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def keep_traceback(log: Path) -> None:
    """Append the exception at hand to a log file, so that the terminal can show one sentence."""
    with open(log, "a", encoding="utf-8") as file:
        traceback.print_exc(file=file)
