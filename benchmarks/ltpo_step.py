"""A step of the search for better latents: K places on the cache of what was read, against reading the whole text.

    python benchmarks/ltpo_step.py [--quick] [--layers 24] [--repeats 5] [--rows 8] [--prefix 128]

The shape is Qwen2.5-0.5B's with random weights in float32; 128 tokens have been read (on GSM8K with Qwen2's tokenizer
146 on average, some 30 more with a chat template), 8 latents stand behind them. The whole text is read as the original
does: prompt and latents as embeddings through transformers' network, the head on all places, the gradient back to the
latents. Ours are `ltpo.climb` and `ltpo.score`, for one text and for a batch of them. A middle way (whole text, the
head on the latents' places alone) shows what the cache itself is worth. The floor are the matrix products alone,
forward and gradient, of as many places: what this machine gains by fewer places if all else were free. The ways take
turns, one round to warm up. Medians of processor time are judged, since other programs may run; those of the clock
stand beside them. Bars, with the gradient: 8x for one text, 15x per text in a batch of 8; rewards and gradients of both
must be equal.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from rtx_lab.core.sections import Ltpo
from rtx_lab.inference import confidence, ltpo
from rtx_lab.models.latent_memory import LatentMemory

SHAPE: dict[str, Any] = {"d_model": 896, "n_heads": 14, "n_kv_heads": 2, "d_ff": 4864, "vocab_size": 151_936}
QUICK: dict[str, Any] = {"d_model": 64, "n_heads": 4, "n_kv_heads": 2, "d_ff": 256, "vocab_size": 4000}
NUM_LATENTS = 8
ALONE, BATCHED = 8.0, 15.0
REWARD_ERROR, GRADIENT_ERROR = 1e-5, 1e-4
"""Bars of what may differ in float32, as a share of the value."""
OBJECTIVE = confidence.objective_of(Ltpo())
Way = Callable[[], Any]


def build(sizes: dict[str, Any], layers: int) -> LatentMemory:
    torch.manual_seed(0)
    model = LatentMemory(
        architecture="qwen2", n_layers=layers, max_seq_len=1024, prompt_latents_len=NUM_LATENTS, rope_theta=1e6, **sizes
    )
    return model.eval()


def whole(model: LatentMemory, x_ND: Tensor, m_NKD: Tensor, places: int) -> Tensor:
    """The reward of latents by reading text and latents; the head reads the last `places` places, 0: all of them."""
    found = model.network(inputs_embeds=torch.cat([x_ND, m_NKD], 1), use_cache=False, logits_to_keep=places)
    return OBJECTIVE(found.logits[:, -NUM_LATENTS:])


@torch.no_grad()
def forward(model: LatentMemory, x_ND: Tensor, m_NKD: Tensor, places: int) -> Tensor:
    return whole(model, x_ND, m_NKD, places)


def backward(model: LatentMemory, x_ND: Tensor, m_NKD: Tensor, places: int) -> tuple[Tensor, Tensor]:
    m_NKD = m_NKD.detach().requires_grad_()
    reward_N = whole(model, x_ND, m_NKD, places)
    return reward_N.detach(), torch.autograd.grad(reward_N.sum(), m_NKD)[0]


def measure(ways: dict[str, Way], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of every way, of the processor and of the clock; they take turns."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    passed: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start, start_clock = time.process_time(), time.perf_counter()
            way()
            if turn:
                spent[name].append(time.process_time() - start)
                passed[name].append(time.perf_counter() - start_clock)
    return (
        {name: statistics.median(values) for name, values in spent.items()},
        {name: statistics.median(values) for name, values in passed.items()},
    )


@torch.no_grad()
def read(model: LatentMemory, ids_NS: Tensor) -> tuple[Any, Tensor]:
    """What the model has read, and latents that it weaves behind it."""
    reading = model.begin(len(ids_NS), weaves=True, decides=False)
    model.read(reading, model.embed(ids_NS), torch.ones_like(ids_NS, dtype=torch.bool))
    return reading.reader, model.weave(reading, "prompt")


def errors(model: LatentMemory, x_NSD: Tensor, m_NKD: Tensor, stream: Any) -> tuple[float, float]:
    """How far rewards and gradients of a batch are from those of reading each text whole, as shares; the largest."""
    reward_N, slope_NKD = ltpo.climb(model, stream, m_NKD, OBJECTIVE)
    found = [backward(model, x_NSD[row : row + 1], m_NKD[row : row + 1], 0) for row in range(len(m_NKD))]
    wanted_N, wanted_NKD = (torch.cat(values) for values in zip(*found, strict=True))
    reward_error_N = ((reward_N - wanted_N) / wanted_N).abs()
    slope_error_N = (slope_NKD - wanted_NKD).flatten(1).norm(dim=1) / wanted_NKD.flatten(1).norm(dim=1)
    return float(reward_error_N.max()), float(slope_error_N.max())


def show(seconds: dict[str, float], rows: int) -> dict[str, float]:
    """Print the table; return how many times faster each way is, with the gradient, than the whole text."""
    print("| read in a step | forward, ms a text | against whole | forward and gradient, ms a text | against whole |")
    print("|---|---|---|---|---|")
    gains = {}
    for name, size in (("whole", 1), ("whole, head on latents", 1), ("cached", 1), (f"cached, {rows} texts", rows)):
        cells = []
        for kind in ("forward", "gradient"):
            each = seconds[f"{name}: {kind}"] / size
            gains[name] = seconds[f"whole: {kind}"] / each
            cells.append(f"{1e3 * each:.1f} | {gains[name]:.1f}x")
        print(f"| {name} | {' | '.join(cells)} |")
    return gains


def ways_of(model: LatentMemory, stream: Any, x_NSD: Tensor, m_NKD: Tensor, many: str) -> dict[str, Way]:
    """Every way to make a step, forward alone and with the gradient."""
    one, first, score = stream.select(torch.tensor([0])), (x_NSD[:1], m_NKD[:1]), torch.no_grad()(ltpo.score)
    return {
        "whole: forward": partial(forward, model, *first, 0),
        "whole: gradient": partial(backward, model, *first, 0),
        "whole, head on latents: forward": partial(forward, model, *first, NUM_LATENTS),
        "whole, head on latents: gradient": partial(backward, model, *first, NUM_LATENTS),
        "cached: forward": partial(score, model, one, m_NKD[:1], OBJECTIVE),
        "cached: gradient": partial(ltpo.climb, model, one, m_NKD[:1], OBJECTIVE),
        f"{many}: forward": partial(score, model, stream, m_NKD, OBJECTIVE),
        f"{many}: gradient": partial(ltpo.climb, model, stream, m_NKD, OBJECTIVE),
    }


def products(weights: list[Tensor], places: int) -> Way:
    """The matrix products of reading so many places, and of the gradient with respect to what is read."""
    inputs = {size: torch.randn(places, size) for weight in weights for size in weight.shape}

    @torch.no_grad()
    def work() -> None:
        for weight in weights:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)
            torch.mm(inputs[weight.shape[0]], weight)

    return work


def floor(model: LatentMemory, prefix: int, rows: int, repeats: int) -> None:
    """Print how many times fewer seconds the products of a step take than those of the whole text."""
    layers = [layer.weight for layer in model.network.model.modules() if isinstance(layer, torch.nn.Linear)]
    weights = [*layers, model.output_weight]
    sizes = {"whole": prefix + NUM_LATENTS, "one": NUM_LATENTS, "many": rows * NUM_LATENTS}
    seconds, _ = measure({name: products(weights, places) for name, places in sizes.items()}, repeats)
    one, many = seconds["whole"] / seconds["one"], seconds["whole"] / seconds["many"] * rows
    print(f"the floor, matrix products alone: {one:.1f}x; {rows} texts: {many:.1f}x; ", end="")
    print(f"{sizes['whole'] / NUM_LATENTS:.0f}x fewer places are read")


def judge(gains: dict[str, float], many: str, quick: bool) -> None:
    """Say which bars are reached."""
    for name, bar in (("cached", ALONE), (many, BATCHED)):
        reached = "not judged" if quick else "reached" if gains[name] >= bar else "NOT reached"
        print(f"{name}, with the gradient: {gains[name]:.1f}x; bar {bar}x: {reached}")


def describe(sizes: dict[str, int], layers: int, prefix: int) -> None:
    """Say what is measured where."""
    import transformers

    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, ", end="")
    print(f"transformers {transformers.__version__}")
    print(f"{sizes}, {layers} layers, float32; {prefix} tokens read, {NUM_LATENTS} latents")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tiny shape, one repeat; nothing is judged by its time")
    parser.add_argument("--layers", type=int, default=24, help="Qwen2.5-0.5B has 24")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=8, help="texts of the batch")
    parser.add_argument("--prefix", type=int, default=128, help="tokens that have been read")
    options = parser.parse_args()
    sizes, layers = (QUICK, 2) if options.quick else (SHAPE, options.layers)
    describe(sizes, layers, options.prefix)
    model = build(sizes, layers)
    ids_NS = torch.randint(
        sizes["vocab_size"], (options.rows, options.prefix), generator=torch.Generator().manual_seed(1)
    )
    stream, m_NKD = read(model, ids_NS)
    x_NSD = model.embed(ids_NS).detach()
    many = f"cached, {options.rows} texts"
    ways = ways_of(model, stream, x_NSD, m_NKD, many)
    seconds, clock = measure(ways, 1 if options.quick else options.repeats)
    print("processor time:")
    gains = show(seconds, options.rows)
    print("by the clock, whatever else the machine was doing:")
    show(clock, options.rows)
    judge(gains, many, options.quick)
    floor(model, options.prefix, options.rows, 1 if options.quick else options.repeats)
    reference = seconds["whole: gradient"]
    alone, batched = reference / seconds["cached: forward"], reference / seconds[f"{many}: forward"] * options.rows
    print(f"estimators that need no gradient, against the whole text with it: {alone:.1f}x; {many}: {batched:.1f}x")
    reward_error, slope_error = errors(model, x_NSD, m_NKD, stream)
    same = reward_error <= REWARD_ERROR and slope_error <= GRADIENT_ERROR
    print(f"rewards differ by {reward_error:.1e} of their value, gradients by {slope_error:.1e} of their norm", end="")
    print(f"; bars {REWARD_ERROR:g} and {GRADIENT_ERROR:g}: {'reached' if same else 'NOT reached'}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    print(f"peak memory of the process: {peak:.1f} GiB")


if __name__ == "__main__":
    main()
