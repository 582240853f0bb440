"""A whole training step at the seed's base sizes, ours against the naive form: time and peak memory.

    python benchmarks/training_step.py [--quick]

B=32, S=512, V=32000, answers of T=32 tokens, K=6, AdamW, fp32. The naive form has the same embedding, compression and
decoder, but computes the pair maps by an einsum over an expanded state, pads the answer to the longest sequence, and
builds the logits of all positions at once. Every variant runs in a fresh process. Peak memory is the process's
high-water mark above what importing torch took, and, in a second pass, the live bytes of tensors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests" / "reference")]

from fresh_process import in_fresh_process, status_bytes  # noqa: E402
from pair_maps_by_loops import influence_by_einsum  # noqa: E402

from rtx_lab.core.live_bytes import LiveBytes  # noqa: E402
from rtx_lab.models.connection_transformer import ConnectionTransformer  # noqa: E402
from rtx_lab.models.counts import count_parameters  # noqa: E402
from rtx_lab.nn.connections import DenseConnection  # noqa: E402
from rtx_lab.nn.cross_entropy import linear_cross_entropy  # noqa: E402

STATE_BYTES = 16
"""Per parameter in float32: weight, gradient and AdamW's two moments."""
GB = 1 << 30
SIZES = {"d_model": 256, "num_slots": 128, "bilinear_rank": 32, "max_reasoning_steps": 6, "num_decoder_layers": 2}
TEXT = {"vocab_size": 32000, "max_seq_len": 512}
QUICK_SIZES = SIZES | {"d_model": 64, "num_slots": 32, "bilinear_rank": 16}
QUICK_TEXT = {"vocab_size": 4000, "max_seq_len": 128}


class NaiveDense(torch.nn.Module):
    """The einsum form behind the same interface, on S (N, N, D, r) and T (N, N, r, D)."""

    def __init__(self, dense: DenseConnection) -> None:
        super().__init__()
        source, target = dense.maps()
        self.source = torch.nn.Parameter(torch.empty(source.shape))
        self.target = torch.nn.Parameter(torch.empty(target.shape))
        self.scale = dense.scale

    def operator(self) -> Callable[[Tensor], Tensor]:
        return lambda h_BND: influence_by_einsum(h_BND, self.source, self.target, self.scale)


def build(variant: str, sizes: dict[str, int], text: dict[str, int]) -> ConnectionTransformer:
    """Build on meta and fill with random values: drawing orthonormal panels is no part of a step."""
    connection = "diag" if variant == "diag" else "dense"
    with torch.device("meta"):
        model = ConnectionTransformer(**sizes, **text, connection=connection, dropout=0.1, orthogonal_weight=0)
        if variant == "naive":
            model.connection = NaiveDense(model.connection)
    model = model.to_empty(device="cpu")
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        torch.nn.init.normal_(tensor, std=1.0 if "norm" in name or "slots" in name else sizes["d_model"] ** -0.5)
    return model


def our_loss(model: ConnectionTransformer, source: Tensor, mask: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    memory = model.encode(source, mask)
    nll = linear_cross_entropy(model.decode(memory, tokens), model.output_weight, labels)
    return nll + (model.auxiliary(memory, labels) * (labels != -100).sum(1)).sum()


def naive_loss(model: ConnectionTransformer, source: Tensor, mask: Tensor, tokens: Tensor, labels: Tensor) -> Tensor:
    padding = source.shape[1] - tokens.shape[1]
    tokens = torch.nn.functional.pad(tokens, (0, padding))
    labels = torch.nn.functional.pad(labels, (0, padding), value=-100)
    state, _ = model.compression(model.embedding.source(source), mask)
    mix = model.connection.operator()
    for _ in range(model.max_steps):
        state = model.step_norms[0](state + torch.relu(mix(state)))
    hidden = model.decoder(model.embedding.target(tokens, 0), state, None, None)
    logits = hidden @ model.output_weight.T
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")


def measure(variant: str, batch: int, quick: bool, repeats: int, count_live: bool) -> dict[str, float]:
    """Run one variant in this process and return its times and its memory."""
    before = status_bytes("VmRSS")
    sizes, text = (QUICK_SIZES, QUICK_TEXT) if quick else (SIZES, TEXT)
    length, answer = text["max_seq_len"], text["max_seq_len"] // 16
    model = build(variant, sizes, text)
    loss_of = naive_loss if variant == "naive" else our_loss
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(0, text["vocab_size"], (batch, length), generator=generator)
    labels = torch.randint(0, text["vocab_size"], (batch, answer), generator=generator)
    mask = torch.ones_like(source, dtype=torch.bool)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model, source, mask, labels, labels) / labels.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    if count_live:
        weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        with LiveBytes() as live:
            step()
            step()
        return {"live_gb": (weights + live.peak) / GB}
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {
        "time_s": statistics.median(times[1:]),
        "parameters": count_parameters(model),
        "state_gb": count_parameters(model) * STATE_BYTES / GB,
        "peak_gb": (status_bytes("VmHWM") - before) / GB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variant", choices=["naive", "dense", "diag"], help=argparse.SUPPRESS)
    parser.add_argument("--live", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options.batch, options.quick, options.repeats, options.live)))
        return
    rows = {}
    for variant in ("naive", "dense", "diag"):
        timed, counted = (in_fresh_process(__file__, variant, options, *extra) for extra in ((), ("--live",)))
        rows[variant] = timed | counted
    report(rows, options.batch)


def report(rows: dict[str, dict[str, float]], batch: int) -> None:
    naive = rows["naive"]
    print(f"B={batch}, {torch.get_num_threads()} threads, torch {torch.__version__}; memory in GB, ratios to naive\n")
    print("| form | parameters | s/step | faster | peak | ratio | above states | ratio | live tensors | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        above, naive_above = row["peak_gb"] - row["state_gb"], naive["peak_gb"] - naive["state_gb"]
        live = f"{row['live_gb']:.2f} | {row['live_gb'] / naive['live_gb']:.3f}"
        print(
            f"| {name} | {row['parameters']:,} | {row['time_s']:.2f} | {naive['time_s'] / row['time_s']:.1f}x "
            f"| {row['peak_gb']:.2f} | {row['peak_gb'] / naive['peak_gb']:.3f} "
            f"| {above:.2f} | {above / naive_above:.3f} | {live} |"
        )


if __name__ == "__main__":
    main()
