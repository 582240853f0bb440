"""Rows of a split as padded tensors.

Shapes: B samples, S longest source, T longest target with its end, O most options, U longest option with its end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rtx_lab.core.types import Batch
from rtx_lab.data.batching import NOBODY
from rtx_lab.data.text import Split

IGNORED = -100
"""The label of positions that have none."""


def collate(split: Split, rows: Sequence[int] | np.ndarray) -> Batch:
    """A training batch: index (B,), source (B,S), source_mask (B,S), decoder_input (B,T), labels (B,T).

    Row -1 stands for nobody: one visible padding token and no labels, so its weight is zero.
    """
    sources = [split.source(row) if row != NOBODY else np.array([split.pad_id]) for row in rows]
    longest = max(1, *(len(ids) for ids in sources))
    source = np.full((len(sources), longest), split.pad_id, dtype=np.int64)
    mask = np.zeros((len(sources), longest), dtype=bool)
    for row, ids in enumerate(sources):
        source[row, : len(ids)] = ids
        mask[row, : max(1, len(ids))] = True
    targets = [split.target(row) if row != NOBODY else None for row in rows]
    decoder_input, labels = _shift(targets, split)
    arrays = {
        "index": np.array(rows, dtype=np.int64),
        "source": source,
        "source_mask": mask,
        "decoder_input": decoder_input,
        "labels": labels,
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def empty_batch(num_samples: int, source_length: int, target_length: int) -> Batch:
    """What `collate` gives for samples of these lengths, without their tokens."""
    return {
        "index": torch.zeros(num_samples, dtype=torch.int64),
        "source": torch.zeros(num_samples, source_length, dtype=torch.int64),
        "source_mask": torch.ones(num_samples, source_length, dtype=torch.bool),
        "decoder_input": torch.zeros(num_samples, target_length, dtype=torch.int64),
        "labels": torch.zeros(num_samples, target_length, dtype=torch.int64),
    }


def collate_options(split: Split, rows: Sequence[int] | np.ndarray) -> Batch:
    """A training batch and, where rows have options, option_input and option_labels (B,O,U) and option_mask (B,O)."""
    batch = collate(split, rows)
    options = [split.options(row) if row != NOBODY else [] for row in rows]
    most = max(len(choices) for choices in options)
    if most == 0:
        return batch
    padded = [choice for choices in options for choice in [*choices, *([None] * (most - len(choices)))]]
    option_input, option_labels = _shift(padded, split)
    mask = np.array([[place < len(choices) for place in range(most)] for choices in options])
    shape = (len(options), most, -1)
    batch["option_input"] = torch.from_numpy(option_input.reshape(shape))
    batch["option_labels"] = torch.from_numpy(option_labels.reshape(shape))
    batch["option_mask"] = torch.from_numpy(mask)
    return batch


def _shift(targets: Sequence[np.ndarray | None], split: Split) -> tuple[np.ndarray, np.ndarray]:
    """What the decoder reads (start first) and what it shall say (end last); None is padding throughout."""
    longest = 1 + max(len(ids) if ids is not None else 0 for ids in targets)
    read = np.full((len(targets), longest), split.pad_id, dtype=np.int64)
    say = np.full((len(targets), longest), IGNORED, dtype=np.int64)
    read[:, 0] = split.start_id
    for row, ids in enumerate(targets):
        if ids is not None:
            read[row, 1 : 1 + len(ids)] = ids
            say[row, : len(ids)] = ids
            say[row, len(ids)] = split.eos_id
    return read, say
