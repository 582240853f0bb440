"""Which samples make up an optimizer step, and how a step is cut: pure functions of (seed, step).

Lengths are tokens per sample, (n,) or, source and target apart, (n, 2).
"""

from __future__ import annotations

import numpy as np

from rtx_lab.core.partition import ROUNDED_TO, partition

SORT_WINDOW = 50
"""Global batches that are sorted by length together: more save padding, fewer mix better; 1 mixes at random."""
NOBODY = -1
"""The row of a sample of weight zero."""


def steps_per_epoch(num_samples: int, global_batch: int) -> int:
    """Optimizer steps in which every sample is seen once; the last one may be short."""
    return -(-num_samples // global_batch)


class StepPlan:
    """The samples of every optimizer step, by its number (the first step is 1).

    In each epoch every sample occurs exactly once: the samples are shuffled, sorted by length within runs of
    `sort_window` global batches, cut into global batches, and these are shuffled. The rest that fills no global batch
    is the last step of the epoch. Only the epoch in use is kept, so any step costs the same to begin with.
    """

    def __init__(self, lengths: np.ndarray, *, seed: int, global_batch: int, sort_window: int = SORT_WINDOW) -> None:
        if len(lengths) == 0 or global_batch < 1:
            raise ValueError("a step needs at least one sample and a global batch of at least one")
        self._places = places(lengths)
        self._seed = seed
        self._global_batch = global_batch
        self._sort_window = sort_window
        self.steps_per_epoch = steps_per_epoch(len(lengths), global_batch)
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def indices(self, step: int) -> np.ndarray:
        """The rows (at most global_batch,) int64 of a step, sorted by length."""
        if step < 1:
            raise ValueError(f"optimizer steps are counted from 1, not {step}")
        epoch, turn = divmod(step - 1, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = epoch_order(
                self._places, seed=self._seed, epoch=epoch, global_batch=self._global_batch,
                sort_window=self._sort_window,
            )  # fmt: skip
            self._epoch = epoch
        rows = self._order[turn * self._global_batch : (turn + 1) * self._global_batch]
        return by_length(rows, self._places)


def epoch_order(
    lengths: np.ndarray, *, seed: int, epoch: int, global_batch: int, sort_window: int = SORT_WINDOW
) -> np.ndarray:
    """A permutation (n,) int64 of all rows whose consecutive runs of `global_batch` are the steps of an epoch."""
    lengths = places(lengths)
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = rng.permutation(len(lengths))
    whole = len(order) - len(order) % global_batch
    run = sort_window * global_batch
    runs = [order[start : min(start + run, whole)] for start in range(0, whole, run)]
    batches = [rows[np.argsort(lengths[rows], kind="stable")].reshape(-1, global_batch) for rows in runs]
    if batches:
        order[:whole] = rng.permutation(np.concatenate(batches)).reshape(-1)
    return order


def places(lengths: np.ndarray) -> np.ndarray:
    """Where each sample stands when neighbours shall be alike in length (n,): its length, or of two lengths the source.

    Sources that are padded to the same length stand by their targets, upwards and downwards in turn, so that targets
    do not jump where the next source length begins.
    """
    lengths = np.asarray(lengths)
    if lengths.ndim == 1:
        return lengths
    source, target = lengths.T.astype(np.int64)
    level, most = -(-source // ROUNDED_TO), int(target.max(initial=0))
    return level * (most + 1) + np.where(level % 2, most - target, target)


def by_length(rows: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Rows sorted by length, equal lengths by row."""
    return rows[np.lexsort((rows, places(lengths[rows])))]


def cut(
    indices: np.ndarray,
    lengths: np.ndarray,
    *,
    micro_batch: int | None = None,
    micro_tokens: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> list[np.ndarray]:
    """This rank's micro-batches of a step: neighbours in length, the same number on every rank.

    With `micro_tokens` a micro-batch holds at most that many tokens, sources and targets padded to its longest (a
    longer sample stands alone), and the step is cut as cheaply as can be, see `rtx_lab.core.partition`. Without, it
    holds `micro_batch` samples. The micro-batches of all ranks together are the same for every `world_size`; a rank
    without a share at the end gets one sample of weight zero (row -1).
    """
    rows = by_length(np.asarray(indices), lengths)
    if micro_tokens is None:
        size = micro_batch or len(rows)
        pieces = [rows[start : start + size] for start in range(0, len(rows), size)]
    else:
        pieces = [rows[group] for group in partition(axes(lengths[rows]), micro_tokens)]
    mine = pieces[rank::world_size]
    missing = -(-len(pieces) // world_size) - len(mine)
    return mine + [np.array([NOBODY])] * missing


def axes(lengths: np.ndarray) -> np.ndarray:
    """Lengths with one column for each axis that is padded: (n, 1) or (n, 2)."""
    return lengths[:, None] if lengths.ndim == 1 else lengths
