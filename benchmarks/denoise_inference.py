"""Adaptive recursive denoising, batched with per-sample halting and compaction, against one text at a time.

    python benchmarks/denoise_inference.py [--quick] [--batch 32] [--repeats 5]

Two shapes: rdt_tiny as it meets the built-in stories, and one of width 256 with BERT's vocabulary on texts of 64. The
models are untrained; their gates are set so that texts stop after 1 to about 15 steps. Compared are the per-sample loop
of the original's form (a host look before each step, logits of all positions at the end), our own `refine` on one text
after the other, in one batch that looks only at the end, and in one batch that is compacted. Bar for the last: 2.5x the
faster loop at batch 32 in the shape of rdt_tiny, with the tokens and steps of each text as alone. Where one text fills
the cores with its products, as at width 256 on a CPU, what a batch saves is less.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "reference")]

from filling_by_definition import refine_alone  # noqa: E402

from rtx_lab.inference.refine import refine  # noqa: E402
from rtx_lab.models.rdt import RecursiveDenoiser  # noqa: E402

MASK_ID, BAR = 4, 2.5
HALTING = {"mask_id": MASK_ID, "max_steps": 20, "threshold": 0.05}
FALL, MEAN_START, SPREAD = 1 / 16, 0.55, 0.2
"""The gate's fall per step, mean and spread of its first estimate; a text takes (start - threshold) / fall steps."""
Answer = tuple[list[list[int]], list[int]]


def shapes() -> dict[str, tuple[dict[str, Any], int]]:
    """The model's parameters and the length of its texts."""
    both = [
        yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text()) for name in ("rdt_small", "rdt_tiny")
    ]
    tiny = {key: value for part in both for key, value in part.items() if key != "defaults" and not key.startswith("_")}
    wide = tiny | {"d_model": 256, "n_heads": 4, "d_ff": 1024, "n_encoder_layers": 4}
    return {"rdt_tiny": (tiny | {"vocab_size": 236}, 128), "width 256": (wide | {"vocab_size": 30522}, 64)}


@torch.no_grad()
def set_gate(model: RecursiveDenoiser, tokens_BL: Tensor) -> None:
    """Let the gate fall evenly from a first estimate that differs from text to text."""
    gate = model.gate
    pooled_BD = gate.pool(model.begin(tokens_BL, None).hidden_BLD, None)
    raw_B = gate.level(gate._features(pooled_BD, torch.zeros_like(pooled_BD)))[:, 0] - gate.level.bias
    scale = 20 * SPREAD / raw_B.std()
    gate.level.weight *= scale
    # softplus is the identity here, but near 0
    gate.level.bias.copy_(20 * (1 - MEAN_START) - scale * raw_B.mean())
    gate.fall.weight.zero_()
    gate.fall.bias.copy_(torch.expm1(torch.tensor(20 * FALL)).log())


def one_by_one(answer: Callable[..., Any], tokens_BL: Tensor, masked_BL: Tensor) -> Answer:
    answers = [answer(*text) for text in zip(tokens_BL, masked_BL, strict=True)]
    return [tokens for tokens, _ in answers], [steps for _, steps in answers]


def in_a_batch(model: RecursiveDenoiser, tokens_BL: Tensor, masked_BL: Tensor, check_every: int) -> Answer:
    filled = refine(model, tokens_BL, masked_BL, None, **HALTING, check_every=check_every)
    return filled.tokens.tolist(), filled.steps.tolist()


def solo(model: RecursiveDenoiser, tokens_L: Tensor, masked_L: Tensor) -> tuple[list[int], int]:
    tokens, steps = in_a_batch(model, tokens_L[None], masked_L[None], 1)
    return tokens[0], steps[0]


def measure(actions: dict[str, Callable[[], Answer]], repeats: int) -> tuple[dict[str, list[float]], dict[str, Answer]]:
    """Run the actions in turn, `repeats` times after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in actions}
    answers = {}
    for repeat in range(repeats + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            answers[name] = action()
            if repeat:
                times[name].append(time.perf_counter() - start)
    return times, answers


def compare(name: str, settings: dict[str, Any], length: int, options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    model = RecursiveDenoiser(**settings).eval()
    tokens_BL = torch.randint(5, settings["vocab_size"], (options.batch, length))
    masked_BL = torch.rand(options.batch, length) < torch.linspace(0.1, 0.9, options.batch)[:, None]
    masked_BL[:, 0] = False
    set_gate(model, torch.where(masked_BL, MASK_ID, tokens_BL))
    batch = model, tokens_BL, masked_BL
    actions = {
        "loop, all logits": partial(one_by_one, partial(refine_alone, model, **HALTING), tokens_BL, masked_BL),
        "loop of refine": partial(one_by_one, partial(solo, model), tokens_BL, masked_BL),
        "batch, one look": partial(in_a_batch, *batch, HALTING["max_steps"]),
        "batch, compacted": partial(in_a_batch, *batch, 1),
    }
    times, answers = measure(actions, options.repeats)
    report(name, settings, length, times, answers)


def report(
    name: str, settings: dict[str, Any], length: int, times: dict[str, list[float]], answers: dict[str, Answer]
) -> None:
    wanted = answers["loop, all logits"]
    steps, batch = wanted[1], len(wanted[1])
    built = "{n_input_layers}-{n_encoder_layers}-{n_decoder_layers}, D {d_model}, V {vocab_size}".format(**settings)
    mean = statistics.mean(steps)
    print(f"\n{name}: {built}, L {length}, B {batch}; steps {min(steps)} to {max(steps)}, mean {mean:.1f}\n")
    print("| form | recursions of texts | ms, median | lowest | faster, by medians | by lowest | tokens, steps equal |")
    print("|---|---|---|---|---|---|---|")
    for form, values in times.items():
        median, lowest = statistics.median(values), min(values)
        ratio, best = statistics.median(times["loop, all logits"]) / median, min(times["loop, all logits"]) / lowest
        same = ["yes" if answers[form][part] == wanted[part] else "NO" for part in (0, 1)]
        work = batch * HALTING["max_steps"] if form == "batch, one look" else sum(steps)
        print(
            f"| {form} | {work} | {1e3 * median:.0f} | {1e3 * lowest:.0f} | {ratio:.1f}x | {best:.1f}x "
            f"| {', '.join(same)} |"
        )
    loop = min(("loop, all logits", "loop of refine"), key=lambda form: statistics.median(times[form]))
    gain = statistics.median(times[loop]) / statistics.median(times["batch, compacted"])
    verdict = "reached" if gain >= BAR and answers["batch, compacted"] == wanted else "NOT reached"
    bar = f", bar {BAR}x: {verdict}" if name == "rdt_tiny" else ""
    print(f"\nbatch, compacted against the faster loop ({loop}): {gain:.2f}x{bar}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="rdt_tiny alone, two repeats")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    options.repeats = 2 if options.quick else options.repeats
    print(f"fp32, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, (settings, length) in shapes().items():
        if name == "rdt_tiny" or not options.quick:
            compare(name, settings, length, options)


if __name__ == "__main__":
    main()
