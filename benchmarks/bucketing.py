"""Share of real tokens in padded batches: length buckets, random batches, padding to the longest.

    python benchmarks/bucketing.py [--batch 32]

On GSM8K (train slice) when RTX_LAB_DATA and RTX_LAB_TOKENIZERS are set, else on the built-in arithmetic.
Bar: >= .92 of the source tokens in buckets at batch 32 on GSM8K.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable

import numpy as np

from rtx_lab.data.batching import StepPlan, cut
from rtx_lab.data.corpora import gsm8k
from rtx_lab.data.generated import arithmetic
from rtx_lab.data.text import Split

GLOBAL_BATCH = 64


def load() -> tuple[str, Split, int]:
    if os.environ.get("RTX_LAB_DATA") and os.environ.get("RTX_LAB_TOKENIZERS"):
        dataset = gsm8k(splits={"train": "train", "test": "test"}, target="rationale", max_target_length=320)
    else:
        dataset = arithmetic()
    return dataset.name, dataset.split("train"), dataset.max_source_length


def share(pieces: Iterable[np.ndarray], lengths: np.ndarray, longest: int | None = None) -> float:
    pieces = list(pieces)
    real = sum(int(lengths[rows].sum()) for rows in pieces)
    return real / sum(len(rows) * (longest or int(lengths[rows].max())) for rows in pieces)


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of real tokens in padded batches.")
    parser.add_argument("--batch", type=int, default=32)
    batch = parser.parse_args().batch
    name, split, longest = load()
    lengths = split.source_lengths
    plan = StepPlan(lengths, seed=42, global_batch=max(GLOBAL_BATCH, batch))
    epoch = [
        rows
        for step in range(1, plan.steps_per_epoch + 1)
        for rows in cut(plan.indices(step), lengths, micro_batch=batch)
    ]
    order = np.random.default_rng(42).permutation(len(lengths))
    blind = [order[start : start + batch] for start in range(0, len(order), batch)]
    bucketed, random = share(epoch, lengths), share(blind, lengths)
    fixed = share(blind, lengths, longest)
    print(f"{name}, {len(split)} rows, batch {batch}, mean source {lengths.mean():.1f} tokens, longest {lengths.max()}")
    print(f"length buckets     {bucketed:.3f}   (bar .92)")
    print(f"random batches     {random:.3f}   buckets do {random / bucketed:.2f} of its work")
    print(f"padded to {longest:4d}     {fixed:.3f}   buckets do {fixed / bucketed:.2f} of its work")
    targets = split.target_lengths + 1
    print(f"targets (not sorted by): buckets {share(epoch, targets):.3f}, random {share(blind, targets):.3f}")


if __name__ == "__main__":
    main()
