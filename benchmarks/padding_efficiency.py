"""Share of real tokens in padded micro-batches of summaries: a budget of tokens against the usual ways.

Run: python benchmarks/padding_efficiency.py [--quick] [--tokens N] [--epochs N] [--time]
DialogSum (train, from RTX_LAB_DATA) under the T5 tokenizer (RTX_LAB_TOKENIZERS), sources of at most 512 tokens and
summaries of at most 128; without these folders, lengths drawn to be like theirs. Beside ours, by their rules:
transformers' default (random order, dynamic padding), its group_by_length (LengthGroupedSampler: runs of 50 batches,
sorted by source) and its batch_rebalance (a random step, given out to micro-batches of the same cost by source length).
Efficiency: real tokens / tokens with padding, sources and targets. Bars: ours >= .89 at 8,192 tokens, and at an equal
largest micro-batch of up to that >= 1.8 times fewer micro-batches than the default and than group_by_length.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from rtx_lab.core.partition import PER_GROUP, partition
from rtx_lab.data.batching import StepPlan, cut

STEP, SEED, LONGEST = 64, 42, (512, 128)
SIZES = (8, 12, 16, 64)


def dialogsum() -> np.ndarray | None:
    """Tokens of every source and summary, ends included (n, 2); None where the data or the tokenizer are missing."""
    from rtx_lab.data.tokenizers import load_tokenizer

    path = Path(os.environ.get("RTX_LAB_DATA", "")) / "dialogsum" / "train.jsonl.gz"
    if not path.is_file() or "RTX_LAB_TOKENIZERS" not in os.environ:
        return None
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    tokenizer = load_tokenizer("google-t5/t5-base")
    texts = ([row[key] for row in rows] for key in ("dialogue", "summary"))
    both = [[len(ids) + 1 for ids in tokenizer.encode_batch(column)] for column in texts]
    return np.minimum(np.array(both).T, LONGEST)


def drawn() -> np.ndarray:
    rng = np.random.default_rng(SEED)
    source = rng.lognormal(5.2, 0.5, 12460)
    target = source * rng.lognormal(-1.7, 0.35, 12460)
    return np.clip(np.stack([source, target], axis=1), 5, LONGEST).astype(int)


def padded(lengths: np.ndarray, rows: np.ndarray) -> int:
    return len(rows) * int(lengths[rows].max(0).sum())


def random_order(lengths: np.ndarray, size: int, epoch: int) -> list[np.ndarray]:
    order = np.random.default_rng([SEED, epoch]).permutation(len(lengths))
    return [order[start : start + size] for start in range(0, len(order), size)]


def group_by_length(lengths: np.ndarray, size: int, epoch: int) -> list[np.ndarray]:
    """transformers.trainer_pt_utils.get_length_grouped_indices with the samples of a step, as its Trainer calls it."""
    order = np.random.default_rng([SEED, epoch]).permutation(len(lengths))
    run = STEP * min(len(lengths) // (STEP * 4), 50)
    runs = [order[start : start + run] for start in range(0, len(order), run)]
    runs = [rows[np.argsort(-lengths[rows, 0], kind="stable")] for rows in runs]
    longest = int(np.argmax([lengths[rows[0], 0] for rows in runs]))
    runs[0][0], runs[longest][0] = runs[longest][0], runs[0][0]
    order = np.concatenate(runs)
    return [order[start : start + size] for start in range(0, len(order), size)]


def batch_rebalance(lengths: np.ndarray, size: int, epoch: int) -> list[np.ndarray]:
    """A random step, its samples sorted by source, cut where the largest cost n L + .001 n L^2 becomes the least."""
    order = np.random.default_rng([SEED, epoch]).permutation(len(lengths))
    pieces: list[np.ndarray] = []
    for start in range(0, len(order), STEP):
        rows = order[start : start + STEP]
        rows = rows[np.argsort(lengths[rows, 0], kind="stable")]
        pieces += _rebalanced(rows, lengths[rows, 0].astype(float), -(-len(rows) // size))
    return pieces


def _rebalanced(rows: np.ndarray, source: np.ndarray, num_pieces: int) -> list[np.ndarray]:
    def cuts(limit: float) -> list[int]:
        """Where pieces end that cost at most `limit`, as long as possible each."""
        ends, start = [], 0
        for stop in range(1, len(rows) + 1):
            longest = source[stop - 1]
            if (stop - start) * (longest + 0.001 * longest**2) > limit and stop - start > 1:
                ends.append(stop - 1)
                start = stop - 1
        return [*ends, len(rows)]

    low, high = 0.0, len(rows) * (source.max() + 0.001 * source.max() ** 2)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if len(cuts(middle)) <= num_pieces else (middle, high)
    ends = cuts(high)
    return [rows[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]


def ours(lengths: np.ndarray, tokens: int, epoch: int, sort_window: int = 50) -> list[np.ndarray]:
    plan = StepPlan(lengths, seed=SEED, global_batch=STEP, sort_window=sort_window)
    first = 1 + epoch * plan.steps_per_epoch
    steps = range(first, first + plan.steps_per_epoch)
    return [rows for step in steps for rows in cut(plan.indices(step), lengths, micro_tokens=tokens)]


def line(name: str, lengths: np.ndarray, epochs: Iterable[list[np.ndarray]]) -> tuple[float, float, float]:
    """Print and return the efficiency, micro-batches an epoch, and the largest of them, means over epochs."""
    found = []
    for pieces in epochs:
        sizes = np.array([padded(lengths, rows) for rows in pieces])
        found.append((lengths.sum() / sizes.sum(), len(pieces), sizes.max()))
        assert sorted(np.concatenate(pieces)) == list(range(len(lengths)))
    efficiency, number, largest = np.mean(found, axis=0)
    print(f"{name:36s} {efficiency:10.3f} {number:18.0f} {largest:17.0f}")
    return float(efficiency), float(number), float(largest)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one epoch; for lengths that are drawn the bars hold, too")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--time", action="store_true", help="how long cutting takes, too")
    options = parser.parse_args()
    epochs, lengths = range(1 if options.quick else options.epochs), dialogsum()
    source = "DialogSum train" if lengths is not None else "drawn lengths"
    lengths = drawn() if lengths is None else lengths
    mean = lengths.mean(0)
    print(
        f"{source}: {len(lengths)} rows, {mean[0]:.1f} + {mean[1]:.1f} tokens, steps of {STEP}, {len(epochs)} epochs; "
        f"{os.cpu_count()} cores, numpy {np.__version__} (no torch here); nothing but --time depends on the machine\n"
    )
    print(f"{'':36s} {'efficiency':>10s} {'micro-batches':>18s} {'largest (tokens)':>17s}")
    rivals: dict[str, tuple[float, float, float]] = {}
    for name, way in (("default", random_order), ("group_by_length", group_by_length)):
        for size in SIZES:
            found = line(f"{name}, {size}", lengths, (way(lengths, size, epoch) for epoch in epochs))
            rivals[f"{name}, {size}"] = found
    for size in (8, 16, 64):
        line(f"batch_rebalance, {STEP}/{size}", lengths, (batch_rebalance(lengths, size, e) for e in epochs))
    for window in (1, 50):
        line(f"ours, {options.tokens} tokens, window {window}", lengths, (
            ours(lengths, options.tokens, epoch, window) for epoch in epochs
        ))  # fmt: skip
    print("\nat an equal largest micro-batch:")
    ratios = []
    for name, (_, number, largest) in rivals.items():
        mine = line(f"ours, {largest:.0f} tokens", lengths, (ours(lengths, int(largest), e) for e in epochs))
        ratios.append(number / mine[1])
        print(f"{'':4s}{name} has {ratios[-1]:.2f} times as many micro-batches")
    efficiency = line(f"ours, {options.tokens} tokens", lengths, (ours(lengths, options.tokens, e) for e in epochs))[0]
    within = [largest <= options.tokens for _, _, largest in rivals.values()]
    least = min(ratio for ratio, counts in zip(ratios, within, strict=True) if counts)
    print(f"\nbars: {efficiency:.3f} >= .89 and {least:.2f} >= 1.8: ", end="")
    print("reached" if efficiency >= 0.89 and least >= 1.8 else "NOT reached")
    if options.time:
        show_time(lengths, options.tokens)


def show_time(lengths: np.ndarray, tokens: int) -> None:
    rows = np.sort(np.random.default_rng(0).permutation(lengths)[:3200], axis=0)
    print(
        f"cutting 64 rows takes {1e3 * seconds(lambda: partition(rows[::50], tokens)):.2f} ms, 3,200 rows "
        f"{1e3 * seconds(lambda: partition(rows, tokens)):.1f} ms; a micro-batch counts {PER_GROUP} tokens"
    )


if __name__ == "__main__":
    main()
