"""What of a batch is padding: the batches of questions, dialogues and plain texts alike.

Shapes: B samples, K axes along which samples are padded.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rtx_lab.core.types import Batch
from rtx_lab.data.collate import IGNORED

AXES = (("source_mask", "source"), ("labels", "decoder_input"), ("real", "tokens", "maskable"))
"""Tensors (B, columns) that are padded together; the first of them tells what is used."""


def lengths(batch: Batch) -> np.ndarray:
    """Columns that each sample uses along each axis (B, K)."""
    return torch.stack([_last_used(used) for used, _ in _axes(batch)], dim=1).numpy()


def trim(batch: Batch) -> Batch:
    """A batch without the columns that no sample uses; at least one column is left."""
    trimmed = dict(batch)
    for used, names in _axes(batch):
        longest = max(1, int(_last_used(used).max()))
        trimmed |= {name: batch[name][:, :longest] for name in names}
    return trimmed


def _axes(batch: Batch) -> list[tuple[Tensor, list[str]]]:
    """For each axis of a batch which positions are used (B, columns), and the names of its tensors."""
    found = []
    for names in AXES:
        own = [name for name in names if name in batch]
        if own:
            told = batch.get(names[0])
            used = torch.ones_like(batch[own[0]], dtype=torch.bool) if told is None else told
            found.append((used if used.dtype == torch.bool else used != IGNORED, own))
    return found


def _last_used(used: Tensor) -> Tensor:
    """One past the last used column of each sample (B,)."""
    return (used * torch.arange(1, used.shape[1] + 1)).amax(1)
