"""Evaluate a model on a held-out split: every row once, predictions free of labels, out-of-memory survived."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from rtx_lab.core.device import Device
from rtx_lab.core.memory import with_halving
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
) -> tuple[dict[str, Any], list[Record]]:
    """Score every row of `split`; return its metrics and one record per row, in row order.

    Under torchrun each rank scores its share and every rank returns the whole. A batch that does not fit is scored in
    halves. `check` is called before each batch and may raise (`StopSignal.check`).
    """
    was_training = model.training
    model.eval()
    records: list[Record] = []
    limit: int | None = None
    failure: Exception | None = None
    try:
        with torch.inference_mode(), device.autocast:
            for number, batch in enumerate(task.held_out(split)):
                check()
                if number % ranks.world_size == ranks.rank:
                    scored, limit = with_halving(
                        lambda piece: task.score(model, device.move(piece), split), batch, limit, device.release
                    )
                    records += scored
    except Exception as error:
        failure = error
    model.train(was_training)
    records = sorted(_gather(records, failure, ranks), key=lambda record: record["row"])
    return task.summarise(records) | task.inspect(model), records


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
