"""What finished runs say about prices: measured against predicted, on the same hardware."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FEWEST_RUNS = 3
SMALLEST_RATIO = 0.9
"""A calibrated memory price is never less than this share of the traced one."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Factors that turn traced into expected values, and from how many runs they come (0: none, factors 1)."""

    memory_ratio: float = 1.0
    time_ratio: float = 1.0
    num_memory: int = 0
    num_time: int = 0


def calibrate(root: Path, hardware_name: str) -> Calibration:
    """Read the results below `root` of runs on the named hardware; fewer than three leave a factor at 1.

    Reads `result.json` alone: its `peak_memory_gb` against `price.predicted_raw_peak_memory_gb`, its `step_time_s`
    against `price.raw_step_time_s`. Both are medians of ratios. Runs that are not done, or that had to halve their
    micro-batch, say nothing about their price.
    """
    memory: list[float] = []
    time: list[float] = []
    for result in _results(root, hardware_name):
        priced = result["price"]
        memory += _ratio(result.get("peak_memory_gb"), priced.get("predicted_raw_peak_memory_gb"))
        time += _ratio(result.get("step_time_s"), priced.get("raw_step_time_s"))
    return Calibration(
        memory_ratio=max(SMALLEST_RATIO, statistics.median(memory)) if len(memory) >= FEWEST_RUNS else 1.0,
        time_ratio=statistics.median(time) if len(time) >= FEWEST_RUNS else 1.0,
        num_memory=len(memory),
        num_time=len(time),
    )


def _results(root: Path, hardware_name: str) -> Iterator[dict[str, Any]]:
    wanted = json.dumps(hardware_name, ensure_ascii=False).encode()
    for path in sorted([*root.glob("*/result.json"), *root.glob("*/*/result.json")]):
        try:
            text = path.read_bytes()
            result = json.loads(text) if wanted in text else None
        except (OSError, ValueError):
            continue
        if isinstance(result, dict) and _counts(result, hardware_name):
            yield result


def _counts(result: dict[str, Any], hardware_name: str) -> bool:
    priced, events = result.get("price"), result.get("events") or []
    if not isinstance(priced, dict) or priced.get("hardware") != hardware_name or result.get("status") != "done":
        return False
    return not any(isinstance(event, dict) and event.get("event") == "out_of_memory" for event in events)


def _ratio(measured: Any, predicted: Any) -> list[float]:
    usable = all(isinstance(value, (int, float)) and value > 0 for value in (measured, predicted))
    return [measured / predicted] if usable else []
