"""What happens when memory runs out: the same samples again in smaller pieces, by samples or by tokens.

A piece is always cut from one existing micro-batch, so that a step stays the same set of samples.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rtx_lab.core.memory import OutOfMemory, forget, is_out_of_memory, pieces, rows
from rtx_lab.core.partition import group_tokens, partition
from rtx_lab.core.types import Batch, Record

T = TypeVar("T")

TOKENS_KEPT = 0.7
"""Share of a budget of tokens that is left after an out-of-memory: half would often be less than needed."""
_logger = logging.getLogger(__name__)


def shape(batch: Batch) -> list[int]:
    """Samples of a batch, then how long its padded tensors are, as [8, 512, 128] for sources and targets."""
    found = [rows(batch)]
    for value in batch.values():
        if value.ndim > 1 and value.shape[1] != found[-1]:
            found.append(value.shape[1])
    return found


@dataclass(frozen=True, slots=True)
class Cutting:
    """A way to make micro-batches smaller: by samples, or by tokens with their padding."""

    name: str
    """`micro_batch` or `micro_tokens`: the field of the training state that holds the limit, and the key of events."""
    cut: Callable[[Iterable[Batch], int | None], Iterator[Batch]]
    """Pieces of at most so many samples or tokens, in order; without a limit batches stay as they are."""
    size: Callable[[Batch], int]
    kept: float
    """Share of the size of the largest piece that is tried next."""
    shape: Callable[[Batch], list[int]] = shape
    """Samples and lengths of a piece, for people to read."""

    def smaller(self, tried: Iterable[Batch]) -> tuple[Batch, int]:
        """The largest of the pieces that were tried, and the limit to try next.

        Raises OutOfMemory when all of them are single samples.
        """
        divisible = [piece for piece in tried if rows(piece) > 1]
        if not divisible:
            raise OutOfMemory("not even one sample at a time fits in memory: use a smaller model or shorter sequences")
        largest = max(divisible, key=self.size)
        return largest, max(1, int(self.kept * self.size(largest)))

    def event(self, largest: Batch, limit: int) -> Record:
        """What a run remembers of an out-of-memory."""
        size = self.size(largest)
        return {"event": "out_of_memory", self.name: size, "retried_with": limit, "shape": self.shape(largest)}


BY_SAMPLES = Cutting("micro_batch", pieces, rows, kept=0.5)


def by_tokens(lengths: Callable[[Batch], np.ndarray], trim: Callable[[Batch], Batch]) -> Cutting:
    """Cut by tokens, padding included.

    `lengths` gives the tokens of each sample of a host batch along each padded axis (B, K), `trim` a batch without the
    columns that are padding in all of its samples.
    """

    def size(batch: Batch) -> int:
        return group_tokens(lengths(batch))

    def cut(batches: Iterable[Batch], limit: int | None) -> Iterator[Batch]:
        for batch in batches:
            if limit is None or rows(batch) == 1 or size(batch) <= limit:
                yield batch
                continue
            for group in partition(lengths(batch), limit):
                yield trim({name: value[group] for name, value in batch.items()})

    def padded(batch: Batch) -> list[int]:
        return [rows(batch), *lengths(batch).max(0).tolist()]

    return Cutting("micro_tokens", cut, size, TOKENS_KEPT, padded)


def in_pieces(
    work: Callable[[Batch], list[T]],
    batch: Batch,
    limit: int | None,
    cutting: Cutting,
    release: Callable[[], None],
    tell: Callable[[Record], None],
) -> tuple[list[T], int | None]:
    """Do work that gives one result per sample; on out-of-memory cut smaller, keep what is done, and go on.

    Returns the results of all samples in order and the limit now in force, to be handed in with the next batch.
    `release` is called after each failure (`Device.release`), `tell` with its event. Raises OutOfMemory when a single
    sample does not fit.
    """
    results: list[T] = []
    while len(results) < rows(batch):
        rest = {name: value[len(results) :] for name, value in batch.items()}
        piece = next(cutting.cut([rest], limit))
        try:
            results += work(piece)
            continue
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            forget(error)
        release()
        _, limit = cutting.smaller([piece])
        event = cutting.event(piece, limit)
        _logger.warning("out of memory with %s=%d: again with %d", cutting.name, cutting.size(piece), limit)
        tell(event)
    return results, limit


def once_more(work: Callable[[], T], release: Callable[[], None], tell: Callable[[], None]) -> T:
    """Do what cannot be cut; where memory runs out, give back what is cached, `tell`, and try a second time."""
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        forget(error)
    release()
    tell()
    return work()
