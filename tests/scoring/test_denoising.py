"""Metrics of filled-in texts: per hidden token, intervals over texts, and a gate that only counts is told apart."""

import math
import random

import numpy as np
import pytest

from rtx_lab.scoring.denoising import bleu, summarise
from rtx_lab.scoring.intervals import partial_spearman, ratio_interval


def record(text, ratio, right, count, **more):
    base = {
        "text": text, "ratio": ratio, "fixed_steps": 0, "num_tokens": count, "num_right": right, "num_unigram": 1,
        "exact_match": right == count if count else None, "nll": 2.0 * count, "steps": 3, "max_steps": 20, "flops": 7.0,
    }  # fmt: skip
    return base | more


def test_accuracy_is_per_hidden_token_and_not_a_mean_of_texts():
    metrics = summarise([record(0, 0.5, 1, 1), record(1, 0.5, 0, 9)])
    assert metrics["mask/50/accuracy"] == pytest.approx(0.1)
    assert metrics["mask/50/exact_match"] == pytest.approx(0.5)
    assert metrics["mask/50/loss"] == pytest.approx(2.0)
    assert metrics["mask/50/unigram_accuracy"] == pytest.approx(0.2)


def test_texts_of_which_nothing_is_hidden_are_not_called_restored():
    metrics = summarise([record(0, 0.0, 0, 0, nll=0.0, num_unigram=0), record(0, 0.5, 2, 4)])
    assert "mask/0/exact_match" not in metrics
    assert "mask/0/accuracy" not in metrics
    assert metrics["mask/0/n"] == 1
    assert metrics["accuracy"] == pytest.approx(0.5)


def test_fixed_steps_stand_apart_and_a_model_of_one_pass_has_one():
    fixed = [record(0, 0.5, 2, 4, fixed_steps=steps, steps=1, max_steps=steps) for steps in (1, 2, 4)]
    metrics = summarise([record(0, 0.5, 1, 4), *fixed])
    assert metrics["fixed/1/accuracy"] == pytest.approx(0.5)
    assert not any(key.startswith(("fixed/2", "fixed/4")) for key in metrics)
    assert metrics["accuracy"] == pytest.approx(0.25)


def test_a_loss_that_is_not_finite_is_null():
    assert summarise([record(0, 0.5, 1, 4, nll=math.inf), record(1, 0.5, 1, 4)])["mask/50/loss"] is None


def test_the_interval_of_a_ratio_covers_its_value_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        counts = rng.integers(5, 60, size=60)
        skill = rng.beta(4, 4, size=60)  # texts differ: tokens of one text are no independent draws
        low, high = ratio_interval(rng.binomial(counts, skill), counts)
        covered += low <= 0.5 <= high
    assert 0.91 <= covered / 400 <= 0.98


def test_equal_groups_give_the_interval_of_a_plain_mean():
    from rtx_lab.scoring.intervals import mean_interval

    values = [3.0, 4.0, 8.0, 5.0]
    assert ratio_interval(values, [1, 1, 1, 1]) == pytest.approx(mean_interval(values))
    assert ratio_interval(values[:1], [1]) is None
    assert ratio_interval([0.0, 0.0], [0, 0]) is None


def test_a_gate_that_counts_masks_follows_no_difficulty():
    rng = random.Random(1)
    ratios = [ratio for ratio in (0.1, 0.5, 0.9) for _ in range(60)]
    nll = [ratio + rng.random() for ratio in ratios]
    counter, texts = [round(20 * ratio) for ratio in ratios], [*range(60)] * 3
    assert partial_spearman(counter, nll, ratios, texts) is None  # constant once the ratio is known
    noisy = [steps + rng.random() for steps in counter]
    rho, p = partial_spearman(noisy, nll, ratios, texts)
    assert abs(rho) < 0.2
    assert p > 0.01
    steps = [steps + value for steps, value in zip(counter, nll, strict=True)]
    rho, p = partial_spearman(steps, nll, ratios, texts)
    assert rho > 0.9
    assert p < 1e-6


def test_one_group_is_plain_spearman():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(3)
    x, y = rng.normal(size=40), rng.integers(0, 6, size=40)
    rho, p = partial_spearman(x, y, np.zeros(40), range(40))
    expected = spearmanr(x, y)
    assert rho == pytest.approx(expected[0])
    assert p == pytest.approx(expected[1], abs=0.1)


def test_what_a_text_repeats_at_many_ratios_is_not_counted_as_many_texts():
    """Nothing links steps and loss but each text's luck, the same at ten ratios: p is below .05 in 1 of 20 cases."""
    rng = np.random.default_rng(5)
    seen = {"clustered": 0, "as independent": 0}
    groups, texts = np.repeat(np.arange(10), 40), np.tile(np.arange(40), 10)
    for _ in range(200):
        steps, loss = (np.tile(rng.normal(size=40), 10) + 0.1 * rng.normal(size=400) for _ in range(2))
        seen["clustered"] += partial_spearman(steps, loss, groups, texts)[1] < 0.05
        seen["as independent"] += partial_spearman(steps, loss, groups, range(400))[1] < 0.05
    assert 2 <= seen["clustered"] <= 20
    assert seen["as independent"] > 60


def test_bleu_is_one_for_the_original_and_falls_with_every_change():
    golds = ["the old man went to the river with a boat", "she found the key under the tree ."]
    assert bleu(golds, golds) == pytest.approx(1.0)
    near = bleu([golds[0].replace("river", "hill"), golds[1]], golds)
    assert 0.5 < near < 1
    assert bleu(["nothing of this kind at all here today", "no"], golds) < near
