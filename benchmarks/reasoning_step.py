"""One reasoning step's influence at the base sizes: the families of pair maps against the naive einsum.

python benchmarks/reasoning_step.py [--quick] [--batch 32]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests" / "reference")]

from pair_maps_by_loops import influence_by_einsum  # noqa: E402

from rtx_lab.nn.connections import CONNECTIONS, build_connection  # noqa: E402


def build_random(connection: str, sizes: dict[str, int]) -> torch.nn.Module:
    """Build with random values: time does not depend on them, and drawing 32768 orthonormal panels takes long."""
    with torch.device("meta"):
        module = build_connection(connection, **sizes)
    module = module.to_empty(device="cpu")
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="an eighth of the slots, three repeats")
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    sizes = {"num_slots": 16 if options.quick else 128, "d_model": 256, "bilinear_rank": 32}
    h_BND = torch.randn(options.batch, sizes["num_slots"], sizes["d_model"])
    modules = {connection: build_random(connection, sizes) for connection in CONNECTIONS}
    source, target = (maps.contiguous() for maps in modules["dense"].maps())

    def by_einsum(h_BND: Tensor) -> Tensor:
        return influence_by_einsum(h_BND, source, target, modules["dense"].scale)

    # The masks of a pass are made once, as the model does.
    actions: dict[str, Callable[[Tensor], Tensor]] = {"dense, einsum": by_einsum}
    actions |= {name: module.operator() for name, module in modules.items()}
    times: dict[str, list[float]] = {name: [] for name in actions}
    with torch.no_grad():
        for repeat in range(4 if options.quick else 8):
            for name, action in actions.items():
                inner = 1 if "einsum" in name else 5
                action(h_BND)  # the other forms have emptied the caches
                start = time.perf_counter()
                for _ in range(inner):
                    action(h_BND)
                if repeat:  # the first round warms up
                    times[name].append((time.perf_counter() - start) / inner)
    print(f"{sizes}, B={options.batch}, fp32 forward, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| form | ms, median | lowest | faster than dense einsum, by medians | by lowest |\n|---|---|---|---|---|")
    naive = times["dense, einsum"]
    for name, values in times.items():
        median, lowest = statistics.median(values), min(values)
        print(
            f"| {name} | {1e3 * median:.2f} | {1e3 * lowest:.2f} "
            f"| {statistics.median(naive) / median:.1f}x | {min(naive) / lowest:.1f}x |"
        )


if __name__ == "__main__":
    main()
