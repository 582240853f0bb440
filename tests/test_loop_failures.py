"""What breaks in a step: a loss that is not finite, memory that runs out, errors of the task."""

from __future__ import annotations

import gc
import math
import weakref
from dataclasses import replace

import pytest
import torch
from out_of_memory import run_out, run_out_backward
from toy_training import ToyModel, ToyTask, digest, host, series, stop_after, train

from rtx_lab import loop, optim
from rtx_lab.core import checkpoint
from rtx_lab.core.checkpoint import Store
from rtx_lab.core.errors import RunError
from rtx_lab.core.training import Plan, TrainState
from rtx_lab.core.update import on_device


def adamw_on_device(model, total_steps, **arguments):
    """The way of a GPU, where the host never looks."""
    return replace(optim.adamw(model, total_steps, **arguments), step=on_device)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("factory", "precision"),
    [
        (optim.adamw, "fp32"),
        (adamw_on_device, "fp32"),
        (optim.adamw_8bit, "fp32"),
        (optim.adamw, "fp16"),
        (optim.adamw_8bit, "fp16"),
    ],
)
def test_a_broken_step_never_reaches_the_weights(factory, precision, value):
    before, *_ = train(factory=factory, precision=precision, plan={"steps": 4}, steps=5)
    model, outcome, _ = train(ToyTask(broken={5: value}), factory=factory, precision=precision, steps=5)
    assert outcome.status == "diverged"
    assert outcome.reason.startswith("loss or gradient of step 5 is not finite (rows row-5-0, row-5-1")
    assert outcome.state.events[-1] == {"event": "diverged", "step": 5, "rows": [f"row-5-{i}" for i in range(12)]}
    assert digest(model) == digest(before)


def test_the_first_broken_step_is_named_at_the_next_line_and_nothing_is_saved_after_it(tmp_path):
    task = ToyTask(broken={6: math.nan, 7: math.nan})
    _, outcome, records = train(task, store=Store(folder=tmp_path), plan={"log_every": 5, "checkpoint_every": 2})
    assert outcome.status == "diverged"
    assert "step 6 " in outcome.reason
    assert [record["step"] for record in records] == [5]
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-00000002", "step-00000004"]


def test_moments_and_step_count_survive_a_broken_step():
    model = ToyModel(dropout=0.0)
    update = adamw_on_device(model, 10)
    loop.fit(model, ToyTask(), update, Plan(steps=2), host(), seed=0)
    before = [{k: v.clone() for k, v in state.items()} for state in update.optimizer.state.values()]
    loop.fit(model, ToyTask(broken={3: math.nan}), update, Plan(steps=3), host(), seed=0, state=TrainState(step=2))
    after = list(update.optimizer.state.values())
    assert all(torch.equal(a[key], b[key]) for a, b in zip(before, after, strict=True) for key in a)


def test_an_infinite_loss_with_a_finite_gradient_is_refused_too():
    class Offset(ToyTask):
        def loss(self, model, batch):
            loss, counts = super().loss(model, batch)
            return loss + math.inf, counts

    for factory, precision in ((optim.adamw, "fp32"), (adamw_on_device, "fp32"), (optim.adamw, "fp16")):
        model, outcome, _ = train(Offset(), factory=factory, precision=precision)
        assert outcome.status == "diverged"
        assert digest(model) == digest(ToyModel())


def test_an_overflow_of_the_loss_scale_is_absorbed_and_a_collapse_is_not():
    class Steep(ToyTask):
        steepness = 2e4

        def loss(self, model, batch):
            loss, counts = super().loss(model, batch)
            steep = loss.detach() + (loss - loss.detach()).half() * torch.tensor(self.steepness).half()
            return steep, counts

    _, outcome, _ = train(Steep(), precision="fp16")
    assert outcome.status == "done"

    class Hopeless(ToyTask):
        def loss(self, model, batch):
            loss, counts = super().loss(model, batch)
            return loss + _InfiniteSlope.apply(loss), counts

    _, outcome, _ = train(Hopeless(), precision="fp16", steps=60)
    assert outcome.status == "diverged"
    assert "hardware.precision=bf16" in outcome.reason


