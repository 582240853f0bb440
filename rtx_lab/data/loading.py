"""Batches in the order of the steps, made here or in worker processes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from types import TracebackType

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rtx_lab.core.partition import partition
from rtx_lab.core.types import Batch, Cut
from rtx_lab.data.batching import StepPlan, by_length, cut
from rtx_lab.data.collate import collate, collate_options
from rtx_lab.data.text import Split


class StepDataset(Dataset[list[Batch]]):
    """Optimizer steps by number: item s is this rank's micro-batches of step s (the first is 1)."""

    def __init__(self, split: Split, cut: Cut) -> None:
        self.split, self.cut = split, cut
        self.lengths = split.lengths if cut.micro_tokens is None else both_lengths(split)
        self.plan = StepPlan(self.lengths, seed=cut.seed, global_batch=cut.global_batch, sort_window=cut.sort_window)

    def __getitem__(self, step: int) -> list[Batch]:
        own = self.cut
        pieces = cut(
            self.plan.indices(step), self.lengths, micro_batch=own.micro_batch, micro_tokens=own.micro_tokens,
            rank=own.rank, world_size=own.world_size,
        )  # fmt: skip
        return [collate(self.split, rows) for rows in pieces]

    def load(self, start: int, stop: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of the optimizer steps start + 1 .. stop, see `step_loader`."""
        own = self.cut
        return step_loader(self, start=start, stop=stop, num_workers=own.num_workers, pin_memory=own.pin_memory)

    def row_ids(self, step: int) -> list[str]:
        """The ids of the rows that make up an optimizer step, over all ranks."""
        return [self.split.record(int(row))["id"] for row in self.plan.indices(step)]


def both_lengths(split: Split) -> np.ndarray:
    """Tokens of every source and target as batches hold them, ends included: (n, 2) int64."""
    return np.stack([split.source_lengths, split.target_lengths + 1], axis=1)


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


def held_out_batches(
    split: Split,
    *,
    batch_size: int,
    max_tokens: int | None = None,
    rows: np.ndarray | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Yield every row, or each of `rows`, once (this rank's share), alike in length together, longest first.

    A batch holds at most `batch_size` samples and, with `max_tokens`, at most that many tokens with their padding (a
    longer sample stands alone). Batches have options where rows have.
    """
    chosen = np.arange(len(split)) if rows is None else np.asarray(rows)
    if max_tokens is None:
        order = by_length(chosen, split.lengths)[::-1]
        pieces = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    else:
        lengths = both_lengths(split)
        order = by_length(chosen, lengths)
        groups = partition(lengths[order], max_tokens, most_rows=batch_size)
        pieces = [order[group][::-1] for group in reversed(groups)]
    for piece in pieces[rank::world_size]:
        yield collate_options(split, piece)


def _begin_worker(worker: int) -> None:
    """Leave Ctrl-C to the main process, which ends its workers without a traceback from each."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _tell_what_is_not_the_end
    torch.set_num_threads(1)


def _tell_what_is_not_the_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception of a worker's thread, but not that the main process was stopped while it took a batch."""
    if not issubclass(kind, EOFError | ConnectionError | AuthenticationError):
        sys.__excepthook__(kind, error, trace)
