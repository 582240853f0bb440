"""Whether cutting 64 summaries into 64x1, 16x4 or 8x8 micro-batches changes the gradient, for T5, mT5 and BART.

Run: python benchmarks/accumulation_seq2seq.py [--quick] [--seeds N]
fp32, dropout 0, one thread, ragged sources and targets, random weights, trained whole and by LoRA. Beside it the first
step of transformers.Trainer on the same network and samples: its gradient norm over that of 64x1. Bar for ours:
relative norm of the difference to 64x1 at most 1e-6, and weights after a step of AdamW that differ by at most 1e-6.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from types import SimpleNamespace
from typing import Any

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
from rtx_lab.models.pretrained import PretrainedSeq2Seq

SAMPLES, VOCAB, SOURCE, TARGET, BAR = 64, 113, 24, 20, 1e-6
CUTS = (64, 16, 8)
SIZES = {
    "tokenizer_size": VOCAB, "d_model": 64, "n_heads": 4, "d_ff": 128, "n_encoder_layers": 2, "n_decoder_layers": 2,
    "max_seq_len": 64, "dropout": 0.0,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "T5": {"architecture": "t5"},
    "mT5": {"architecture": "mt5", "gated": True, "tied_head": False},
    "BART": {"architecture": "bart", "pad_id": 3, "bos_id": 0, "eos_id": 1, "decoder_start_id": 1},
}
WAYS: dict[str, dict[str, Any]] = {"whole": {}, "LoRA": {"lora_rank": 8, "vocab_size": VOCAB + 3}}


def build(kind: str, way: str, seed: int) -> PretrainedSeq2Seq:
    torch.manual_seed(seed)
    model = PretrainedSeq2Seq(**{**SIZES, **KINDS[kind], **WAYS[way]})
    for name, value in model.named_parameters():
        if name.endswith("lora_B"):  # at its start of zero A would get no gradient
            nn.init.normal_(value, std=0.05)
    return model


def samples(model: PretrainedSeq2Seq, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    high = model.arguments["vocab_size"]
    source = torch.randint(4, high, (SAMPLES, SOURCE), generator=generator)
    labels = torch.randint(4, high, (SAMPLES, TARGET), generator=generator)
    mask = torch.arange(SOURCE) < torch.randint(1, SOURCE + 1, (SAMPLES, 1), generator=generator)
    labels[torch.arange(TARGET) >= torch.randint(1, TARGET + 1, (SAMPLES, 1), generator=generator)] = -100
    first = torch.full((SAMPLES, 1), model.decoder_start_id)
    shifted = torch.cat([first, labels[:, :-1].masked_fill(labels[:, :-1] == -100, model.pad_id)], 1)
    source = source.masked_fill(~mask, model.pad_id)
    return {"source": source, "source_mask": mask, "decoder_input": shifted, "labels": labels}


class Task:
    def weight(self, batch: dict[str, Tensor]) -> Tensor:
        return (batch["labels"] != -100).sum()

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        hidden = model.decode(model.encode(batch["source"], batch["source_mask"]), batch["decoder_input"])
        logits = model.network.lm_head(hidden)
        bias = model.head(hidden).bias_V
        logits = logits if bias is None else logits + bias
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100, reduction="sum")
        return loss, {}


def ours(model: PretrainedSeq2Seq, batch: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """The gradient that the loop computes before it clips, and the weights after a step of AdamW."""
    device = setup(Hardware(name="cpu", device="cpu", precision="fp32", memory_gb=4, num_threads=1))
    params = [param for param in model.parameters() if param.requires_grad]
    run: Any = SimpleNamespace(
        model=model, task=Task(), device=device, seed=0, state=TrainState(), ranks=Ranks(), window=Window({}),
        params=params, cutting=BY_SAMPLES,
    )  # fmt: skip
    batches = [{key: value[i : i + size] for key, value in batch.items()} for i in range(0, SAMPLES, size)]
    weight = sum(float(run.task.weight(piece)) for piece in batches)
    gradients.compute(run, 1, batches, weight)
    optimizer = torch.optim.AdamW(params, lr=1e-4)
    for param in params:
        assert param.grad is not None
        param.grad /= weight
    gradient = torch.cat([param.grad.double().flatten() for param in params if param.grad is not None])
    optimizer.step()
    return gradient, torch.cat([param.detach().flatten() for param in params])


def trainer_norm(model: PretrainedSeq2Seq, batch: dict[str, Tensor], size: int) -> float:
    """The norm that transformers.Trainer clips by in its first step."""
    import transformers

    names = {"source": "input_ids", "source_mask": "attention_mask", "decoder_input": "decoder_input_ids"}
    columns = {names.get(key, key): value.long() for key, value in batch.items()}
    rows = [{key: value[i] for key, value in columns.items()} for i in range(SAMPLES)]
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            output_dir=folder, per_device_train_batch_size=size, gradient_accumulation_steps=SAMPLES // size,
            max_steps=1, use_cpu=True, max_grad_norm=1e9, learning_rate=1e-4, logging_steps=1, report_to="none",
            save_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = transformers.Trainer(
            model=model.network, args=settings, train_dataset=rows,  # pyright: ignore[reportArgumentType]
            data_collator=transformers.default_data_collator,
        )  # fmt: skip
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        return next(line["grad_norm"] for line in trainer.state.log_history if "grad_norm" in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="T5 alone, one seed, without Trainer")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.quick:
        import transformers

        transformers.logging.set_verbosity_error()
        print(f"transformers {transformers.__version__}")
    print(f"{SAMPLES} samples, fp32; {os.cpu_count()} cores, 1 thread, torch {torch.__version__}\n")
    print(
        "                batch x accum.   gradient   weights   (ours, against 64 x 1)   Trainer's norm over its 64 x 1"
    )
    worst = 0.0
    for kind in list(KINDS)[: 1 if options.quick else None]:
        for way in WAYS:
            worst = max(worst, compare(kind, way, options))
    print(f"bar {BAR:.0e}: {'reached' if worst <= BAR else 'NOT reached'}")


def compare(kind: str, way: str, options: argparse.Namespace) -> float:
    """Print one model's lines; return the worst difference of ours."""
    seeds = range(1 if options.quick else options.seeds)
    found = {(s, cut): ours(model := build(kind, way, s), samples(model, s), cut) for s in seeds for cut in CUTS}
    norms = {}
    if not options.quick:
        norms = {cut: trainer_norm(model := build(kind, way, 0), samples(model, 0), cut) for cut in CUTS}
    worst = 0.0
    for cut in CUTS:
        gradient = max(
            ((found[s, cut][0] - found[s, 64][0]).norm() / found[s, 64][0].norm()).item() for s in seeds
        )  # fmt: skip
        weights = max((found[s, cut][1] - found[s, 64][1]).abs().max().item() for s in seeds)
        worst = max(worst, gradient, weights)
        theirs = f"{norms[cut] / norms[64]:22.3f}" if norms else ""
        print(f"{kind:>5} {way:>6} {cut:11d} x {SAMPLES // cut:<4d} {gradient:12.1e} {weights:9.1e} {theirs}")
    return worst


if __name__ == "__main__":
    main()
