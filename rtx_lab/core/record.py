"""What a run's record says of its surroundings: versions, the state of the code, and where a traceback went."""

from __future__ import annotations

import platform
import subprocess
import time
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

from rtx_lab.core.device import Device

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


def times(started_s: float, before: Mapping[str, Any], earlier_s: float) -> dict[str, Any]:
    """When a run began and ended (ISO 8601, UTC) and how long it took in all, of an attempt that began at `started_s`.

    `before` is what stood in result.json when it began; an attempt that was killed left nothing there, but its
    checkpoint tells the time in the loop, `earlier_s`.
    """
    now_s, spent_s = time.time(), before.get("time_s")
    known_s = float(spent_s) if isinstance(spent_s, int | float) else 0.0
    return {
        "time_s": round(now_s - started_s + max(known_s, earlier_s), 3),
        "started_at": before.get("started_at") or _moment(started_s),
        "ended_at": _moment(now_s),
    }


def _moment(time_s: float) -> str:
    return datetime.fromtimestamp(int(time_s), UTC).isoformat()


def memory(lines: Sequence[Mapping[str, Any]], device: Device) -> dict[str, float | None]:
    """Mean and peak memory of a run in GB from its logged lines, those of earlier processes included.

    Allocated (on a CPU the resident size of the process) and reserved; None where nothing was measured.
    """
    told: dict[str, float | None] = {}
    for kind, now in (("memory", device.peak_memory_gb()), ("reserved", device.peak_reserved_gb())):
        levels, peaks = _numbers(lines, f"{kind}_gb"), [*_numbers(lines, f"peak_{kind}_gb"), *([now] if now else [])]
        told[f"mean_{kind}_gb"] = fmean(levels) if levels else None
        told[f"peak_{kind}_gb"] = max(peaks, default=None)
    return told


def _numbers(lines: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float(line[key]) for line in lines if isinstance(line.get(key), int | float)]


def keep_traceback(log: Path) -> None:
    """Append the exception at hand to a log file, so that the terminal can show one sentence."""
    with open(log, "a", encoding="utf-8") as file:
        traceback.print_exc(file=file)
