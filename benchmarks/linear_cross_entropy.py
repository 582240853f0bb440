"""Extra memory and time of the loss over 250,112 ids and 768 targets: chunked, against full logits.

Run: python benchmarks/linear_cross_entropy.py [--quick] [--repeats N] [--threads 1 2]
Forward and backward of the loss alone, float32, D 768; the head frozen, or trained. Every measurement is a process of
its own, the two ways in turn, medians of repeats. Extra memory: the largest resident size beyond what is held before
and beyond the gradients that are left behind. Bars: at most .10 of the extra memory of full logits; at most 1.00 of
their time with a frozen head and 1.15 with a trained one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from rtx_lab.core.device import GB
from rtx_lab.nn.cross_entropy import linear_cross_entropy

WIDTH = 768
FULL_SIZE, QUICK_SIZE = (250_112, 768), (20_000, 256)
BARS = {"frozen": 1.0, "trained": 1.15}


def full(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(hidden @ weight.T, labels, reduction="sum")


WAYS = {"full": full, "chunked": linear_cross_entropy}


def resident(key: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{key}:"))


def measure(way: str, head: str, vocab: int, targets: int, num_threads: int) -> None:
    """In a process of its own: print seconds and bytes of one loss with its gradients, after a small one to warm up."""
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    small = torch.randn(8, WIDTH, requires_grad=True)
    WAYS[way](small, torch.randn(64, WIDTH), torch.randint(0, 64, (8,))).backward()
    hidden = torch.randn(targets, WIDTH, requires_grad=True)
    weight = torch.randn(vocab, WIDTH).mul_(0.02).requires_grad_(head == "trained")
    labels = torch.randint(0, vocab, (targets,))
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")  # VmHWM begins anew
    before, started = resident("VmRSS"), time.perf_counter()
    WAYS[way](hidden, weight, labels).backward()
    seconds = time.perf_counter() - started
    left = sum(value.grad.nbytes for value in (hidden, weight) if value.grad is not None)
    print(seconds, resident("VmHWM") - before - left)


def ask(*arguments: object) -> tuple[float, float]:
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments[-1])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    seconds, extra = done.stdout.split()
    return float(seconds), float(extra)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small vocabulary, once; the bars are not for it")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        way, head, *sizes = options.measure
        return measure(way, head, *map(int, sizes))
    vocab, targets = QUICK_SIZE if options.quick else FULL_SIZE
    print(f"V {vocab}, D {WIDTH}, {targets} targets, fp32; {os.cpu_count()} cores, torch {torch.__version__}\n")
    print("threads  head     extra memory (GB): full  chunked  ratio     time (s): full  chunked  ratio")
    reached = True
    for num_threads in options.threads[:1] if options.quick else options.threads:
        for head, bar in BARS.items():
            found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
            for _ in range(1 if options.quick else options.repeats):
                for way in WAYS:
                    found[way].append(ask(way, head, vocab, targets, num_threads))
            time_s = {way: statistics.median(seconds for seconds, _ in rows) for way, rows in found.items()}
            extra = {way: statistics.median(size for _, size in rows) for way, rows in found.items()}
            more, longer = extra["chunked"] / extra["full"], time_s["chunked"] / time_s["full"]
            reached &= more <= 0.10 and longer <= bar
            print(
                f"{num_threads:7d}  {head:7s} {extra['full'] / GB:24.2f} {extra['chunked'] / GB:8.2f} {more:6.3f} "
                f"{time_s['full']:18.2f} {time_s['chunked']:8.2f} {longer:6.2f}"
            )
    if not options.quick:
        print(f"bars .10, 1.00 frozen, 1.15 trained: {'reached' if reached else 'NOT reached'}")
    return None


if __name__ == "__main__":
    main()
