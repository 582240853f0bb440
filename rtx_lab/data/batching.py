"""Which samples make up an optimizer step, and how a step is cut: pure functions of (seed, step)."""

from __future__ import annotations

import numpy as np

MEGA_BATCH = 50
"""Global batches that are sorted by length together: more save padding, fewer mix better."""
NOBODY = -1
"""The row of a sample of weight zero."""


def steps_per_epoch(num_samples: int, global_batch: int) -> int:
    """Optimizer steps in which every sample is seen once; the last one may be short."""
    return -(-num_samples // global_batch)


class StepPlan:
    """The samples of every optimizer step, by its number (the first step is 1).

    In each epoch every sample occurs exactly once: the samples are shuffled, sorted by length within runs of
    `MEGA_BATCH` global batches, cut into global batches, and these are shuffled. The rest that fills no global batch
    is the last step of the epoch. Only the epoch in use is kept, so any step costs the same to begin with.

    lengths (n,): tokens per sample.
    """

    def __init__(self, lengths: np.ndarray, *, seed: int, global_batch: int) -> None:
        if len(lengths) == 0 or global_batch < 1:
            raise ValueError("a step needs at least one sample and a global batch of at least one")
        self._lengths = np.asarray(lengths)
        self._seed = seed
        self._global_batch = global_batch
        self.steps_per_epoch = steps_per_epoch(len(lengths), global_batch)
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def indices(self, step: int) -> np.ndarray:
        """The rows (at most global_batch,) int64 of a step, sorted by length."""
        if step < 1:
            raise ValueError(f"optimizer steps are counted from 1, not {step}")
        epoch, turn = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = epoch_order(self._lengths, seed=self._seed, epoch=epoch, global_batch=self._global_batch)
            self._epoch = epoch
        rows = self._order[turn * self._global_batch : (turn + 1) * self._global_batch]
        return by_length(rows, self._lengths)


def epoch_order(lengths: np.ndarray, *, seed: int, epoch: int, global_batch: int) -> np.ndarray:
    """A permutation (n,) int64 of all rows whose consecutive runs of `global_batch` are the steps of an epoch."""
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = rng.permutation(len(lengths))
    whole = len(order) - len(order) % global_batch
    run = MEGA_BATCH * global_batch
    runs = [order[start : min(start + run, whole)] for start in range(0, whole, run)]
    batches = [rows[np.argsort(lengths[rows], kind="stable")].reshape(-1, global_batch) for rows in runs]
    if batches:
        order[:whole] = rng.permutation(np.concatenate(batches)).reshape(-1)
    return order


def by_length(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Rows sorted by length, equal lengths by row."""
    return rows[np.lexsort((rows, lengths[rows]))]


def cut(
    indices: np.ndarray,
    lengths: np.ndarray,
    *,
    micro_batch: int,
    micro_tokens: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> list[np.ndarray]:
    """This rank's micro-batches of a step: neighbours in length, the same number on every rank.

    A micro-batch holds at most `micro_batch` samples and, padded to its longest, at most `micro_tokens` tokens (a
    longer sample stands alone). The micro-batches of all ranks together are the same for every `world_size`; a rank
    without a share at the end gets one sample of weight zero (row -1).
    """
    rows = by_length(np.asarray(indices), lengths)
    pieces: list[np.ndarray] = []
    start = 0
    while start < len(rows):
        stop = min(start + micro_batch, len(rows))
        if micro_tokens is not None:
            padded = lengths[rows[start:stop]] * np.arange(1, stop - start + 1)
            stop = start + max(1, int(np.searchsorted(padded, micro_tokens, side="right")))
        pieces.append(rows[start:stop])
        start = stop
    mine = pieces[rank::world_size]
    missing = -(-len(pieces) // world_size) - len(mine)
    return mine + [np.array([NOBODY])] * missing
