"""Whether every damaged checkpoint is found: 500 random truncations and bit flips of any of its files.

Run: python benchmarks/checkpoint_corruption.py [--quick] [--damages N]
Three checkpoints of a small model with AdamW state; the newest is damaged, must be named, and the one before must be
restored bit for bit. Bar: all found, all fallen back. The time of a whole check is printed per GB.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests" / "reference")]

from damage import damage  # noqa: E402

from rtx_lab import optim  # noqa: E402
from rtx_lab.core import checkpoint  # noqa: E402
from rtx_lab.core.checkpoint import Store  # noqa: E402


def make(folder: Path) -> dict[int, list[torch.Tensor]]:
    """Save three checkpoints of a model in training; return the weights of each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 40), nn.LayerNorm(40), nn.Linear(40, 50))
    update = optim.adamw(model, 10, lr=1e-2)
    weights = {}
    for step in (1, 2, 3):
        model(torch.arange(50)).square().sum().backward()
        update.optimizer.step()
        update.optimizer.zero_grad()
        checkpoint.save(Store(folder=folder), {"step": step, "best": None}, model, update.optimizer)
        weights[step] = [tensor.clone() for tensor in model.state_dict().values()]
    return weights


def one_round(folder: Path, weights: dict[int, list[torch.Tensor]], rng: random.Random) -> list[str]:
    """Damage the newest checkpoint, look, and mend it; return what went wrong."""
    newest = folder / "step-00000003"
    victim = newest / rng.choice(sorted(file.name for file in newest.iterdir()))
    raw = victim.read_bytes()
    what = damage(victim, rng)
    found, skipped = checkpoint.newest(folder)
    wrong = []
    if found != folder / "step-00000002" or not any(victim.name in problem for problem in skipped):
        wrong.append(f"{what}: used {found}, said {skipped}")
    else:
        back = checkpoint.read_weights(found).values()
        if not all(torch.equal(a, b) for a, b in zip(back, weights[2], strict=True)):
            wrong.append(f"{what}: the one before came back changed")
    victim.write_bytes(raw)
    return wrong


def speed(folder: Path) -> float:
    """Seconds per GB of a whole check."""
    big = nn.Linear(4000, 4000)
    path = checkpoint.save(Store(folder=folder / "big"), {"step": 1}, big)
    start = time.perf_counter()
    checkpoint.verify(path)
    return (time.perf_counter() - start) / (4000 * 4000 * 4 / 2**30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--damages", type=int, default=500)
    options = parser.parse_args()
    rounds, rng = 50 if options.quick else options.damages, random.Random(1)
    folder = Path(tempfile.mkdtemp())
    try:
        weights = make(folder)
        wrong = [problem for _ in range(rounds) for problem in one_round(folder, weights, rng)]
        print(f"three checkpoints of a small model; {os.cpu_count()} cores, torch {torch.__version__}\n")
        print(f"{rounds - len(wrong)} of {rounds} damages found and fallen back from")
        for problem in wrong[:10]:
            print("  missed:", problem)
        print(f"a whole check takes {speed(folder):.2f} s per GB")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
