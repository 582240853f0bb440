"""What to say of a job that does not fit: what it needs, what there is, and the least change that makes it fit."""

from __future__ import annotations

import bisect
import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rtx_lab.core.device import GB
from rtx_lab.core.memory import room_bytes
from rtx_lab.core.schema import Settled, settle
from rtx_lab.pricing.calibration import Calibration
from rtx_lab.pricing.data import shape_of
from rtx_lab.pricing.price import Price, price
from rtx_lab.pricing.trace import longest_tokens, state_bytes

PLAIN_OPTIMIZER = "rtx_lab.optim.adamw"
SMALLER_OPTIMIZERS = ("rtx_lab.optim.adamw_8bit", "rtx_lab.optim.adamw_paged")


@dataclass(frozen=True, slots=True)
class _Change:
    """A setting, and the values to try, from the least to the most saving."""

    section: str
    key: str
    values: tuple[Any, ...]

    def override(self, value: Any) -> str:
        if self.section == "optim":
            return f"optim={value.rpartition('.')[2]}"
        return f"{self.section}.{self.key}={str(value).lower()}"


def refusal(settled: Settled, priced: Price, calibration: Calibration | None = None) -> str:
    """One sentence: what the job needs and of what, what the machine offers, and what to change. GB are 1e9 bytes."""
    memory_gb = settled.run.hardware.memory_gb or 0.0
    change = smallest_change(settled, priced, calibration)
    way_out = f"it fits with {change}" if change else "no single setting makes it fit: choose a smaller model"
    needs = f"it needs {_decimal(priced.peak_bytes)}, {_decimal(priced.states)} of them for states"
    sizes = {"weights": priced.weights, "gradients": priced.gradients, "optimizer": priced.optimizer}
    split = ", ".join(f"{name} {_decimal(size)}" for name, size in sizes.items())
    card = f"{priced.hardware} has {memory_gb:g} GiB = {_decimal(memory_gb * GB)}, {_decimal(priced.room_bytes)} usable"
    return f"{needs} ({split}) and {_decimal(priced.activations)} for activations, but {card}; {way_out}"


def smallest_change(settled: Settled, priced: Price, calibration: Calibration | None = None) -> str | None:
    """The least intrusive overrides with which the job fits, as one would type them; None if none is known or needed.

    Tried in this order, then in pairs: smaller micro-batch (the largest that fits), smaller evaluation batch, gradient
    checkpointing, 8-bit and paged optimizer, `connection=diag` for dense maps. Each answer was priced.
    """
    if priced.fits:
        return None
    single = list(_changes(settled, priced))
    for changes in [*((change,) for change in single), *itertools.combinations(single, 2)]:
        if changes[0].key == changes[-1].key and len(changes) == 2:
            continue
        found = _least(settled, changes, calibration)
        if found is not None:
            return " ".join(change.override(value) for change, value in zip(changes, found, strict=True))
    return None


def _changes(settled: Settled, priced: Price) -> Iterator[_Change]:
    """What may help this job, least intrusive first."""
    run = settled.run
    if not priced.training_fits:
        by_tokens = run.budget.micro_tokens is not None
        sizes = [n for n in range(priced.micro_batch - 1, 0, -1) if by_tokens or run.budget.global_batch % n == 0]
        if sizes and by_tokens:
            each = longest_tokens(shape_of(run).dataset)
            yield _Change("budget", "micro_tokens", tuple(n * each for n in sizes))
        elif sizes:
            yield _Change("budget", "micro_batch", tuple(sizes))
    if not priced.evaluation_fits and (run.budget.eval_batch or 1) > 1:
        size = run.budget.eval_batch or 1
        yield _Change("budget", "eval_batch", tuple(size >> power for power in range(1, size.bit_length())))
    if not priced.training_fits and not run.budget.gradient_checkpointing:
        yield _Change("budget", "gradient_checkpointing", (True,))
    if run.optim.get("_target_") == PLAIN_OPTIMIZER:
        for target in SMALLER_OPTIMIZERS:
            yield _Change("optim", "_target_", (target,))
    if run.model.get("connection") == "dense":
        yield _Change("model", "connection", ("diag",))


def _least(settled: Settled, changes: tuple[_Change, ...], calibration: Calibration | None) -> list[Any] | None:
    """The least saving value of every change with which the job fits; None if it does not with the most saving ones.

    Memory grows with each value on its own, so that one can be searched after the other, by halving.
    """

    def fits(values: list[Any]) -> bool:
        config = copy.deepcopy(settled.config)
        for change, value in zip(changes, values, strict=True):
            config[change.section][change.key] = value
        job = settle(config)
        return _states_fit(job) and price(job, calibration).fits

    chosen = [change.values[-1] for change in changes]
    if not fits(chosen):
        return None
    for place, change in enumerate(changes):
        first = bisect.bisect_left(
            change.values, True, key=lambda value: fits([*chosen[:place], value, *chosen[place + 1 :]])
        )
        chosen[place] = change.values[min(first, len(change.values) - 1)]
    return chosen


def _states_fit(settled: Settled) -> bool:
    """Whether at least the states fit: told in a fraction of the time of a price."""
    states = state_bytes(settled.run)
    held = states.weights + states.gradients + states.optimizer - states.paged
    return held <= room_bytes(settled.run.hardware.memory_gb or 0.0)


def _decimal(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
