"""What QLoRA saves: predicted against measured peaks on a small model, and prices of the published ones.

Run: python benchmarks/qlora_memory.py [--quick]
First a gated T5 (width 256, 4 + 4 blocks) on the CPU of this machine, 8 dialogues of 128 tokens, summaries of 32: the
peak of forward and backward as traced on tensors without memory, against the allocator's own events. Bar: 5 %.
Then mt5_xlsum, t5_korean and kobart under bf16 on a GPU, by price, at lengths and micro-batches of the seed's
experiments: what LoRA holds with base weights of 32, 16, 8 and 4 bits, and what training everything holds. Sizes are
10^6 bytes. (The seed claims that QLoRA saves 75 %.)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

BAR = 0.05
STORAGES = ("none", "bf16", "int8", "nf4")
SMALL: dict[str, Any] = {
    "architecture": "t5", "gated": True, "tied_head": False, "tokenizer_size": 8000, "vocab_size": 8011,
    "d_model": 256, "n_heads": 4, "d_ff": 512, "n_encoder_layers": 4, "n_decoder_layers": 4, "dropout": 0.0,
}  # fmt: skip
PUBLISHED = {"mt5_xlsum": (6, 512, 128, 48), "t5_korean": (12, 768, 150, 64), "kobart": (8, 768, 150, 64)}
"""Micro-batch, lengths of source and target, and rank of experiments 1, 4 and 5."""


def batch_of(model: Any, rows: int, source: int, target: int) -> dict[str, Any]:
    """Samples of the largest shape; ids of ones, so that every value is in range."""
    import torch

    ids = torch.ones(rows, target, dtype=torch.int64)
    mask = torch.ones(rows, source, dtype=torch.bool)
    return {"source": torch.ones(rows, source, dtype=torch.int64), "mask": mask, "decoder_input": ids, "labels": ids}


def step(model: Any, batch: dict[str, Any], precision: Any) -> None:
    """Forward and backward of the loss that training uses."""
    from rtx_lab.nn.cross_entropy import linear_cross_entropy

    with precision:
        head = model.head(model.decode(model.encode(batch["source"], batch["mask"]), batch["decoder_input"]))
        loss = linear_cross_entropy(
            head.hidden, head.weight_VD, batch["labels"], bias_V=head.bias_V, low=head.low, up_VR=head.up_VR
        )
    loss.backward()


def predicted(arguments: dict[str, Any], shape: tuple[int, int, int], *, cuda: bool) -> dict[str, int]:
    """Bytes of weights, gradients, AdamW's moments and everything else at the peak of a step, from a trace."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from rtx_lab.core.live_bytes import LiveBytes
    from rtx_lab.models.pretrained import PretrainedSeq2Seq
    from rtx_lab.pricing.cuda_rules import CudaRules

    with FakeTensorMode() as fake:
        model = PretrainedSeq2Seq(**arguments)
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    trained = sum(param.nbytes for param in model.parameters() if param.requires_grad)
    half = torch.autocast("cpu", dtype=torch.bfloat16) if cuda else contextlib.nullcontext()
    with fake, CudaRules() if cuda else contextlib.nullcontext(), LiveBytes(block=512 if cuda else 1) as live:
        step(model, batch_of(model, *shape), half)
    states = {"weights": weights, "gradients": trained, "moments": 2 * trained}
    return states | {"activations": max(0, live.peak - trained), "peak": weights + 2 * trained + live.peak}


def measured(arguments: dict[str, Any], shape: tuple[int, int, int]) -> float:
    """Weights, moments, and the peak of what the CPU's allocator gives during a step."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from rtx_lab.models.pretrained import PretrainedSeq2Seq

    torch.manual_seed(0)
    model = PretrainedSeq2Seq(**arguments)
    step(model, batch_of(model, 1, 8, 4), contextlib.nullcontext())  # what is made once and kept is there now
    model.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(model, batch_of(model, *shape), contextlib.nullcontext())
    now = most = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    held = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    return held + 2 * sum(param.nbytes for param in model.parameters() if param.requires_grad) + most


def small_table(storages: tuple[str, ...]) -> bool:
    """Print predictions and measurements of the small model; return whether all are within the bar."""
    print(f"{'gated T5, width 256':<24} {'predicted':>10} {'measured':>10} {'off':>8}")
    worst = 0.0
    cases = {f"LoRA 16, {name}": {**SMALL, "lora_rank": 16, "quantize": name} for name in storages}
    for name, arguments in {**cases, "everything": SMALL}.items():
        guess = predicted(arguments, (8, 128, 32), cuda=False)["peak"]
        found = measured(arguments, (8, 128, 32))
        worst = max(worst, abs(guess / found - 1))
        print(f"{name:<24} {guess / 1e6:>10.2f} {found / 1e6:>10.2f} {guess / found - 1:>+8.2%}", flush=True)
    print(f"worst {worst:.2%}: bar {BAR:.0%} {'reached' if worst <= BAR else 'NOT reached'}\n")
    return worst <= BAR


def price_table(name: str) -> None:
    """Print what one published model holds, by how its base is kept."""
    import yaml

    rows, source, target, rank = PUBLISHED[name]
    node = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
    base = {key: value for key, value in node.items() if not key.startswith(("_", "lora", "quantize"))}
    base["vocab_size"] = base["tokenizer_size"] + 11
    cases = {f"LoRA {rank}, {kept}": {**base, "lora_rank": rank, "quantize": kept} for kept in STORAGES}
    print(f"{name}, {rows} x ({source} + {target}) tokens, bf16 on a GPU")
    print(f"{'':<20} {'weights':>9} {'gradients':>9} {'moments':>9} {'activations':>11} {'peak':>9}")
    peaks = {}
    for label, arguments in {"everything": base, **cases}.items():
        found = predicted(arguments, (rows, source, target), cuda=True)
        peaks[label] = found["peak"]
        shown = [f"{found[key] / 1e6:>{width}.0f}" for key, width in zip(found, (9, 9, 9, 11, 9), strict=True)]
        print(f"{label:<20} {' '.join(shown)}", flush=True)
    least = peaks[f"LoRA {rank}, nf4"]
    against = ", ".join(f"{1 - least / peaks[label]:.0%} of `{label}`" for label in peaks if not label.endswith("nf4"))
    print(f"4 bits save {against}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small model with 16 and 8 bits, and kobart")
    quick = parser.parse_args().quick
    import torch

    torch.set_num_threads(1)
    print(f"{os.cpu_count()} cores, 1 thread, torch {torch.__version__}\n")
    small_table(("bf16", "int8") if quick else STORAGES)
    for name in ("kobart",) if quick else PUBLISHED:
        price_table(name)


if __name__ == "__main__":
    main()
