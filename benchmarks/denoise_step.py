"""A training step of rdt_small on BERT's vocabulary, ours against the original's form: time, peak, real tokens per s.

    python benchmarks/denoise_step.py [--quick] [--batch 8] [--repeats 3]

L=128, chains of 2, newly revealed targets, the same model and AdamW for both. The original's form draws each step's
masks with Python's random.sample, reads the logits of all positions at every chain step and lets the loss ignore most
of them. Ours draws on the device, gathers the rows that the loss reads, and calls the head once. `padded` gives the
original texts of 53 tokens padded to 128, as it pads every line; ours gets packed segments. Every variant runs in a
fresh process; peak is the process's high-water mark above what it held before the model, and live bytes of tensors.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "reference"))

from fresh_process import in_fresh_process, status_bytes

from rtx_lab.core.live_bytes import LiveBytes
from rtx_lab.models.rdt import RecursiveDenoiser
from rtx_lab.tasks.corruption import draw
from rtx_lab.tasks.objectives import chain_loss

SIZES = {"d_model": 512, "n_heads": 8, "d_ff": 2048, "n_encoder_layers": 4, "vocab_size": 30522}
QUICK = {"d_model": 64, "n_heads": 4, "d_ff": 256, "n_encoder_layers": 2, "vocab_size": 4000}
CHAIN = {"max_chain_length": 2, "min_chain_length": 2, "supervision": "newly_revealed", "dropout": 0.1}
LENGTH, MASK, CLS, SEP = 128, 103, 101, 102
TEXT_TOKENS = 53  # a story of 51 words with its start and end; WikiText's lines are shorter still
GB = 1 << 30


def texts(batch: int, vocab_size: int, real_tokens: int) -> tuple[Tensor, Tensor]:
    """Random tokens between a start and an end, padding after `real_tokens`; and which of them may be masked."""
    tokens = torch.randint(1000, vocab_size, (batch, LENGTH), generator=torch.Generator().manual_seed(1))
    place = torch.arange(LENGTH)
    tokens[:, 0], tokens[:, real_tokens - 1] = CLS, SEP
    tokens[:, real_tokens:] = 0
    return tokens, ((place > 0) & (place < real_tokens - 1)).expand(batch, -1)


def our_loss(model: RecursiveDenoiser, tokens: Tensor, maskable: Tensor) -> Tensor:
    rng = np.random.Generator(np.random.PCG64(2))
    drawn = draw(model, maskable.sum(1).numpy(), rng, 1.0)
    batch = {
        "tokens": tokens, "maskable": maskable, "seed": torch.arange(len(tokens)),
        "visible": torch.from_numpy(drawn.visible), "noise": torch.from_numpy(drawn.noise).float(),
        "weight": torch.from_numpy(drawn.weight).float(), "size": torch.from_numpy(drawn.size).float(),
        "target_rank": torch.from_numpy(drawn.target_rank()), "mix": torch.ones(len(tokens)),
    }  # fmt: skip
    loss, _ = chain_loss(model, batch, MASK)
    return loss / batch["size"].sum()


def original_loss(model: RecursiveDenoiser, tokens: Tensor, maskable: Tensor) -> Tensor:
    """Masks by Python for every text and step; logits of all positions at every step; a dense mask for padding."""
    rng, total = random.Random(2), model.total_steps
    noisy, targets, noise = tokens.clone(), [torch.full_like(tokens, -100) for _ in range(2)], []
    for row in range(len(tokens)):
        places = maskable[row].nonzero()[:, 0].tolist()
        order, start = rng.sample(places, len(places)), rng.randint(2, total)
        shown = [int((1 - (start - step) / total) * len(places)) for step in range(3)]
        noisy[row, order[shown[0] :]] = MASK
        for step in range(2):
            revealed = order[shown[step] : shown[step + 1]]
            targets[step][row, revealed] = tokens[row, revealed]
        noise.append([(start - step) / total for step in range(3)])
    wanted, real = torch.tensor(noise), tokens != 0
    thought, gates, loss, count = model.begin(noisy, real), [], tokens.new_zeros((), dtype=torch.float32), 0
    gates.append(thought.noise_B)
    for step in range(2):
        thought = model.advance(thought, wanted[:, step])
        logits = model.read(thought.hidden_BLD, real) @ model.output_weight.T + model.output_bias
        loss = loss + torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[step].flatten(), reduction="sum")
        count += int((targets[step] != -100).sum())
        gates.append(thought.noise_B)
    return loss / max(1, count) + (torch.stack(gates, 1) - wanted).square().mean()


LOSSES = {"original": (original_loss, LENGTH), "padded": (original_loss, TEXT_TOKENS), "ours": (our_loss, LENGTH)}


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Run one variant in this process; return its times, its memory and its real tokens per step."""
    sizes = QUICK if options.quick else SIZES
    loss_of, real_tokens = LOSSES[options.variant]
    torch.manual_seed(0)
    before = status_bytes("VmRSS")
    model = RecursiveDenoiser(n_input_layers=1, n_decoder_layers=1, **sizes, **CHAIN)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens, maskable = texts(options.batch, sizes["vocab_size"], real_tokens)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(model, tokens, maskable).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    if options.live:
        step()  # the optimizer's state is there
        optimizer.zero_grad(set_to_none=True)
        states = 3 * sum(parameter.nbytes for parameter in model.parameters())
        with LiveBytes() as live:
            step()
        return {"live_gb": (states + live.peak) / GB}
    times = []
    for _ in range(options.repeats + 1):
        since = time.perf_counter()
        step()
        times.append(time.perf_counter() - since)
    found = SimpleNamespace(time_s=statistics.median(times[1:]), peak_gb=(status_bytes("VmHWM") - before) / GB)
    return vars(found) | {"tokens_per_s": options.batch * real_tokens / found.time_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variant", choices=list(LOSSES), help=argparse.SUPPRESS)
    parser.add_argument("--live", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options)))
        return
    rows = {
        name: in_fresh_process(__file__, name, options) | in_fresh_process(__file__, name, options, "--live")
        for name in LOSSES
    }
    print(f"B={options.batch}, L={LENGTH}, {torch.get_num_threads()} threads, torch {torch.__version__}, fp32\n")
    print("| form | s/step | real tokens/s | peak GB | live tensors GB |\n|---|---|---|---|---|")
    for name, row in rows.items():
        times = f"{row['time_s']:.3f} | {row['tokens_per_s']:.0f}"
        print(f"| {name} | {times} | {row['peak_gb']:.2f} | {row['live_gb']:.2f} |")
    ours, original, padded = rows["ours"], rows["original"], rows["padded"]
    print(f"\nstep, equal shape: {original['time_s'] / ours['time_s']:.2f}x faster (bar 2)")
    print(f"peak, equal shape: {ours['peak_gb'] / original['peak_gb']:.2f} of the process (bar .65), "
          f"{ours['live_gb'] / original['live_gb']:.2f} of tensors")  # fmt: skip
    print(f"real tokens/s against padded texts: {ours['tokens_per_s'] / padded['tokens_per_s']:.2f}x (bar 3)")


if __name__ == "__main__":
    main()
