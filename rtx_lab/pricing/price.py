"""What a job costs: memory against the room of its machine, time, energy and disk."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from rtx_lab.core.device import GB
from rtx_lab.core.memory import largest_micro_batch, room_bytes
from rtx_lab.core.schema import RunConfig, Settled
from rtx_lab.core.training import Plan
from rtx_lab.data.batching import steps_per_epoch
from rtx_lab.pricing.calibration import Calibration
from rtx_lab.pricing.data import shape_of
from rtx_lab.pricing.rates import Rates, rates_of, reported_gb, workspace_bytes
from rtx_lab.pricing.trace import Trace, scored_together, task_of, trace
from rtx_lab.pricing.work import total_flops

_PREDICTION_BYTES = 600
"""A row of predictions.jsonl, measured on the built-in data."""


@dataclass(frozen=True, slots=True)
class Price:
    """What one job needs. Sizes are bytes of tensors; `raw` values are those of the trace, before calibration.

    Where training is what peaks, `weights + gradients + optimizer + activations` is `training`; `logits` is the part of
    the activations that the output head makes. `hours` and `kwh` are None on a GPU without stated rates.
    """

    hardware: str
    parameters: int
    micro_batch: int
    weights: int
    gradients: int
    optimizer: int
    paged: int
    activations: int
    logits: int
    training: int
    evaluation: int
    raw_peak_bytes: int
    peak_bytes: int
    predicted_raw_peak_memory_gb: float
    predicted_peak_memory_gb: float
    room_bytes: int
    training_fits: bool
    evaluation_fits: bool
    flops_per_step: int
    steps: int
    raw_step_time_s: float | None
    step_time_s: float | None
    hours: float | None
    kwh: float | None
    disk_gb: float

    @property
    def fits(self) -> bool:
        """Whether training and scoring both stay within the room."""
        return self.training_fits and self.evaluation_fits

    @property
    def states(self) -> int:
        """Weights, gradients and optimizer state."""
        return self.weights + self.gradients + self.optimizer

    def as_plain(self) -> dict[str, Any]:
        """The fields, and whether it fits, as JSON values."""
        return asdict(self) | {"fits": self.fits}


def price(settled: Settled, calibration: Calibration | None = None) -> Price:
    """Price one settled job; needs no data, GPU or network.

    With a calibration, `peak_bytes`, `fits` and the times are corrected by finished runs of the same hardware.
    Lengths are the longest that the dataset allows, so time and memory are upper ends.
    """
    run, calibration = settled.run, calibration or Calibration()
    traced = trace(run, _micro_batch(run, calibration))
    shape = shape_of(run)
    task = task_of(run, shape.dataset, traced.samples)
    rows = {"train": shape.num_rows["train"]} | {name: task.num_scored(name) for name in ("validation", "test")}
    prompts = max(1, round(rows["train"] * run.task.get("prompts_share", 1.0)))  # of tasks that write what they learn
    turns = steps_per_epoch(prompts, run.budget.global_batch)
    plan = Plan.of(run.budget, turns * run.task.get("num_iterations", 1))
    raw = max(_on_device(run, traced, part) for part in (traced.training, traced.evaluation))
    training, evaluation = (
        math.ceil(_on_device(run, traced, part) * calibration.memory_ratio)
        for part in (traced.training, traced.evaluation)
    )
    rates = rates_of(run.hardware)
    raw_step_s = _step_seconds(traced, rates)
    step_s = None if raw_step_s is None else raw_step_s * calibration.time_ratio
    together = scored_together(run, shape.dataset, traced.samples)
    hours = None if rates is None or step_s is None else _hours(traced, plan, rows, together, rates, step_s)
    watts = rates.power_w if rates else None
    return Price(
        hardware=run.hardware.name,
        parameters=traced.parameters, micro_batch=traced.samples,
        weights=traced.weights, gradients=traced.gradients, optimizer=traced.optimizer, paged=traced.paged,
        activations=traced.activations, logits=traced.logits,
        training=traced.training, evaluation=traced.evaluation,
        raw_peak_bytes=raw, peak_bytes=max(training, evaluation),
        predicted_raw_peak_memory_gb=reported_gb(run.hardware, raw),
        predicted_peak_memory_gb=reported_gb(run.hardware, raw) * calibration.memory_ratio,
        room_bytes=int(_room(run)), training_fits=training <= _room(run), evaluation_fits=evaluation <= _room(run),
        flops_per_step=traced.num_micro_batches * total_flops(traced.micro_batch_work),
        steps=plan.steps, raw_step_time_s=raw_step_s, step_time_s=step_s,
        hours=hours, kwh=hours * watts / 1000 if hours is not None and watts else None,
        disk_gb=_disk_bytes(run, traced, plan, rows["test"]) / GB,
    )  # fmt: skip


def _room(run: RunConfig) -> float:
    return room_bytes(run.hardware.memory_gb or 0.0)


def _on_device(run: RunConfig, traced: Trace, peak: int) -> int:
    """What a peak takes of the device: without paged state, which does not have to be there, with the workspace."""
    paged = traced.paged if run.hardware.device == "cuda" else 0
    return peak - paged + workspace_bytes(run.hardware)


def _micro_batch(run: RunConfig, calibration: Calibration) -> int:
    """The micro-batch as configured; for `auto` the largest divisor that fits, judged by two small sizes.

    Under `budget.micro_tokens` the whole step, which `trace` makes smaller.
    """
    if "auto" not in (run.budget.micro_batch, run.budget.micro_tokens):
        return run.budget.micro_batch or run.budget.global_batch

    def needed(size: int) -> float:
        traced = trace(run, size)
        return _on_device(run, traced, traced.training) * calibration.memory_ratio

    return largest_micro_batch(run.budget.global_batch, needed, _room(run))


def _step_seconds(traced: Trace, rates: Rates | None) -> float | None:
    if rates is None:
        return None
    return traced.num_micro_batches * rates.seconds(traced.micro_batch_work) + rates.seconds(traced.update_work)


def _hours(traced: Trace, plan: Plan, rows: dict[str, int], together: int, rates: Rates, step_s: float) -> float:
    """Training to the last step with all its evaluations, and the final scoring of validation and test."""
    batch_s = rates.seconds(traced.evaluation_work)
    batches = {name: -(-count // together) for name, count in rows.items()}
    looks = -(-plan.steps // plan.eval_every)
    scored = (looks + 1) * batches["validation"] + batches["test"]
    return (plan.steps * step_s + scored * batch_s) / 3600


def _disk_bytes(run: RunConfig, traced: Trace, plan: Plan, num_test: int) -> int:
    """The checkpoints that are kept, the best among them, and the predictions; frozen weights are in none."""
    saved = -(-plan.steps // max(1, min(plan.checkpoint_every, plan.eval_every)))
    kept = min(run.budget.keep_last + 1, saved)
    return kept * (traced.gradients + traced.optimizer) + num_test * _PREDICTION_BYTES
