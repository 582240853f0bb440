"""What one run directory tells of its run: how it stands, how far it is, when it will be through."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rtx_lab.commands.places import signature_of
from rtx_lab.core.rundir import RunDir, read_json

_HINTS = {"killed": "run the same command again to continue", "interrupted": "run the same command again to continue"}
_RECENT = 5
"""Logged lines whose step times tell the pace of now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one run directory tells; None where it does not. `eta_s` is the time that training still takes.

    `name` is that of the directory without the signature, which stands beside it.
    """

    path: str
    phase: str
    name: str
    status: str
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    eta_s: float | None = None
    monitor: str | None = None
    best: float | None = None
    best_step: int | None = None
    accuracy: float | None = None
    accuracy_low: float | None = None
    accuracy_high: float | None = None
    time_s: float | None = None
    note: str = ""
    signature: str = ""

    @property
    def folder(self) -> str:
        """The name with its signature: that of the run directory."""
        return f"{self.name}-{self.signature}" if self.signature and self.name else self.name or self.signature


def read_row(run: RunDir) -> Row:
    """Read one run directory; whatever is damaged becomes the status `broken` with a note, never an error."""
    place: dict[str, Any] = {"path": str(run.path), **_named(run.path)}
    try:
        return _read(run, place)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return Row(**place, status="broken", note=f"{type(error).__name__}: {' '.join(str(error).split())}")


def waiting(folder: Path) -> Row:
    """The row of a job that a sweep has named and that has no directory yet."""
    return Row(path=str(folder), **_named(folder), status="waiting")


def _named(folder: Path) -> dict[str, Any]:
    folder = Path(os.path.abspath(folder))
    signature = signature_of(folder.name)
    name = folder.name.removesuffix(signature).removesuffix("-") if signature else folder.name
    return {"phase": folder.parent.name, "name": name, "signature": signature}


def _read(run: RunDir, place: dict[str, Any]) -> Row:
    status, result = run.status(), run.read_result()
    if status == "running":
        return _running(run, place)
    if result is None and run.result_path.exists():
        return Row(**place, status="broken", note="result.json cannot be read: run the same command again")
    if status == "new":
        return Row(**place, status="waiting" if run.plan_path.exists() else "new", total_steps=_total_steps(run, {}))
    return _ended(run, place, status, result or {})


def _ended(run: RunDir, place: dict[str, Any], status: str, result: Mapping[str, Any]) -> Row:
    whole = status == "done" and result.get("steps") is not None  # then the curves have nothing to add
    last, found = ({}, {}) if whole else _last_metrics(run)
    metrics, best = result.get("metrics") or {}, result.get("best") or found
    step = first_number(result.get("steps"), last.get("step"), best.get("step"))
    total = first_number(result.get("total_steps"))
    note = str(result.get("reason") or "") if status != "done" else ""
    return Row(
        **place,
        status=status,
        step=None if step is None else int(step),
        total_steps=_total_steps(run, last) if total is None else int(total),
        loss=first_number(last.get("loss")),
        monitor=result.get("monitor"),
        best=first_number(best.get("value")),
        best_step=best.get("step"),
        accuracy=first_number(metrics.get("test/accuracy")),
        accuracy_low=first_number(metrics.get("test/accuracy_low")),
        accuracy_high=first_number(metrics.get("test/accuracy_high")),
        time_s=first_number(result.get("time_s")),
        note=" ".join(note.split()) or _HINTS.get(status, ""),
    )


def _running(run: RunDir, place: dict[str, Any]) -> Row:
    """A run at work; a result that stands there is of an earlier attempt."""
    last, best = _last_metrics(run)
    total, step = _total_steps(run, last), first_number(last.get("step"))
    since = run.config_path if run.config_path.exists() else run.lock_path  # written anew at each start
    return Row(
        **place,
        status="running",
        step=None if step is None else int(step),
        total_steps=total,
        loss=first_number(last.get("loss")),
        eta_s=None if total is None or step is None else _time_left(run, last, max(0, total - int(step))),
        best=first_number(best.get("value")),
        best_step=best.get("step"),
        time_s=max(0.0, time.time() - since.stat().st_mtime),
    )


def _time_left(run: RunDir, last: Mapping[str, Any], steps: int) -> float | None:
    """Steps left at the pace of the last logged ones, and what evaluations and checkpoints took of each step so far."""
    if "pace_s" not in last:
        return None
    age_s = max(0.0, time.time() - run.metrics_path.stat().st_mtime)
    return max(0.0, steps * (last["pace_s"] + _aside(run, last["mean_pace_s"])) - age_s)


def _aside(run: RunDir, pace_s: float) -> float:
    """Time per step beside training itself, from the newest checkpoint, which knows the time of the whole loop."""
    newest = max(run.checkpoints.glob("step-*"), default=None)
    state = ((read_json(newest / "state.json") or {}).get("state") or {}) if newest is not None else {}
    step, time_s = first_number(state.get("step")), first_number(state.get("time_s"))
    return max(0.0, time_s / step - pace_s) if step and time_s is not None else 0.0


def _last_metrics(run: RunDir) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the last logged values with the pace (s per step, recent and mean), and the best validation accuracy."""
    last: dict[str, Any] = {}
    best: dict[str, Any] = {}
    paces: list[float] = []
    for record in run.read_metrics():
        last |= {key: record[key] for key in ("step", "total_steps", "loss") if key in record}
        pace = first_number(record.get("step_time_s"))
        paces += [] if pace is None else [pace]
        value = first_number(record.get("validation/accuracy"))
        if value is not None and value > best.get("value", float("-inf")):
            best = {"step": record.get("step"), "value": value}
    if paces:
        last |= {"pace_s": median(paces[-_RECENT:]), "mean_pace_s": sum(paces) / len(paces)}
    return last, best


def _total_steps(run: RunDir, last: Mapping[str, Any]) -> int | None:
    """The steps to be done: as logged, as planned, or as the configuration says."""
    planned = (run.read_plan() or {}).get("price") or {}
    total = first_number(last.get("total_steps"), planned.get("steps"))
    if total is not None or not run.config_path.exists():
        return None if total is None else int(total)
    import yaml

    try:
        config = yaml.safe_load(run.config_path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError("config.yaml is not valid YAML") from error
    if not isinstance(config, dict) or not isinstance(config.get("budget"), dict):
        raise ValueError("config.yaml is not that of a run")
    return config["budget"].get("steps")


def first_number(*values: Any) -> float | None:
    """Return the first value that is a number."""
    return next((value for value in values if isinstance(value, int | float)), None)


def duration(time_s: float | None) -> str:
    """Return seconds as '45 s', '12 min 5 s' or '3 h 7 min'."""
    if time_s is None:
        return "-"
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
