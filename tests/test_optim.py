"""Schedules against closed forms and the transformers library; optimizers against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rtx_lab import optim
from rtx_lab.core.errors import UsageError

TOTAL = 50


def rates(schedule: str, **changes) -> list[float]:
    arguments = {"lr": 1.0, "warmup_ratio": 0.2, "min_lr_ratio": 0.0} | changes
    return [optim.learning_rate(step, TOTAL, schedule=schedule, **arguments) for step in range(1, TOTAL + 1)]


def library(make, **arguments) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer, num_warmup_steps=10, num_training_steps=TOTAL, **arguments)
    return [scheduler.lr_lambdas[0](step) for step in range(1, TOTAL + 1)]


def test_schedules_equal_the_transformers_library():
    from transformers import optimization as theirs

    pairs = [
        (rates("cosine"), library(theirs.get_cosine_schedule_with_warmup)),
        (rates("linear"), library(theirs.get_linear_schedule_with_warmup)),
        (rates("polynomial"), library(theirs.get_polynomial_decay_schedule_with_warmup, power=2.0, lr_end=0.0)),
        (
            rates("cosine_with_restarts", num_cycles=3),
            library(theirs.get_cosine_with_hard_restarts_schedule_with_warmup, num_cycles=3),
        ),
    ]
    for ours, reference in pairs:
        assert ours == pytest.approx(reference, abs=1e-12)


def test_constant_warms_up_and_stays():
    assert rates("constant")[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert set(rates("constant")[9:]) == {1.0}


@pytest.mark.parametrize("schedule", ["cosine", "linear", "polynomial", "cosine_with_restarts"])
def test_every_decay_ends_at_the_floor_and_peaks_after_warm_up(schedule):
    line = rates(schedule, min_lr_ratio=0.1, num_cycles=2)
    assert line[9] == 1.0
    assert max(line) == 1.0
    assert line[-1] == pytest.approx(0.1)
    assert min(line[9:]) >= 0.1 - 1e-12


def test_cosine_by_its_closed_form():
    line = rates("cosine", min_lr_ratio=0.1)
    for step in range(10, TOTAL + 1):
        expected = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 10) / 40)) / 2
        assert line[step - 1] == pytest.approx(expected)


def test_restarts_really_restart_and_take_any_real_number_of_cycles():
    two = rates("cosine_with_restarts", num_cycles=2)
    assert two[29] == 1.0  # half of the 40 steps behind the warm-up
    assert two[28] < 0.01
    assert rates("cosine_with_restarts", num_cycles=1) == pytest.approx(rates("cosine"))
    half_way = rates("cosine_with_restarts", num_cycles=1.5)
    assert half_way[-1] == pytest.approx(0.5)


def test_two_steps_in_all_are_enough():
    assert optim.learning_rate(1, 2, lr=1.0) == 1.0
    assert optim.learning_rate(2, 2, lr=1.0) == pytest.approx(0.1)


def test_all_problems_are_named_at_once():
    with pytest.raises(UsageError) as caught:
        optim.adamw(
            nn.Linear(2, 2), 10, lr=math.inf, weight_decay=-1, betas=[0.9, 1.0], schedule="cosin", warmup_ratio=2,
            min_lr_ratio=-0.1, max_grad_norm=0, num_cycles=math.nan,
        )  # fmt: skip
    text = str(caught.value)
    assert len(caught.value.problems) == 8
    for key in (
        "lr",
        "weight_decay",
        "betas",
        "schedule",
        "warmup_ratio",
        "min_lr_ratio",
        "max_grad_norm",
        "num_cycles",
    ):
        assert f"optim.{key} must" in text
    assert "did you mean cosine?" in text


@pytest.mark.parametrize("lr", [0.0, -1e-4, math.inf, math.nan])
@pytest.mark.parametrize("factory", [optim.adamw, optim.adamw_8bit, optim.adamw_paged])
def test_bad_learning_rates_are_refused(factory, lr):
    with pytest.raises(UsageError, match=r"^optim\.lr must be a positive finite number"):
        factory(nn.Linear(2, 2), 10, lr=lr)


@pytest.mark.parametrize("factory", [optim.adamw, optim.adamw_8bit, optim.adamw_paged])
def test_norms_and_biases_do_not_decay_and_frozen_weights_are_left_out(factory):
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[3].requires_grad_(False)
    groups = factory(model, 10, weight_decay=0.3).optimizer.param_groups
    by_decay = {group["weight_decay"]: [id(param) for param in group["params"]] for group in groups}
    assert by_decay[0.3] == [id(model[0].weight), id(model[1].weight)]
    assert by_decay[0.0] == [id(model[1].bias), id(model[2].weight), id(model[2].bias)]


def test_null_learning_rate_is_the_seed_default():
    assert optim.adamw(nn.Linear(2, 2), 10, lr=None, warmup_ratio=0, schedule="constant").rate(5) == 1e-4


def test_8bit_keeps_two_bytes_of_state_per_weight_and_full_precision_for_tables():
    model = nn.Sequential(nn.Embedding(100, 64), nn.Linear(64, 128))
    update = optim.adamw_8bit(model, 10)
    update.prepare()
    state = update.optimizer.state
    assert state[model[1].weight]["state1"].dtype == torch.uint8
    assert state[model[0].weight]["state1"].dtype == torch.float32


@pytest.mark.parametrize("factory", [optim.adamw_8bit, optim.adamw_paged])
def test_preparing_twice_changes_nothing(factory):
    model = nn.Linear(80, 80)
    update = factory(model, 10)
    update.prepare()
    first = update.optimizer.state[model.weight]["state1"]
    update.prepare()
    assert update.optimizer.state[model.weight]["state1"] is first
