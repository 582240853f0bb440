"""Batches in the order of the steps, made here or in worker processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Dataset

from rtx_lab.core.types import Batch
from rtx_lab.data.batching import StepPlan, by_length, cut
from rtx_lab.data.collate import collate, collate_options
from rtx_lab.data.text import Split


class StepDataset(Dataset[list[Batch]]):
    """Optimizer steps by number: item s is this rank's micro-batches of step s (the first is 1)."""

    def __init__(
        self,
        split: Split,
        *,
        seed: int,
        global_batch: int,
        micro_batch: int,
        micro_tokens: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.split = split
        self.plan = StepPlan(split.lengths, seed=seed, global_batch=global_batch)
        self.micro_batch, self.micro_tokens = micro_batch, micro_tokens
        self.rank, self.world_size = rank, world_size

    def __getitem__(self, step: int) -> list[Batch]:
        pieces = cut(
            self.plan.indices(step),
            self.split.lengths,
            micro_batch=self.micro_batch,
            micro_tokens=self.micro_tokens,
            rank=self.rank,
            world_size=self.world_size,
        )
        return [collate(self.split, rows) for rows in pieces]


def step_loader(
    steps: Dataset[list[Batch]], *, start: int, stop: int, num_workers: int = 0, pin_memory: bool = False
) -> Iterator[list[Batch]]:
    """Yield the micro-batches of the optimizer steps start + 1 .. stop, in order, one list per step.

    Pin memory for a GPU only. Workers draw nothing at random: a step is the same for any number of them.
    """
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start + 1, stop + 1),
        num_workers=num_workers,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        worker_init_fn=_begin_worker,
    )
    yield from loader


def held_out_batches(split: Split, *, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
    """Yield every row once (this rank's share), neighbours in length together, longest first, with options."""
    order = by_length(torch.arange(len(split)).numpy(), split.lengths)[::-1]
    for start in list(range(0, len(order), batch_size))[rank::world_size]:
        yield collate_options(split, order[start : start + batch_size])


def _begin_worker(worker: int) -> None:
    """Leave Ctrl-C to the main process, which ends its workers without a traceback from each."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
