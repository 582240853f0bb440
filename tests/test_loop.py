"""The loop on a toy task: the same step however it is cut, equal to a plain loop, and logged as it was."""

from __future__ import annotations

import runpy
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from toy_training import STEPS, TIMES, ToyModel, ToyTask, distance, train

from rtx_lab import optim
from rtx_lab.core.gradients import step_seed
from rtx_lab.core.training import Plan
from rtx_lab.core.update import on_device


def plain_loop(task, model, steps, lr):
    """The slow twin: one batch, mean loss, clip, unfused AdamW, a rate by hand."""
    decaying = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decaying, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, fused=False)
    losses = []
    for step in range(1, steps + 1):
        batch = task.samples(step)
        logits = model(batch["source"])
        loss = F.cross_entropy(logits.mT, batch["labels"], ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = optim.learning_rate(step, steps, lr=lr)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_equals_the_plain_loop_in_float64():
    twin = ToyModel(dropout=0.0, dtype=torch.float64)
    losses = plain_loop(ToyTask(), twin, STEPS, 1e-2)
    model, outcome, records = train(model=ToyModel(dropout=0.0, dtype=torch.float64))
    assert distance(model, twin) < 1e-12
    assert [record["loss"] for record in records] == pytest.approx(losses, rel=1e-9)
    assert losses[-1] < losses[0]
    assert outcome.status == "done"


@pytest.mark.parametrize("micro_batch", [6, 4, 3, 1])
def test_cutting_a_step_changes_nothing(micro_batch):
    whole, *_ = train(ToyTask(micro_batch=12), ToyModel(dropout=0.0, dtype=torch.float64))
    cut, *_ = train(ToyTask(micro_batch=micro_batch), ToyModel(dropout=0.0, dtype=torch.float64))
    assert distance(whole, cut) < 1e-13


def test_logged_lines_are_weighted_means_over_the_steps_since_the_last():
    _, _, every = train()
    _, _, fourth = train(plan={"log_every": 4})
    task = ToyTask()
    weights = [float(task.weight(task.samples(step))) for step in range(1, STEPS + 1)]
    for line, start in zip(fourth, range(0, STEPS, 4), strict=True):
        pairs = zip(every[start : start + 4], weights[start : start + 4], strict=True)
        total = sum(record["loss"] * weight for record, weight in pairs)
        assert line["loss"] == pytest.approx(total / sum(weights[start : start + 4]), rel=1e-6)
        assert line["step"] == start + 4
    assert {"step", "loss", "grad_norm", "lr", *TIMES} <= set(fourth[0])
    assert fourth[0]["padded_tokens_per_s"] > fourth[0]["tokens_per_s"] > 0
    assert fourth[0]["peak_memory_gb"] >= fourth[0]["memory_gb"] > 0.01


class HostReads(TorchDispatchMode):
    """Counts the operations by which a host waits for a value."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device():
    task = ToyTask()
    task.batches = lambda model, start, stop: ([task.samples(step)] for step in range(start + 1, stop + 1))
    task.weight = lambda batch: 5.0  # a number: reading the weight of a host batch is allowed

    def factory(*arguments, **options):
        return replace(optim.adamw(*arguments, **options), step=on_device)

    for precision, lines in (("fp32", 0), ("fp16", 2)):  # the loss scale is looked at with the line and the evaluation
        with HostReads() as reads:
            train(task, factory=factory, precision=precision, plan={"log_every": STEPS})
        assert reads.count == lines


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains(precision):
    _, outcome, records = train(precision=precision, steps=30)
    assert outcome.status == "done"
    assert records[-1]["loss"] < 0.9 * records[0]["loss"]


def test_nothing_to_train_is_done():
    _, outcome, records = train(plan={"steps": 0})
    assert (outcome.status, outcome.reason, records) == ("done", "trained 0 steps", [])


def test_waiting_for_data_is_counted(monkeypatch):
    now = 0.0

    def clock():
        nonlocal now
        now += 0.001
        return now

    class Slow(ToyTask):
        def batches(self, model, start, stop):
            nonlocal now
            for batches in super().batches(model, start, stop):
                now += 3.0
                yield batches

    monkeypatch.setattr(time, "perf_counter", clock)
    _, fast, _ = train()
    _, slow, records = train(Slow())
    assert 0 < fast.data_wait < 0.5
    assert slow.data_wait > 0.99
    assert all(record["data_wait"] > 0.99 for record in records if "data_wait" in record)


def test_step_seeds_differ():
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(100)}
    assert len(seeds) == 2000


def test_plan_of_a_budget():
    class Budget:
        steps, epochs, log_every, eval_every, checkpoint_every, patience = None, 1.5, 5, 10, "epoch", 2

    assert Plan.of(Budget, 80) == Plan(steps=120, log_every=5, eval_every=10, checkpoint_every=80, patience=2)
    Budget.steps, Budget.epochs, Budget.checkpoint_every = 7, None, 3
    assert Plan.of(Budget, 80) == Plan(steps=7, log_every=5, eval_every=10, checkpoint_every=3, patience=2)


def test_the_gradient_of_a_transformer_does_not_depend_on_the_cut():
    path = Path(__file__).parents[1] / "benchmarks" / "accumulation.py"
    study = SimpleNamespace(**runpy.run_path(str(path)))
    model, batch = study.Causal(0), study.samples(0)
    whole = study.ours(model, study.cut(batch, 64))
    for size in (32, 16, 8):
        assert (study.ours(model, study.cut(batch, size)) - whole).norm() <= 1e-6 * whole.norm()
    assert (study.mean_of_means(model, study.cut(batch, 8)) - whole).norm() > 0.01 * whole.norm()
