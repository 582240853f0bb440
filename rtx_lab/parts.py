"""What a settled configuration names, built: dataset, model and task on their device."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from rtx_lab.core import device, parallel, telemetry
from rtx_lab.core.assembly import make_task, prepare
from rtx_lab.core.components import bind
from rtx_lab.core.cutting import BY_SAMPLES, Cutting, by_tokens
from rtx_lab.core.schema import RunConfig
from rtx_lab.core.signals import StopSignal
from rtx_lab.core.types import Cut
from rtx_lab.data import padding
from rtx_lab.evaluate import evaluate


@dataclass(slots=True)
class Parts:
    """Everything that a run is made of once it is built."""

    run: RunConfig
    device: device.Device
    ranks: parallel.Ranks
    dataset: Any
    model: nn.Module
    task: Any
    events: list[dict[str, Any]] = field(default_factory=list)
    energy: telemetry.EnergyMeter = field(default_factory=telemetry.EnergyMeter)

    @property
    def cutting(self) -> Cutting:
        """How micro-batches that do not fit are made smaller."""
        return BY_SAMPLES if self.run.budget.micro_tokens is None else by_tokens(padding.lengths, padding.trim)

    def evaluate(self, split: str, stop: StopSignal, events: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        """Score every row of a split; `events` remembers what did not fit in memory."""
        own = self.model, self.task, split, self.device, self.ranks
        return evaluate(*own, check=stop.check, cutting=self.cutting, events=events)


def build(run: RunConfig) -> Parts:
    """Build dataset, model and task on the device that the configuration names."""
    place = device.setup(run.hardware)
    ranks = parallel.join(place.torch_device.type)
    dataset = bind(run.dataset)()
    place.seed(run.seed)
    model = bind(run.model)().to(place.torch_device)
    budget = run.budget
    cut = Cut(
        seed=run.seed,
        global_batch=budget.global_batch,
        micro_batch=budget.global_batch if budget.micro_batch in (None, "auto") else budget.micro_batch,
        micro_tokens=None if budget.micro_tokens == "auto" else budget.micro_tokens,
        sort_window=budget.sort_window,
        eval_batch=budget.eval_batch or budget.global_batch,
        num_workers=run.hardware.num_workers or 0,
        pin_memory=place.is_cuda,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    task = make_task(run, dataset, cut)
    prepare(task, model)
    return Parts(run, place, ranks, dataset, model, task)
