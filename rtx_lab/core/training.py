"""What a training run is made of: its plan, the state that a checkpoint remembers, and how it may end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from rtx_lab.core.checkpoint import Store
from rtx_lab.core.cutting import BY_SAMPLES, Cutting
from rtx_lab.core.device import Device
from rtx_lab.core.parallel import Ranks
from rtx_lab.core.signals import StopSignal
from rtx_lab.core.types import Record, Task
from rtx_lab.core.update import Update
from rtx_lab.core.window import Window

PURPOSES = ("data", "train", "evaluation", "checkpoint")
"""What a run spends its time on: waiting for batches, steps, looking at held-out data, writing its state."""


class BudgetLike(Protocol):
    """What `Plan.of` reads of the budget section."""

    steps: int | None
    epochs: float | None
    log_every: int
    eval_every: int
    checkpoint_every: Any
    patience: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How many optimizer steps, and after how many of them to log, evaluate and save (the last always)."""

    steps: int
    log_every: int = 50
    eval_every: int = 500
    checkpoint_every: int = 500
    patience: int = 5
    """Evaluations without a better monitor after which training ends."""

    @classmethod
    def of(cls, budget: BudgetLike, steps_per_epoch: int) -> Plan:
        """Turn a budget in epochs or steps into steps."""
        steps = budget.steps if budget.steps is not None else round((budget.epochs or 0) * steps_per_epoch)
        every = steps_per_epoch if budget.checkpoint_every == "epoch" else budget.checkpoint_every
        return cls(
            steps=steps, log_every=budget.log_every, eval_every=budget.eval_every,
            checkpoint_every=every, patience=budget.patience,
        )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class TrainState:
    """What a checkpoint remembers beside tensors."""

    step: int = 0
    micro_batch: int | None = None
    """Samples per piece in force after an out-of-memory; None: micro-batches as the task cuts them."""
    micro_tokens: int | None = None
    """Tokens per piece in force after an out-of-memory, where micro-batches are cut by tokens."""
    best: dict[str, float] | None = None
    """`step` and `value` of the best monitor so far."""
    stale: int = 0
    """Evaluations since the best one."""
    evaluated: int = 0
    """Last step that was evaluated."""
    window: dict[str, float] = field(default_factory=dict)
    """Sums since the last logged line, so that a line after a resume is the undisturbed one."""
    events: list[Record] = field(default_factory=list)
    time_s: float = 0.0
    """Time in the loop so far, evaluations and checkpoints included, over all processes that continued the run."""
    time_split_s: dict[str, float] = field(default_factory=dict)
    """What this run's part of `time_s` went into: one entry for each of PURPOSES that took any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How training ended: done, interrupted, diverged or out_of_memory, and what is known then."""

    status: str
    reason: str
    state: TrainState
    signum: int | None
    step_time_s: float | None
    """Mean time of the steps of this process, evaluations and checkpoints left aside."""
    data_wait: float
    """Share of the training time of this process that was spent waiting for data."""
    earlier_s: float
    """Time in the loop of the processes whose work this one continued."""


class Ended(Exception):
    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(slots=True, kw_only=True)
class Training:
    """One run of the loop: everything that its functions share."""

    model: nn.Module
    task: Task
    update: Update
    plan: Plan
    device: Device
    seed: int
    store: Store | None
    log: Callable[[Record], None]
    evaluate: Callable[[], dict[str, Any]]
    stop: StopSignal
    state: TrainState
    ranks: Ranks
    params: list[nn.Parameter]
    window: Window
    apply: Callable[[list[Tensor], Tensor, float], tuple[Tensor, Tensor]]
    cutting: Cutting = BY_SAMPLES
    since: float = field(default_factory=lambda: time.perf_counter())
    """Until when time has been booked."""
    saved: int | None = None
    """Last step that this process saved."""

    def book(self, purpose: str) -> float:
        """Count the time since the last booking as spent on one of PURPOSES; return it in seconds."""
        now = time.perf_counter()
        spent, self.since = now - self.since, now
        split = self.state.time_split_s
        split[purpose] = split.get(purpose, 0.0) + spent
        self.state.time_s += spent
        return spent
