"""Segments of text as batches: a training step with what it hides, and a held-out split at every mask ratio.

Shapes: B samples, L longest segment, l chain steps, R rows that the loss reads per chain step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from rtx_lab.core.types import Batch, Cut
from rtx_lab.data.batching import NOBODY, StepPlan, by_length, cut
from rtx_lab.data.segments import Segments
from rtx_lab.tasks.corruption import Corruption, draw

HELD_OUT_SEED = 20251120
"""Fixes which tokens of a held-out text are hidden, for every model and run alike."""


class DenoisingSteps(Dataset[list[Batch]]):
    """Optimizer steps by number: item s is this rank's micro-batches of step s, with what they hide."""

    def __init__(self, segments: Segments, model: nn.Module, settings: Cut) -> None:
        self.segments, self.settings = segments, settings
        self.plan = StepPlan(
            segments.lengths, seed=settings.seed, global_batch=settings.global_batch, sort_window=settings.sort_window
        )
        self.rules = rules_of(model)

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray, Corruption]:
        """The rows (B,) of a whole step over all ranks, their hash seeds (B,), and how they are corrupted."""
        rows = self.plan.indices(step)
        rng = np.random.Generator(np.random.PCG64([self.settings.seed, step]))
        seeds = rng.integers(2**62, size=len(rows))
        counts = np.array([_num_maskable(self.segments, row) for row in rows])
        return rows, seeds, draw(self.rules, counts, rng, self._progress(step))

    def _progress(self, step: int) -> float:
        """How much of the warm-up of noise and masks has passed, 0 to 1."""
        horizon = getattr(self.rules, "noise_mixing_steps", 0)
        return min(1.0, step / horizon) if horizon else 1.0

    def __getitem__(self, step: int) -> list[Batch]:
        settings, mix = self.settings, 1.0 - self._progress(step)
        rows, seeds, drawn = self.draw(step)
        pieces = cut(
            rows, self.segments.lengths, micro_batch=settings.micro_batch, micro_tokens=settings.micro_tokens,
            rank=settings.rank, world_size=settings.world_size,
        )  # fmt: skip
        place = {int(row): number for number, row in enumerate(rows)}
        return [self._batch(piece, place, seeds, drawn, mix) for piece in pieces]

    def _batch(
        self, piece: np.ndarray, place: dict[int, int], seeds: np.ndarray, drawn: Corruption, mix: float
    ) -> Batch:
        nobody = piece[0] == NOBODY
        index = np.array([0 if nobody else place[int(row)] for row in piece])
        own = drawn.rows(index)
        batch = text_batch(self.segments, [0] if nobody else piece) | {
            "seed": torch.from_numpy(seeds[index]),
            "visible": torch.from_numpy(own.visible),
            "noise": torch.from_numpy(own.noise).float(),
            "weight": torch.from_numpy(own.weight).float(),
            "size": torch.from_numpy(own.size).float(),
            "target_rank": torch.from_numpy(own.target_rank()),
            "mix": torch.full((len(piece),), mix),
        }
        return _emptied(batch) if nobody else batch


def _emptied(batch: Batch) -> Batch:
    """A sample of weight zero: it is no row, and nothing in it is a target."""
    gone = {"index": torch.full_like(batch["index"], NOBODY), "size": torch.zeros_like(batch["size"])}
    return batch | gone | {"target_rank": torch.full_like(batch["target_rank"], -1)}


def _num_maskable(segments: Segments, row: int) -> int:
    return int((~np.isin(segments.tokens(row), segments.special_ids)).sum())


def rules_of(model: nn.Module) -> SimpleNamespace:
    """The plain settings of a model, which worker processes can be given without its weights."""
    plain = {name: value for name, value in vars(model).items() if isinstance(value, bool | int | float | str)}
    return SimpleNamespace(**plain | {"objective": model.objective})


def text_batch(segments: Segments, rows: Sequence[int] | np.ndarray) -> Batch:
    """index (B,), tokens (B, L), maskable (B, L), and real (B, L) where a segment is shorter than the longest."""
    texts = [segments.tokens(int(row)) for row in rows]
    longest = max(len(ids) for ids in texts)
    tokens = np.full((len(texts), longest), segments.pad_id, dtype=np.int64)
    for place, ids in enumerate(texts):
        tokens[place, : len(ids)] = ids
    batch = {"index": np.asarray(rows, np.int64), "tokens": tokens, "maskable": ~np.isin(tokens, segments.special_ids)}
    if any(len(ids) < longest for ids in texts):
        batch["real"] = np.arange(longest)[None] < np.array([len(ids) for ids in texts])[:, None]
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def held_out_batches(
    segments: Segments, ratios: Sequence[tuple[int, float, int]], *, num_texts: int | None, batch_size: int
) -> Iterator[Batch]:
    """Yield the first `num_texts` segments once for each (place, ratio, fixed steps) of `ratios`, longest first.

    Beside the text: seed (B,), visible (B, 1), place (B,) of the ratio and fixed (B,), 0 where the model halts itself.
    """
    rows = np.arange(min(len(segments), num_texts or len(segments)))
    order = by_length(rows, segments.lengths)[::-1].copy()
    for place, ratio, fixed in ratios:
        for start in range(0, len(order), batch_size):
            piece = order[start : start + batch_size]
            batch = text_batch(segments, piece)
            counts = batch["maskable"].sum(1)
            hidden = torch.round(ratio * counts.double()).long()
            yield batch | {
                "seed": torch.from_numpy(piece.astype(np.int64)) + HELD_OUT_SEED,
                "visible": (counts - hidden)[:, None],
                "place": torch.full_like(counts, place),
                "fixed": torch.full_like(counts, fixed),
            }
