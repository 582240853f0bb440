import json
import random

import pytest

from rtx_lab.scoring.intervals import wilson_interval
from rtx_lab.scoring.summary import summarise


def record(number, correct, steps=3, difficulty=1, family="chain", **changes):
    row = {
        "id": f"test/{number}",
        "correct": correct,
        "exact_match": correct,
        "f1": 1.0 if correct else 0.5,
        "steps": steps,
        "max_steps": 6,
        "difficulty": difficulty,
        "family": family,
        "nll": 4.0,
        "num_tokens": 2,
    }
    return row | changes


def test_summary_of_four_items_by_hand():
    records = [
        record(0, True, steps=2, difficulty=1),
        record(1, True, steps=3, difficulty=1, nll=1.0, num_tokens=4),
        record(2, False, steps=6, difficulty=2, family="logic"),
        record(3, True, steps=5, difficulty=2, family="logic"),
    ]
    metrics = summarise(records)
    low, high = wilson_interval(3, 4)
    assert metrics["n"] == 4
    assert (metrics["accuracy"], metrics["accuracy_low"], metrics["accuracy_high"]) == (0.75, low, high)
    assert metrics["exact_match"] == 0.75
    assert metrics["f1"] == 0.875
    assert metrics["loss"] == 13 / 10  # tokens weigh, not items
    assert metrics["avg_reasoning_steps"] == 4.0
    assert metrics["avg_reasoning_steps_low"] < 4.0 < metrics["avg_reasoning_steps_high"]
    assert metrics["early_termination_rate"] == 0.75
    assert [metrics[f"steps_histogram/{k}"] for k in range(7)] == [0, 0, 0.25, 0.25, 0, 0.25, 0.25]
    assert metrics["difficulty/1/accuracy"] == 1.0
    assert metrics["difficulty/2/accuracy"] == 0.5
    assert metrics["difficulty/2/avg_reasoning_steps"] == 5.5
    assert metrics["family/logic/n"] == 2
    assert metrics["family/logic/accuracy_high"] == wilson_interval(1, 2)[1]
    assert metrics["spearman_steps_difficulty"] == pytest.approx(4 / (5 * 4) ** 0.5)
    assert 0 < metrics["spearman_steps_difficulty_p"] < 1


def test_order_of_records_changes_nothing():
    records = [record(i, i % 3 == 0, steps=i % 6 + 1, difficulty=i % 11 + 1, family="abc"[i % 3]) for i in range(60)]
    shuffled = random.Random(0).sample(records, len(records))
    assert summarise(shuffled) == pytest.approx(summarise(records))
    assert list(summarise(shuffled)) == list(summarise(records))
    keys = [key for key in summarise(shuffled) if key.startswith("difficulty/") and key.endswith("/n")]
    assert keys == [f"difficulty/{d}/n" for d in range(1, 12)]  # by number: 10 after 9, not after 1


def test_baseline_without_steps_and_data_without_groups():
    plain = [record(i, True, steps=0, max_steps=0, difficulty=None, family=None) for i in range(3)]
    metrics = summarise(plain)
    assert set(metrics) == {"n", "accuracy", "accuracy_low", "accuracy_high", "f1", "exact_match", "loss"}


def test_only_judged_items():
    assert set(summarise([{"id": "a", "correct": True}])) == {"n", "accuracy", "accuracy_low", "accuracy_high"}


def test_fixed_steps_have_no_rank_correlation():
    metrics = summarise([record(i, True, steps=4, difficulty=i) for i in range(5)])
    assert "spearman_steps_difficulty" not in metrics
    assert metrics["avg_reasoning_steps_low"] == metrics["avg_reasoning_steps_high"] == 4.0


def test_one_item_has_no_interval_of_the_mean():
    metrics = summarise([record(0, True)])
    assert metrics["avg_reasoning_steps"] == 3.0
    assert "avg_reasoning_steps_low" not in metrics


def test_no_items():
    assert summarise([]) == {"n": 0}


def test_a_broken_loss_stays_visible_and_json_stays_json():
    metrics = summarise([record(0, True, nll=float("nan")), record(1, False)])
    assert metrics["loss"] is None
    json.dumps(metrics, allow_nan=False)
    assert all(value is None or type(value) in (int, float) for value in metrics.values())
