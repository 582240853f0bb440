"""A training step of the weaver: a padded batch read piece by piece on caches, against one sample after another.

    python benchmarks/weaver_step.py [--quick] [--repeats 3] [--layers 2] [--context shared_kv]

`alone` is the original's form: sample by sample, the weaver reads the whole text behind every insertion (prefix and
queries; for shared_kv the reader's states of the prefix are made anew), then the reader reads the finished text once,
with logits at all places, of which those at latents are dropped. Both compute loss and gradients of the weaver; the
losses must be equal. memgen_tiny reads `arithmetic` in the loop's own batches of 32, as conf/scale says; the 0.5B shape
reads random problems as long as GSM8K's (96 tokens and 120). Bars: 5x and 2.5x.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from rtx_lab.core.sections import Generation, Ltpo
from rtx_lab.core.types import Batch, Cut
from rtx_lab.data.collate import IGNORED
from rtx_lab.data.generated import arithmetic
from rtx_lab.data.insertions import chosen_ends, in_pieces, sentence_ends
from rtx_lab.models.latent_memory import CONTEXTS, LatentMemory
from rtx_lab.tasks.answering import TuneTask

TINY: dict[str, Any] = {"architecture": "llama", "d_model": 96, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2,
    "d_ff": 256, "vocab_size": 116, "max_seq_len": 512}  # fmt: skip
HALF_B: dict[str, Any] = {"architecture": "qwen2", "d_model": 896, "n_heads": 14, "n_kv_heads": 2, "d_ff": 4864,
    "vocab_size": 151_936, "max_seq_len": 1024}  # fmt: skip
PROMPT_TOKENS, ANSWER_TOKENS = (60, 130), (80, 160)
STEPS = 2
Batches = list[tuple[Batch, np.ndarray]]
"""Collated samples, and behind which tokens of the answers latents stand."""
Shape = tuple[str, dict[str, Any], float, TuneTask, Batches]
"""Name, sizes, bar, task and what is read."""
Found = tuple[float, float, Tensor]
"""Seconds, loss, gradient of the queries."""


def build(sizes: dict[str, Any], context: str) -> LatentMemory:
    torch.manual_seed(0)
    model = LatentMemory(weaver_context=context, lora_dropout=0.0, rope_theta=1e6, **sizes)
    for param in model.parts()["weaver"]:
        if param.ndim == 2:
            param.data.add_(0.02 * torch.randn_like(param))
    model.train_only("weaver")
    return model.eval()


def task_on(num_train: int, rows: int) -> TuneTask:
    data = arithmetic(num_train=num_train, num_validation=8, num_test=8, target="rationale", vocab_size=116)
    cut = Cut(seed=1, global_batch=rows, micro_batch=rows)
    return TuneTask(dataset=data, cut=cut, generation=Generation(), ltpo=Ltpo(), part="weaver")


def tiny_shape(quick: bool) -> Shape:
    """Batches of the first training steps, samples alike in length together as the loop makes them."""
    task, steps = task_on(64 if quick else 8000, rows := 4 if quick else 32), 1 if quick else STEPS
    batches = []
    for (batch,) in task.steps.load(0, steps):
        found_BT = sentence_ends(batch, task.solver.delimiters)
        draw_BT = np.random.default_rng(0).random(found_BT.shape)
        batches.append((batch, chosen_ends(found_BT, 5, draw_BT)))
    return f"memgen_tiny, {steps} batches of {rows}", TINY, 5.0, task, batches


def half_b_shape(layers: int, rows: int) -> Shape:
    """One batch of prompts and answers of GSM8K's lengths, a sentence ending behind one token in 20."""
    rng, sizes = np.random.default_rng(0), HALF_B | {"n_layers": layers}
    lengths = rng.integers(*PROMPT_TOKENS, rows), rng.integers(*ANSWER_TOKENS, rows)
    width, answer = int(lengths[0].max()), int(lengths[1].max())
    source = torch.from_numpy(rng.integers(0, sizes["vocab_size"], (rows, width)))
    labels = torch.from_numpy(rng.integers(0, sizes["vocab_size"], (rows, answer)))
    labels[torch.arange(answer) >= torch.from_numpy(lengths[1])[:, None]] = IGNORED
    mask = torch.arange(width) < torch.from_numpy(lengths[0])[:, None]
    batch = {"index": torch.arange(rows), "source": source, "source_mask": mask, "labels": labels}
    found_BT = (rng.random((rows, answer)) < 1 / 20) & (labels != IGNORED).numpy()
    found_BT[np.arange(rows), lengths[1] - 1] = False
    batches = [(batch, chosen_ends(found_BT, 5, rng.random((rows, answer))))]
    return f"0.5B with {layers} of 24 layers, {rows}", sizes, 2.5, task_on(64, rows), batches


