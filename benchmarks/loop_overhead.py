"""What the loop costs per step, beside a bare PyTorch loop and transformers.Trainer, on a model too small to hide it.

Run: python benchmarks/loop_overhead.py [--quick] [--without-trainer]
The bare loop clips, schedules and logs, too. One thread each, the same ready batches; rounds alternate; the processor
time of the process counts, which other programs on the machine disturb least. The ratio of the best rounds and the
median of the rounds' ratios are printed. Bars: at most 1.10 of the bare loop, at most 0.50 of Trainer.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtx_lab import optim
from rtx_lab.core.device import setup
from rtx_lab.core.schema import Hardware
from rtx_lab.core.training import Plan
from rtx_lab.loop import fit

VOCAB, WIDTH, LENGTH, BATCH, LOG_EVERY, LR = 32, 16, 8, 4, 50, 1e-3


class Tiny(nn.Module):
    """One layer over an embedding: about 1,100 weights in three tensors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCAB, WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB)

    def forward(self, source: Tensor, labels: Tensor | None = None) -> dict[str, Tensor] | Tensor:
        logits = self.head(torch.tanh(self.table(source)))
        return logits if labels is None else {"loss": F.cross_entropy(logits.mT, labels), "logits": logits}


def make_batches(steps: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, VOCAB, (BATCH, LENGTH + 1), generator=generator) for _ in range(steps)]
    return [{"source": x[:, :-1].contiguous(), "labels": x[:, 1:].contiguous()} for x in ids]


class Task:
    monitor, mode, steps_per_epoch = "validation/loss", "min", 100

    def __init__(self, batches: list[dict[str, Tensor]]) -> None:
        self.all = batches

    def batches(self, model, start, stop):
        return ([batch] for batch in self.all[start:stop])

    def weight(self, batch):
        return (batch["labels"] != -100).sum()

    def loss(self, model, batch):
        loss = F.cross_entropy(model(batch["source"]).mT, batch["labels"], reduction="sum")
        return loss, {"tokens": (batch["labels"] != -100).sum()}


def ours(batches: list[dict[str, Tensor]]) -> float:
    model, device = Tiny(), setup(Hardware(name="cpu", device="cpu", precision="fp32", memory_gb=4))
    update = optim.adamw(model, len(batches), lr=LR)
    lines: list[dict] = []
    plan = Plan(steps=len(batches), log_every=LOG_EVERY, eval_every=10**9, checkpoint_every=10**9)
    start = time.process_time()
    fit(model, Task(batches), update, plan, device, seed=0, log=lines.append)
    return time.process_time() - start


def bare(batches: list[dict[str, Tensor]]) -> float:
    model = Tiny()
    total = len(batches)
    optimizer = optim.adamw(model, total, lr=LR).optimizer  # the same two groups: norms and biases do not decay
    for group in optimizer.param_groups:
        group["lr"] = LR
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: optim.learning_rate(s + 1, total, lr=1.0))
    lines, losses, tokens = [], [], 0
    start = time.process_time()
    model.train()
    for step, batch in enumerate(batches, 1):
        loss = F.cross_entropy(model(batch["source"]).mT, batch["labels"])
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        tokens += (batch["labels"] != -100).sum()
        if step % LOG_EVERY == 0:
            mean, rate = torch.stack(losses).mean().item(), scheduler.get_last_lr()[0]
            line = {"step": step, "loss": mean, "grad_norm": norm.item(), "lr": rate, "tokens": int(tokens)}
            lines.append(line | {"time_s": time.process_time() - start})
            losses.clear()
    return time.process_time() - start


def trainer(batches: list[dict[str, Tensor]]) -> float:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder, per_device_train_batch_size=1, max_steps=len(batches), learning_rate=LR,
            lr_scheduler_type="cosine", warmup_steps=0.1, logging_steps=LOG_EVERY, save_strategy="no",
            report_to="none", use_cpu=True,
            disable_tqdm=True, remove_unused_columns=False, dataloader_num_workers=0, weight_decay=0.01,
        )  # fmt: skip
        runner = transformers.Trainer(model=Tiny(), args=arguments, train_dataset=batches, data_collator=_only)
        runner.log = lambda *_, **__: None  # it prints each line
        start = time.process_time()
        runner.train()
        return time.process_time() - start


def _only(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Every loop is given ready batches, Trainer as a data set of them."""
    return rows[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--without-trainer", action="store_true")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    batches, rounds = make_batches(500 if options.quick else 2000), 3 if options.quick else 9
    loops = {"ours": ours, "bare": bare} | ({} if options.without_trainer else {"trainer": trainer})
    times: dict[str, list[float]] = {name: [] for name in loops}
    for run in loops.values():
        run(batches[:100])
    for _ in range(rounds):
        for name, run in loops.items():
            times[name].append(run(batches) / len(batches) * 1e6)
    print(f"{WIDTH} wide, batch {BATCH}; {os.cpu_count()} cores, 1 thread, torch {torch.__version__}\n")
    for name, line in times.items():
        print(f"{name:8s} best {min(line):7.1f} us/step, median {statistics.median(line):7.1f}")
    for name, bar in (("bare", 1.10), ("trainer", 0.50)):
        if name in times:
            best = min(times["ours"]) / min(times[name])
            middle = statistics.median(a / b for a, b in zip(times["ours"], times[name], strict=True))
            print(f"ours / {name}: {best:.3f} of the best rounds, {middle:.3f} median of rounds (bar {bar:.2f})")


if __name__ == "__main__":
    main()
