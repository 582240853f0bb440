"""Evaluate a model on a held-out split: every row once, predictions free of labels, out-of-memory survived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from rtx_lab.core.cutting import BY_SAMPLES, Cutting, in_pieces
from rtx_lab.core.device import Device
from rtx_lab.core.parallel import Ranks
from rtx_lab.core.signals import Stopped
from rtx_lab.core.types import Record, Task


def evaluate(
    model: nn.Module,
    task: Task,
    split: str,
    device: Device,
    ranks: Ranks,
    *,
    check: Callable[[], None] = lambda: None,
    cutting: Cutting = BY_SAMPLES,
    events: list[Record] | None = None,
) -> tuple[dict[str, Any], list[Record]]:
    """Score every row of `split`; return its metrics and one record per row, in row order.

    Under torchrun each rank scores its share and every rank returns the whole. A batch that does not fit is scored in
    smaller pieces, cut by `cutting`; that is added to `events`, and what the last such event of this split says holds
    from the start. `check` is called before each batch and may raise (`StopSignal.check`).
    """
    events = [] if events is None else events

    was_training = model.training
    model.eval()
    records: list[Record] = []
    limit = _limit_in_force(events, split, cutting)
    failure: Exception | None = None
    try:
        with torch.no_grad(), device.autocast:  # not inference_mode: a predictor may take gradients of its own
            for number, batch in enumerate(task.held_out(split)):
                check()
                if number % ranks.world_size == ranks.rank:
                    scored, limit = in_pieces(
                        lambda piece: task.score(model, device.move(piece), split),
                        batch, limit, cutting, device.release, lambda event: events.append(event | {"split": split}),
                    )  # fmt: skip
                    records += scored
    except Exception as error:
        failure = error
    model.train(was_training)
    records = sorted(_gather(records, failure, ranks), key=lambda record: record["row"])
    return task.summarise(records) | task.inspect(model), records


def _limit_in_force(events: list[Record], split: str, cutting: Cutting) -> int | None:
    """What an earlier evaluation of the split was left with after an out-of-memory."""
    own = [event for event in events if event.get("split") == split and cutting.name in event]
    return own[-1]["retried_with"] if own else None


def _gather(records: list[Record], failure: Exception | None, ranks: Ranks) -> list[Record]:
    """The records of all ranks; a failure of one is raised on every rank, or the others would wait for it for ever."""
    failed = bool(ranks.max_host([float(failure is not None)])[0])
    if failed:
        raise failure or Stopped("another process stopped")
    if ranks.alone:
        return records
    shares: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(shares, records)
    return [record for share in shares for record in share]
