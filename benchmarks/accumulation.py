"""Whether cutting 64 samples into 64x1, 16x4, 8x8 or 1x64 micro-batches changes the gradient of a step.

Run: python benchmarks/accumulation.py [--quick] [--seeds N]
fp32, dropout 0, one thread, ragged target lengths, a small causal transformer. Beside it the mean of means, which most
loops compute. Bar: relative norm of the difference to 64x1 at most 1e-6.
"""

from __future__ import annotations

import argparse
import os
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtx_lab.core import gradients
from rtx_lab.core.cutting import BY_SAMPLES
from rtx_lab.core.device import setup
from rtx_lab.core.parallel import Ranks
from rtx_lab.core.schema import Hardware
from rtx_lab.core.training import TrainState
from rtx_lab.core.window import Window

SAMPLES, VOCAB, WIDTH, LENGTH = 64, 97, 64, 24
CUTS = (1, 4, 8, 16, 32, 64)


class Causal(nn.Module):
    """Two transformer layers over learned positions, with tied table and head."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(VOCAB, WIDTH)
        self.places = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.register_buffer("ahead", torch.triu(torch.full((LENGTH, LENGTH), float("-inf")), 1))

    def forward(self, source: Tensor) -> Tensor:
        return self.layers(self.table(source) + self.places, mask=self.ahead) @ self.table.weight.T


def token_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = model(batch["source"])
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100, reduction="sum")


class Task:
    def weight(self, batch):
        return (batch["labels"] != -100).sum()

    def loss(self, model, batch):
        return token_loss(model, batch), {}


def samples(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (SAMPLES, LENGTH + 1), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (SAMPLES, 1), generator=generator)
    labels = ids[:, 1:].masked_fill(torch.arange(LENGTH) >= lengths, -100)
    return {"source": ids[:, :-1].contiguous(), "labels": labels}


def cut(batch: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    return [{key: value[i : i + size] for key, value in batch.items()} for i in range(0, SAMPLES, size)]


def flat(model: nn.Module) -> Tensor:
    gradient = torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return gradient


def ours(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    """The gradient that the loop computes before it clips."""
    device = setup(Hardware(name="cpu", device="cpu", precision="fp32", memory_gb=4, num_threads=1))
    run = SimpleNamespace(
        model=model, task=Task(), device=device, seed=0, state=TrainState(), ranks=Ranks(), window=Window({}),
        params=list(model.parameters()), cutting=BY_SAMPLES,
    )  # fmt: skip
    weight = sum(float(run.task.weight(batch)) for batch in batches)
    gradients.compute(run, 1, batches, weight)  # type: ignore[arg-type]
    return flat(model) / weight


def mean_of_means(model: nn.Module, batches: list[dict[str, Tensor]]) -> Tensor:
    for batch in batches:
        (token_loss(model, batch) / (batch["labels"] != -100).sum() / len(batches)).backward()
    return flat(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    worst = {size: [0.0, 0.0] for size in CUTS}
    for seed in range(2 if options.quick else options.seeds):
        model, batch = Causal(seed), samples(seed)
        whole = ours(model, cut(batch, SAMPLES))
        for size in CUTS:
            for column, way in enumerate((ours, mean_of_means)):
                difference = (way(model, cut(batch, size)) - whole).norm() / whole.norm()
                worst[size][column] = max(worst[size][column], difference.item())
    print(f"{SAMPLES} samples, fp32; {os.cpu_count()} cores, 1 thread, torch {torch.__version__}\n")
    print("batch x accum.  this loop   mean of means   (worst relative difference of the gradient to 64 x 1)")
    for size, (mine, theirs) in worst.items():
        print(f"{size:6d} x {SAMPLES // size:<4d} {mine:12.1e} {theirs:15.1e}")
    print(f"bar 1e-6: {'reached' if max(mine for mine, _ in worst.values()) <= 1e-6 else 'NOT reached'}")


if __name__ == "__main__":
    main()
