"""Ending and going on: interrupted, early, damaged, full; a resumed run leaves no trace of the break."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_training import STEPS, ToyModel, ToyTask, digest, host, scores, series, stop_after, train

from rtx_lab import loop, optim
from rtx_lab.core import checkpoint
from rtx_lab.core.checkpoint import Store
from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.core.signals import StopSignal
from rtx_lab.core.training import Plan


@pytest.mark.parametrize(("micro_batch", "workers"), [(12, 0), (4, 0), (4, 2)])
def test_resume_after_any_step_is_bit_identical(tmp_path, micro_batch, workers):
    straight, _, lines = train(ToyTask(micro_batch=micro_batch))
    stops = range(1, STEPS) if workers == 0 else (5,)
    for step in stops:
        store = Store(folder=tmp_path / str(step))
        task = ToyTask(micro_batch=micro_batch, workers=workers)
        _, first, before = train(task, store=store, **stop_after(step))
        assert (first.status, first.state.step, first.signum) == ("interrupted", step, signal.SIGTERM)
        model, second, after = train(task, store=store)
        assert second.status == "done"
        assert digest(model) == digest(straight)
        assert series(before + after) == series(lines)


def test_a_line_that_spans_a_resume_is_the_undisturbed_one(tmp_path):
    _, _, lines = train(plan={"log_every": 5})
    _, _, before = train(store=Store(folder=tmp_path), plan={"log_every": 5}, **stop_after(7))
    _, _, after = train(store=Store(folder=tmp_path), plan={"log_every": 5})
    assert series(before + after) == series(lines)


@pytest.mark.parametrize("factory", [optim.adamw_8bit, optim.adamw_paged])
def test_resume_is_bit_identical_with_bitsandbytes(tmp_path, factory):
    def wide():
        torch.manual_seed(0)
        model = ToyModel()
        model.mix = nn.Sequential(nn.Linear(8, 640), nn.Linear(640, 8))  # large enough for 8-bit moments
        return model

    straight, *_ = train(model=wide(), factory=factory)
    train(model=wide(), factory=factory, store=Store(folder=tmp_path), **stop_after(5))
    model, outcome, _ = train(model=wide(), factory=factory, store=Store(folder=tmp_path))
    assert outcome.state.step == STEPS
    assert digest(model) == digest(straight)


def test_resume_is_bit_identical_in_fp16(tmp_path):
    straight, _, lines = train(precision="fp16")
    train(precision="fp16", store=Store(folder=tmp_path), **stop_after(5))
    model, _, after = train(precision="fp16", store=Store(folder=tmp_path))
    assert digest(model) == digest(straight)
    assert series(after) == series(lines)[5:]


def test_best_patience_and_retention(tmp_path):
    store = Store(folder=tmp_path, keep_last=2)
    evaluate = scores(0.3, 0.5, 0.4, 0.5, 0.2, 0.9)
    plan = {"eval_every": 2, "checkpoint_every": 2, "patience": 3, "steps": 40}
    _, outcome, records = train(store=store, evaluate=evaluate, plan=plan, steps=40)
    assert outcome.status == "done"
    assert outcome.state.best == {"step": 4, "value": 0.5}  # a tie is not better
    assert outcome.state.step == 10
    assert "stopped early at step 10: 3 evaluations without a better validation/accuracy than 0.5" in outcome.reason
    assert [record["validation/accuracy"] for record in records if "validation/accuracy" in record] == [
        0.3,
        0.5,
        0.4,
        0.5,
        0.2,
    ]
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-00000004", "step-00000008", "step-00000010"]
    assert checkpoint.best(tmp_path) == tmp_path / "step-00000004"
    _, again, more = train(store=store, evaluate=scores(), plan=plan, steps=40)
    assert (again.status, again.reason, more) == ("done", outcome.reason, [])


def test_a_best_between_checkpoints_is_saved_and_lower_can_be_better(tmp_path):
    task = ToyTask(monitor="validation/loss", mode="min")
    line = iter([2.0, 1.0, math.nan, 3.0])
    plan = {"eval_every": 3, "checkpoint_every": 5}
    _, outcome, _ = train(task, store=Store(folder=tmp_path), evaluate=lambda: {task.monitor: next(line)}, plan=plan)
    assert outcome.state.best == {"step": 6, "value": 1.0}
    assert outcome.state.stale == 2
    assert [checkpoint.step_of(path) for path in checkpoint.steps(tmp_path)] == [6, 10, 12]


def test_the_last_step_is_always_evaluated_and_saved(tmp_path):
    _, outcome, records = train(store=Store(folder=tmp_path), evaluate=scores(0.5))
    assert series(records)[-1] == {"step": STEPS, "validation/accuracy": 0.5}
    assert checkpoint.best(tmp_path) == tmp_path / f"step-{STEPS:08d}"
    assert outcome.reason == "trained 12 steps"


def test_a_signal_before_an_evaluation_leaves_it_to_the_resumed_run(tmp_path):
    plan = {"eval_every": 3, "checkpoint_every": 100}
    straight, _, lines = train(evaluate=scores(1, 2, 3, 4), plan=plan)
    _, first, before = train(store=Store(folder=tmp_path), evaluate=scores(1), plan=plan, **stop_after(6))
    assert first.state.evaluated == 3
    model, second, after = train(store=Store(folder=tmp_path), evaluate=scores(2, 3, 4), plan=plan)
    assert series(before + after) == series(lines)
    assert second.state.best == {"step": 12, "value": 4.0}
    assert digest(model) == digest(straight)


def test_a_signal_in_an_evaluation_saves_and_ends(tmp_path):
    stop = StopSignal()

    def evaluate():
        stop.signum = signal.SIGINT
        stop.check()

    _, outcome, _ = train(store=Store(folder=tmp_path), evaluate=evaluate, plan={"eval_every": 4}, stop=stop)
    assert outcome.status == "interrupted"
    assert [checkpoint.step_of(path) for path in checkpoint.steps(tmp_path)] == [4]
    _, again, records = train(store=Store(folder=tmp_path), evaluate=scores(1, 2, 3), plan={"eval_every": 4})
    assert again.status == "done"
    assert series(records)[0] == {"step": 4, "validation/accuracy": 1}


def test_a_real_signal_saves_within_one_step(tmp_path):
    def show(step, _record):
        if step == 5:
            os.kill(os.getpid(), signal.SIGUSR1)

    with StopSignal() as stop:
        _, outcome, _ = train(store=Store(folder=tmp_path), stop=stop, show=show)
    assert (outcome.status, outcome.signum) == ("interrupted", signal.SIGUSR1)
    assert outcome.state.step in (5, 6)
    assert checkpoint.step_of(checkpoint.newest(tmp_path)[0]) == outcome.state.step


def test_a_damaged_checkpoint_is_passed_over_and_the_run_ends_the_same(tmp_path):
    store = Store(folder=tmp_path)
    straight, *_ = train()
    train(store=store, plan={"checkpoint_every": 3}, **stop_after(8))
    newest = tmp_path / "step-00000008" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    model, outcome, records = train(store=store, plan={"checkpoint_every": 3})
    assert records[0]["step"] == 7
    assert digest(model) == digest(straight)
    event = outcome.state.events[0]
    assert (event["event"], event["step"]) == ("checkpoint_skipped", 6)
    assert "step-00000008/optimizer.safetensors has" in event["reason"]


def test_another_run_can_be_continued_in_a_new_one(tmp_path):
    old, new = tmp_path / "old" / "checkpoints", tmp_path / "new" / "checkpoints"
    train(store=Store(folder=old), evaluate=scores(0.9), plan={"eval_every": 4}, **stop_after(6))
    model = ToyModel()
    update = optim.adamw(model, STEPS, lr=1e-2)
    state = loop.resume_from(tmp_path / "old", model, update, host())
    assert (state.step, state.best) == (6, None)
    plan = Plan(steps=STEPS, log_every=1)
    options = {"seed": 3, "store": Store(folder=new), "state": state, "evaluate": scores(0.1)}
    outcome = loop.fit(model, ToyTask(), update, plan, host(), **options)
    assert outcome.state.best == {"step": STEPS, "value": 0.1}
    assert checkpoint.best(new) == new / f"step-{STEPS:08d}"
    assert digest(model) == digest(train()[0])
    with pytest.raises(UsageError, match="holds no checkpoint"):
        loop.resume_from(tmp_path / "none", model, update, host())


def test_a_killed_run_ends_as_if_nothing_had_happened():
    script = Path(__file__).parents[1] / "benchmarks" / "resume_kill.py"
    command = [sys.executable, str(script), "--steps", "7", "16", "--cut", "3", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert "2 of 2 resumed runs identical" in done.stdout, done.stdout + done.stderr


def test_a_full_disk_stops_the_run_and_keeps_what_was_saved(tmp_path, monkeypatch):
    store = Store(folder=tmp_path)

    def show(step, _record):
        if step == 5:
            monkeypatch.setattr(os, "fsync", _no_space)

    with pytest.raises(RunError, match=r"could not be written \(No space left on device\)"):
        train(store=store, plan={"checkpoint_every": 2}, show=show)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000004"]
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-00000004", [])


def _no_space(_handle):
    raise OSError(28, "No space left on device")