class _InfiniteSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 0

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * math.inf


@pytest.mark.parametrize(("limit", "pieces"), [(5, 4), (2, 2), (1, 1)])
def test_out_of_memory_retries_the_same_samples_in_smaller_pieces(limit, pieces):
    task = ToyTask(micro_batch=4, most_rows=limit)
    model, outcome, records = train(task)
    twin, _, lines = train(ToyTask(micro_batch=pieces))
    assert outcome.status == "done"
    assert digest(model) == digest(twin)
    assert series(records) == series(lines)
    assert outcome.state.micro_batch == (pieces if pieces < 4 else None)
    halvings = [event["retried_with"] for event in outcome.state.events]
    assert halvings == [size for size in (2, 1) if size >= pieces]


def test_out_of_memory_half_way_through_a_backward_pass_counts_nothing_twice(tmp_path):
    class Fragile(ToyTask):
        def loss(self, model, batch):
            loss, counts = super().loss(model, batch)
            return run_out_backward(loss, len(batch["labels"]) > 2 and self.rank == 0), counts

    model, outcome, records = train(Fragile(micro_batch=4), store=Store(folder=tmp_path), **stop_after(4))
    assert outcome.state.micro_batch == 2
    model, outcome, after = train(Fragile(micro_batch=4), store=Store(folder=tmp_path))
    twin, _, lines = train(ToyTask(micro_batch=2))
    assert digest(model) == digest(twin)
    assert series(records + after) == series(lines)
    assert len(outcome.state.events) == 1  # the size in force is remembered across the resume


def test_what_the_pieces_before_a_failure_added_is_dropped():
    class SecondFails(ToyTask):
        calls = 0

        def loss(self, model, batch):
            self.calls += 1
            if len(batch["labels"]) > 2 and self.calls % 3 == 2:
                raise RuntimeError(self.message)
            return super().loss(model, batch)

    model, outcome, records = train(SecondFails(micro_batch=4))
    twin, _, lines = train(ToyTask(micro_batch=2))
    assert outcome.state.micro_batch == 2
    assert digest(model) == digest(twin)
    assert series(records) == series(lines)


def test_one_sample_that_does_not_fit_ends_the_run():
    model, outcome, _ = train(ToyTask(most_rows=0))
    assert outcome.status == "out_of_memory"
    assert outcome.reason.startswith("step 1: not even one sample at a time fits")
    assert digest(model) == digest(ToyModel())
    assert all(param.grad is None for param in model.parameters())


def test_an_optimizer_that_does_not_fit_ends_the_run():
    model = ToyModel()
    update = optim.adamw(model, 5)
    update.optimizer.step = run_out
    outcome = loop.fit(model, ToyTask(), update, Plan(steps=5), host(), seed=0)
    assert outcome.status == "out_of_memory"
    assert "optim=adamw_8bit" in outcome.reason


def test_a_failed_piece_leaves_no_tensors_behind():
    alive = []

    class Leaky(ToyTask):
        def loss(self, model, batch):
            activation = model(batch["source"]).exp()
            alive.append(weakref.ref(activation))
            if len(batch["labels"]) > 2:
                run_out()
            assert sum(ref() is not None for ref in alive) == 1
            return super().loss(model, batch)

    gc.disable()
    try:
        _, outcome, _ = train(Leaky())
    finally:
        gc.enable()
    assert outcome.status == "done"


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="shape mismatch"):
        train(ToyTask(most_rows=2, message="shape mismatch"))


def test_a_task_that_runs_dry_is_named():
    task = ToyTask()
    task.batches = lambda model, start, stop: iter([])
    with pytest.raises(RunError, match="no samples for step 1 of 12"):
        train(task)


def test_refusing_on_the_device_trains_the_same_weights():
    assert digest(train(factory=adamw_on_device)[0]) == digest(train()[0])
