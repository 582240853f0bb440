"""The steps since the last logged line: device tensors that are only read when the line is written, and the times."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rtx_lab.core.parallel import Ranks

_RATES = {"tokens": "tokens_per_s", "padded_tokens": "padded_tokens_per_s"}
"""Sums of a task's loss that are logged per second; all others are logged per unit of weight."""


class Window:
    """Collects steps without reading them; `drain` reads them in one go, `line` sums them up.

    `sums` belongs to the caller and holds what was read since the last line, as plain numbers added one step after
    another, so that a run continued from there logs the line of an undisturbed run.
    """

    def __init__(self, sums: dict[str, float]) -> None:
        self.sums = sums
        self._steps: list[int] = []
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._refused: list[Tensor] = []
        self._metrics: dict[str, list[Tensor]] = {}
        self._weight: list[float] = []
        self._num_samples = 0.0
        self._wait_s = self._all_wait_s = self._all_s = 0.0
        self._all_steps = 0
        self._since = time.perf_counter()

    def add(self, step: int, loss: Tensor, norm: Tensor, refused: Tensor, weight: float, num_samples: float) -> None:
        """Take the summed loss, the gradient norm and the flag of a step, unread, its summed weight, its samples."""
        self._steps.append(step)
        self._losses.append(loss)
        self._norms.append(norm)
        self._refused.append(refused)
        self._weight.append(weight)
        self._num_samples += num_samples

    def add_metrics(self, metrics: Mapping[str, Tensor]) -> None:
        """Take further sums of one micro-batch of this process, unread."""
        for name, value in metrics.items():
            self._metrics.setdefault(name, []).append(value.detach())

    def waited(self, seconds: float) -> None:
        """Count time that was spent waiting for data."""
        self._wait_s += seconds

    def start_clock(self) -> None:
        """Begin to count training time, after something else (an evaluation, a checkpoint) was done."""
        self._since = time.perf_counter()

    def drain(self, ranks: Ranks) -> list[int]:
        """Read all collected steps, here waiting for the device, and return those whose update was refused."""
        losses, norms = _read(self._losses), _read(self._norms)
        refused = [step for step, flag in zip(self._steps, _read(self._refused), strict=True) if flag]
        for loss, norm, weight in zip(losses, norms, self._weight, strict=True):
            self._count("loss", loss)
            self._count("grad_norm", norm)
            self._count("weight", weight)
            self._count("steps", 1)
        names = sorted(self._metrics)
        own = [_total(_read(self._metrics[name])) for name in names]
        for name, value in zip(names, ranks.sum_host(own) if names else [], strict=True):
            self._count(f"metrics/{name}", value)
        self._count("samples", self._num_samples)
        now = time.perf_counter()
        self._count("time_s", now - self._since)
        self._count("wait_s", self._wait_s)
        self._all_steps += len(self._steps)
        self._all_s, self._all_wait_s = self._all_s + now - self._since, self._all_wait_s + self._wait_s
        self._since, self._wait_s, self._num_samples = now, 0.0, 0.0
        for pending in (self._steps, self._losses, self._norms, self._refused, self._weight, self._metrics):
            pending.clear()
        return refused

    def line(self) -> dict[str, float]:
        """What is logged of the drained steps; begins a new window."""
        sums = self.sums
        steps, seconds, weight = sums.get("steps", 0), sums.get("time_s", 0.0) or 1e-9, sums.get("weight", 0.0)
        line = {
            "loss": sums.get("loss", 0.0) / (weight or 1.0),
            "grad_norm": sums.get("grad_norm", 0.0) / max(steps, 1),
        }
        line["step_time_s"] = seconds / max(steps, 1)
        line["data_wait"] = sums.get("wait_s", 0.0) / seconds
        line["samples_per_s"] = sums.get("samples", 0.0) / seconds
        line["tokens_per_s"] = weight / seconds
        for key, value in sums.items():
            name = key.removeprefix("metrics/")
            if name in _RATES:
                line[_RATES[name]] = value / seconds
            elif name != key:
                line[name] = value / (weight or 1.0)
        sums.clear()
        return line

    def times(self) -> dict[str, Any]:
        """Of this process: the mean time of a step, None before the first, and the share spent waiting for data."""
        mean = self._all_s / self._all_steps if self._all_steps else None
        return {"step_time_s": mean, "data_wait": self._all_wait_s / self._all_s if self._all_s else 0.0}

    def _count(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value


def _read(values: list[Tensor]) -> list[float]:
    return torch.stack(values).tolist() if values else []


def _total(values: list[float]) -> float:
    """Add one after another: `sum` compensates rounding on newer Pythons, and cutting the list would show."""
    total = 0.0
    for value in values:
        total += value
    return total
