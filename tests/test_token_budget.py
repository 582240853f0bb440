"""Micro-batches under a budget of tokens: however a step is cut, and whatever fails on the way, it is the same step."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from out_of_memory import run_out, run_out_backward
from toy_training import digest, host, stop_after

from rtx_lab import loop, optim
from rtx_lab.core import cutting, gradients
from rtx_lab.core.checkpoint import Store
from rtx_lab.core.cutting import BY_SAMPLES, by_tokens
from rtx_lab.core.device import Device
from rtx_lab.core.parallel import Ranks
from rtx_lab.core.training import Plan
from rtx_lab.core.types import Cut
from rtx_lab.data import padding
from rtx_lab.data.generated import arithmetic
from rtx_lab.evaluate import evaluate
from rtx_lab.models.transformer_baseline import TransformerBaseline
from rtx_lab.tasks.answer import AnswerTask

BY_TOKENS = by_tokens(padding.lengths, padding.trim)
STEPS, BUDGET = 6, 1200
WRITING = SimpleNamespace(num_beams=1, max_new_tokens=4, length_penalty=1.0)
CUTS = [{"micro_tokens": 300}, {"micro_tokens": BUDGET}, {"micro_tokens": 10**6}, {"micro_batch": 7}]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        made = arithmetic(num_train=150, num_validation=30, num_test=8, target="rationale")
        for name in ("train", "validation"):
            made.split(name)
        yield made


def model_of(dataset, dropout=0.0):
    torch.manual_seed(0)
    return TransformerBaseline(
        vocab_size=dataset.vocab_size, d_model=16, num_slots=6, bilinear_rank=4, num_heads=2, dropout=dropout,
    )  # fmt: skip


def task_of(dataset, **options):
    own = Cut(**{"seed": 5, "global_batch": 32, "micro_batch": 32, "eval_batch": 30, **options})
    return AnswerTask(dataset=dataset, cut=own, generation=WRITING)


class Fragile:
    """A task in whose loss or scores more than `most` positions at once are out of memory; notes what was used."""

    def __init__(self, task, most=10**9, backward=False):
        self.task, self.most, self.backward = task, most, backward
        self.rows = []

    def __getattr__(self, name):
        return getattr(self.task, name)

    def loss(self, model, batch):
        too_large = batch["source"].numel() + batch["labels"].numel() > self.most
        if too_large and not self.backward:
            run_out()
        loss, sums = self.task.loss(model, batch)
        self.rows += batch["index"].tolist()
        return run_out_backward(loss, too_large), sums

    def score(self, model, batch, split):
        if batch["source"].numel() + batch["labels"].numel() > self.most:
            run_out()
        return self.task.score(model, batch, split)


def train(dataset, task=None, model=None, *, store=None, update=None, **options):
    model = model or model_of(dataset)
    update = update or optim.adamw(model, STEPS, lr=1e-2)
    state = loop.resume(store, model, update, host()) if store else None
    outcome = loop.fit(
        model, task or task_of(dataset, micro_tokens=BUDGET), update, Plan(steps=STEPS, log_every=1, eval_every=99),
        host(), seed=3, store=store, state=state, cutting=BY_TOKENS, evaluate=lambda: {"validation/accuracy": 0.0},
        **options,
    )  # fmt: skip
    return model, outcome


def apart(first, second):
    """Norm of the difference of two lists of tensors, relative to the first."""
    one, two = (torch.cat([value.detach().double().flatten() for value in values]) for values in (first, second))
    return ((one - two).norm() / one.norm()).item()


def gradient(dataset, step, model, **options):
    """The summed gradient of a step, of all its processes one after another."""
    world = options.pop("world_size", 1)
    model.zero_grad(set_to_none=True)
    total = []
    for rank in range(world):
        task = task_of(dataset, rank=rank, world_size=world, **options)
        (batches,) = task.batches(model, step - 1, step)
        for batch in batches:
            loss, _ = task.loss(model, batch)
            loss.backward()
            total.append(float(task.weight(batch)))
    return [param.grad.clone() for param in model.parameters() if param.grad is not None], sum(total)


@pytest.mark.parametrize("step", [1, 5])  # the fifth is the short one
@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("sort_window", [1, 50])
def test_the_gradient_does_not_depend_on_the_cut(dataset, step, world_size, sort_window):
    model = model_of(dataset)
    for options in CUTS:
        # the order by two lengths fills steps with other samples than the order by one
        common = {"sort_window": 1} if "micro_batch" in options else {"sort_window": sort_window}
        whole, weight = gradient(dataset, step, model, **common, **options | {"micro_tokens": 10**6})
        found, own = gradient(dataset, step, model, world_size=world_size, **common, **options)
        assert own == weight
        assert apart(whole, found) <= 1e-6


def test_the_weights_do_not_depend_on_the_cut(dataset):
    straight, _ = train(dataset)
    for tokens in (200, 10**6):
        other, outcome = train(dataset, task_of(dataset, micro_tokens=tokens))
        assert outcome.status == "done"
        assert apart(straight.parameters(), other.parameters()) <= 1e-5  # Adam magnifies rounding where it divides by 0


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("most", [700, 150])
def test_out_of_memory_lowers_the_budget_and_no_sample_changes(dataset, most, backward):
    straight, undisturbed = train(dataset, whole := Fragile(task_of(dataset, micro_tokens=BUDGET)))
    task = Fragile(task_of(dataset, micro_tokens=BUDGET), most=most, backward=backward)
    model, outcome = train(dataset, task)
    assert outcome.status == undisturbed.status == "done"
    assert apart(straight.parameters(), model.parameters()) <= 1e-5
    events = outcome.state.events
    assert all(event["event"] == "out_of_memory" and event["step"] >= 1 for event in events)
    assert outcome.state.micro_tokens == events[-1]["retried_with"]
    lowered = [event["retried_with"] for event in events]
    assert lowered == [int(cutting.TOKENS_KEPT * event["micro_tokens"]) for event in events]
    assert lowered == sorted(lowered, reverse=True)
    assert all(len(event["shape"]) == 3 for event in events)
    assert set(task.rows) == set(whole.rows)


def test_a_lowered_budget_stays_in_force_and_a_resume_leaves_no_trace(dataset, tmp_path):
    def fragile():
        return Fragile(task_of(dataset, micro_tokens=BUDGET), most=400)

    straight, outcome = train(dataset, fragile(), model_of(dataset, dropout=0.2))
    store = Store(folder=tmp_path)
    _, first = train(dataset, fragile(), model_of(dataset, dropout=0.2), store=store, **stop_after(3))
    assert first.status == "interrupted"
    again, second = train(dataset, fragile(), model_of(dataset, dropout=0.2), store=store)
    assert digest(again) == digest(straight)
    assert second.state.events == outcome.state.events == first.state.events
    assert second.state.micro_tokens == outcome.state.micro_tokens


def test_one_sample_that_does_not_fit_ends_the_run(dataset):
    model, outcome = train(dataset, Fragile(task_of(dataset, micro_tokens=BUDGET), most=5))
    assert outcome.status == "out_of_memory"
    assert "not even one sample" in outcome.reason
    assert digest(model) == digest(model_of(dataset))


@pytest.mark.parametrize("factory", [optim.adamw, optim.adamw_8bit])
def test_out_of_memory_in_the_update_is_survived_once(dataset, factory):
    straight, _ = train(dataset, update=factory(model := model_of(dataset), STEPS, lr=1e-2), model=model)
    model = model_of(dataset)
    update = factory(model, STEPS, lr=1e-2)
    step, calls = update.optimizer.step, []

    def fragile():
        calls.append(1)
        if len(calls) in (1, 5):
            run_out()
        step()

    update.optimizer.step = fragile
    _, outcome = train(dataset, update=update, model=model)
    assert digest(model) == digest(straight)
    assert [(event["step"], event["where"]) for event in outcome.state.events] == [(1, "update"), (4, "update")]
    assert outcome.state.micro_tokens is None


def test_state_is_there_before_the_first_update(dataset):
    model = model_of(dataset)
    update = optim.adamw(model, STEPS)
    update.prepare()
    assert all(not update.optimizer.state[param]["exp_avg"].any() for param in model.parameters())
    prepared = optim.adamw(other := model_of(dataset), STEPS, lr=1e-2)
    plain = replace(optim.adamw(twin := model_of(dataset), STEPS, lr=1e-2), prepare=lambda: None)
    train(dataset, update=prepared, model=other)
    train(dataset, update=plain, model=twin)
    assert digest(other) == digest(twin)


def test_out_of_memory_while_a_batch_is_loaded(dataset, monkeypatch):
    straight, _ = train(dataset)
    move = Device.move

    def fragile(self, batch):
        if batch["source"].numel() > 300:
            run_out()
        return move(self, batch)

    monkeypatch.setattr(Device, "move", fragile)
    model, outcome = train(dataset)
    assert outcome.state.events
    assert apart(straight.parameters(), model.parameters()) <= 1e-5


def test_evaluation_lowers_its_own_budget_tells_and_remembers(dataset):
    model, events = model_of(dataset), []
    plain = task_of(dataset, micro_tokens=BUDGET)
    whole = evaluate(model, plain, "validation", host(), Ranks(), cutting=BY_TOKENS)
    for _ in range(2):
        found = evaluate(
            model, Fragile(plain, most=500), "validation", host(), Ranks(), cutting=BY_TOKENS, events=events
        )
        assert [record["prediction"] for record in found[1]] == [record["prediction"] for record in whole[1]]
        assert found[0]["loss"] == pytest.approx(whole[0]["loss"], rel=1e-6)
        told = list(events)
    assert told == events, "the second time it begins with what fitted"
    assert {event["split"] for event in events} == {"validation"}
    assert all(event["retried_with"] < event["micro_tokens"] for event in events)


def test_a_limit_is_read_where_its_kind_is_kept():
    run = SimpleNamespace(state=SimpleNamespace(micro_batch=4, micro_tokens=900), cutting=BY_TOKENS)
    assert gradients.limit(run) == 900
    run.cutting = BY_SAMPLES
    assert gradients.limit(run) == 4