def alone(model: LatentMemory, batches: Batches) -> float:
    """Loss and gradients, sample by sample; the sum of the losses."""
    total = 0.0
    for batch, row, cuts_T in [
        (batch, row, cuts_T) for batch, cuts_BT in batches for row, cuts_T in enumerate(cuts_BT)
    ]:
        labels_T = batch["labels"][row][batch["labels"][row] != IGNORED]
        segments = split_at(labels_T[:-1], cuts_T.nonzero()[0] + 1)
        x_LD, is_text = model.embed(batch["source"][row][batch["source_mask"][row]]), []
        is_text = [True] * len(x_LD)
        for number, segment in enumerate(segments):
            m_KD = woven(model, x_LD, "inference" if number else "prompt")
            # a token is predicted by the place before it: the last latent stands in for what stood before the latents
            is_text = [*is_text[:-1], False, *[False] * (len(m_KD) - 1), True, *[True] * len(segment)]
            x_LD = torch.cat([x_LD, m_KD, model.embed(segment)])
        logits_LV = model.network(inputs_embeds=x_LD[None], use_cache=False).logits[0]
        predicting_TV = logits_LV[torch.tensor(is_text)][-len(labels_T) :]
        loss = F.cross_entropy(predicting_TV, labels_T, reduction="sum")
        loss.backward()
        total += float(loss.detach())
    return total


def split_at(ids_T: Tensor, places: np.ndarray) -> list[Tensor]:
    edges = [0, *places.tolist(), len(ids_T)]
    return [ids_T[start:stop] for start, stop in itertools.pairwise(edges)]


def woven(model: LatentMemory, x_LD: Tensor, kind: str) -> Tensor:
    """Latents of one text, all of which is read for them."""
    reading = model.begin(1, weaves=True, decides=False)
    if model.weaver_context != "embeds":
        model.read(reading, x_LD[None], torch.ones(1, len(x_LD), dtype=torch.bool))
        return model.weave(reading, kind)[0]
    assert model.to_weaver is not None
    whole_LD = torch.cat([model.to_weaver(x_LD), model.queries[kind]])
    with model.role.play("weaver"):
        z_LD = model.network.model(inputs_embeds=whole_LD[None], use_cache=False).last_hidden_state[0]
    m_KD = model.to_reader(z_LD[len(x_LD) :])
    return F.rms_norm(m_KD, m_KD.shape[-1:], eps=1e-6) * model.gain * model.size


def together(model: LatentMemory, task: TuneTask, batches: Batches) -> float:
    """Loss and gradients as the task computes them, the cutting into pieces included."""
    total = 0.0
    for batch, cuts_BT in batches:
        pieces = in_pieces(batch, cuts_BT, prompt_insertions=1, prompt_len=8, inference_len=8)
        loss = task.loss(model, pieces)[0]
        loss.backward()
        total += float(loss.detach())
    return total


def measure(model: LatentMemory, ways: list[Callable[[], float]], repeats: int) -> list[Found]:
    """Median seconds, loss and gradient of the queries of each way; they take turns, one round to warm up."""
    seconds: list[list[float]] = [[] for _ in ways]
    last: list[tuple[float, Tensor]] = [(0.0, torch.zeros(0)) for _ in ways]
    for turn in range(repeats + 1):
        for number, way in enumerate(ways):
            model.zero_grad()
            start = time.perf_counter()
            loss = way()
            if turn or not repeats:
                seconds[number].append(time.perf_counter() - start)
            slope = model.queries["inference"].grad
            assert slope is not None
            last[number] = loss, slope.clone()
    return [(statistics.median(each), *found) for each, found in zip(seconds, last, strict=True)]


def show(name: str, old: Found, new: Found, bar: float | None) -> None:
    """Print a line of the table; `bar` None judges nothing."""
    ratio, apart = old[0] / new[0], float((old[2] - new[2]).norm() / old[2].norm())
    judged = "not judged" if bar is None else f"{bar}x {'reached' if ratio >= bar else 'NOT reached'}"
    line = f"| {name} | {old[0]:.2f} | {new[0]:.2f} | {ratio:.1f}x | {judged} "
    print(f"{line}| {abs(old[1] - new[1]) / old[1]:.1e} | {apart:.1e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the tiny shape, 4 samples; nothing is judged")
    parser.add_argument("--repeats", type=int, default=3, help="0: the first round counts")
    parser.add_argument("--layers", type=int, default=2, help="of the 0.5B shape, which has 24")
    parser.add_argument("--rows", type=int, default=4, help="samples of the 0.5B shape's batch")
    parser.add_argument("--context", choices=CONTEXTS, nargs="+", default=list(CONTEXTS))
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, float32")
    print(
        "| shape, samples | weaver reads | alone, s | together, s | ratio | bar | losses differ by | gradients by |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    shapes = [tiny_shape(options.quick)]
    if not options.quick:
        shapes.append(half_b_shape(options.layers, options.rows))
    for name, sizes, bar, task, batches in shapes:
        for context in options.context:
            model = build(sizes, context)
            ways = [partial(alone, model, batches), partial(together, model, task, batches)]
            found = measure(model, ways, 0 if options.quick else options.repeats)
            show(f"{name} | {context}", found[0], found[1], None if options.quick else bar)
            del model, ways
    print(f"peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20):.1f} GiB")


if __name__ == "__main__":
    main()
