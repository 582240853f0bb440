"""Share of real tokens in padded batches: length buckets, random batches, padding to the longest.

    python benchmarks/bucketing.py [--batch 32]

On GSM8K (train slice) when RTX_LAB_DATA and RTX_LAB_TOKENIZERS are set, else on the built-in arithmetic; with the
number as target and with the worked solution. Bar: >= .92 of source and target positions at batch 32 on GSM8K as
configured.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

import numpy as np

from rtx_lab.data.batching import StepPlan, cut
from rtx_lab.data.corpora import gsm8k
from rtx_lab.data.generated import arithmetic
from rtx_lab.data.text import Split, TextDataset

GLOBAL_BATCH, SEED = 64, 42
FILES = {"train": "train", "test": "test"}


def datasets() -> Iterator[tuple[str, TextDataset]]:
    if os.environ.get("RTX_LAB_DATA") and os.environ.get("RTX_LAB_TOKENIZERS"):
        yield "gsm8k, target=final", gsm8k(splits=FILES)
        yield "gsm8k, target=rationale", gsm8k(splits=FILES, target="rationale", max_target_length=320)
    else:
        yield "arithmetic, target=final", arithmetic(target="final")
        yield "arithmetic, target=rationale", arithmetic(target="rationale")


def bucketed(split: Split, batch: int) -> list[np.ndarray]:
    plan = StepPlan(split.lengths, seed=SEED, global_batch=max(GLOBAL_BATCH, batch))
    steps = range(1, plan.steps_per_epoch + 1)
    return [rows for step in steps for rows in cut(plan.indices(step), split.lengths, micro_batch=batch)]


def random(split: Split, batch: int) -> list[np.ndarray]:
    order = np.random.default_rng(SEED).permutation(len(split))
    return [order[start : start + batch] for start in range(0, len(order), batch)]


def positions(pieces: list[np.ndarray], lengths: np.ndarray) -> int:
    return sum(len(rows) * int(lengths[rows].max()) for rows in pieces)


def main() -> None:
    parser = argparse.ArgumentParser(description="Share of real tokens in padded batches.")
    parser.add_argument("--batch", type=int, default=32)
    batch = parser.parse_args().batch
    print(f"{os.cpu_count()} cores, numpy {np.__version__}; nothing here depends on the machine\n")
    for name, dataset in datasets():
        split = dataset.split("train")
        sources, targets = split.source_lengths, split.target_lengths + 1
        real = int(sources.sum() + targets.sum())
        ways = {"length buckets": bucketed(split, batch), "random batches": random(split, batch)}
        used = {way: (positions(pieces, sources), positions(pieces, targets)) for way, pieces in ways.items()}
        used["padded to limits"] = (
            len(split) * dataset.max_source_length,
            len(split) * dataset.max_target_length,
        )
        print(f"{name}: {len(split)} rows, batch {batch}, sources of {sources.mean():.1f} tokens (<= {sources.max()})")
        for way, (source, target) in used.items():
            shares = f"source {sources.sum() / source:.3f}  target {targets.sum() / target:.3f}"
            work = (source + target) / sum(used["length buckets"])
            print(f"  {way:17s} {shares}  together {real / (source + target):.3f}  positions x{work:.2f}")


if __name__ == "__main__":
    main()
