"""Dense pair maps as two batched GEMMs, against Python loops and one einsum: equal, and how much faster?

python benchmarks/pair_maps.py [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests" / "reference")]

from pair_maps_by_loops import influence_by_einsum, influence_by_loops  # noqa: E402

from rtx_lab.nn.connections import DenseConnection  # noqa: E402

Training = Callable[[Tensor], list[Tensor]]


class Unpacked(nn.Module):
    """The same maps stored as the definition writes them, S (N, N, D, r) and T (N, N, r, D)."""

    def __init__(self, dense: DenseConnection, influence: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
        super().__init__()
        source, target = dense.maps()
        self.source, self.target = nn.Parameter(source.contiguous()), nn.Parameter(target.contiguous())
        self.scale, self.influence = dense.scale, influence

    def forward(self, h_BND: Tensor) -> Tensor:
        return self.influence(h_BND, self.source, self.target, self.scale)


def train_once(module: nn.Module, h_BND: Tensor) -> list[Tensor]:
    """Forward and backward: the influence, and the gradients of the state, S and T as (N, N, ...)."""
    h_BND = h_BND.detach().requires_grad_()
    out = module(h_BND)
    gradients = torch.autograd.grad(out.square().sum() / 2, [h_BND, module.source, module.target])
    return [out.detach(), *gradients]


def unpacked_gradients(dense: DenseConnection, results: list[Tensor]) -> list[Tensor]:
    n, d, r = results[0].shape[1], results[0].shape[2], dense.rank
    source = results[2].view(n, d, n, r).permute(0, 2, 1, 3)
    return [*results[:2], source, results[3].view(n, n, r, d).transpose(0, 1)]


def seconds(action: Callable[[], object], repeats: int) -> float:
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="N = 8 and one repeat of the loop")
    quick = parser.parse_args().quick
    num_slots, d_model, rank, batch = (8 if quick else 16), 64, 8, 8
    torch.manual_seed(0)

    exact = DenseConnection(num_slots, d_model, rank).double()
    h_BND = torch.randn(batch, num_slots, d_model, dtype=torch.float64)
    ours = unpacked_gradients(exact, train_once(exact, h_BND))
    print(
        f"N={num_slots} D={d_model} r={rank} B={batch}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print("| fp64, largest difference from | forward | gradient of state | of S | of T |\n|---|---|---|---|---|")
    for name, influence in (("Python loop", influence_by_loops), ("einsum", influence_by_einsum)):
        theirs = train_once(Unpacked(exact, influence), h_BND)
        errors = [(a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True)]
        print(f"| {name} | " + " | ".join(f"{error:.1e}" for error in errors) + " |")

    dense = DenseConnection(num_slots, d_model, rank)
    h_BND = h_BND.float()
    rows = {
        "two GEMMs": seconds(lambda: train_once(dense, h_BND), 30),
        "einsum": seconds(lambda: train_once(Unpacked(dense, influence_by_einsum), h_BND), 30),
        "Python loop": seconds(lambda: train_once(Unpacked(dense, influence_by_loops), h_BND), 1 if quick else 5),
    }
    print("\n| training (forward and backward), fp32 | ms, median | times two GEMMs |\n|---|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {1e3 * value:.2f} | {value / rows['two GEMMs']:.1f} |")


if __name__ == "__main__":
    main()
