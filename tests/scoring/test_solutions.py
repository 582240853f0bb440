import json

import pytest

from rtx_lab.scoring.intervals import wilson_interval
from rtx_lab.scoring.solutions import answer_lines, judge, summarise


@pytest.mark.parametrize(
    ("text", "gold", "correct", "strict"),
    [
        ("He has 12.\n#### 1,000", "1000", True, True),
        ("#### 1000", "1,000", True, True),
        ("####1000.00", "1000", True, True),
        ("#### $1,000 ", "1000", True, True),
        ("#### 1000 cups", "1000", True, True),
        ("#### 5.00", "5", True, True),
        ("#### .5", "1/2", True, True),
        ("#### -7", "-7", True, True),
        ("#### 7", "-7", False, False),
        ("#### - 7", "-7", True, True),
        ("#### 50%", "50", True, True),
        ("#### 3", "3000", False, False),
        ("#### 3,00", "300", False, False),
        ("#### <<500*2=1000>>1000", "1000", True, True),
        ("#### 9\nno: #### 8", "8", True, True),
        ("#### Step 1: add\n3 + 5 = 8", "8", True, False),
        ("#### Step 1: add\n3 + 5 = \\boxed{8}", "8", True, True),
        ("#### 8\nQuestion: more\n#### 9", "8", False, False),
        ("The answer is 8. ####", "8", False, False),
        ("so \\boxed{8}", "8", True, True),
        ("\\boxed{7}, no, \\boxed{8}", "8", True, True),
        ("\\boxed{8}, no, \\boxed{7}", "8", False, False),
        ("\\boxed{\\text{8 cups}}", "8", True, True),
        ("\\boxed{1{,}000}", "1000", True, True),
        ("\\boxed{\\frac{16}{2}}", "8", True, True),
        ("\\boxed{\\$\\mathbf{8}}", "8", True, True),
        ("\\boxed{8", "8", False, False),
        ("#### \\boxed{8}", "8", True, True),
        ("The answer is 8 cups.", "8", True, False),
        ("3 + 5 = 8", "8", True, False),
        ("3 + 5 = 8", "3", False, False),
        ("eight", "8", False, False),
        ("", "8", False, False),
        ("#### 8", "", False, False),
        ("", "", False, False),
    ],
)
def test_which_answers_are_right(text, gold, correct, strict):
    assert judge(text, gold) == {"correct": correct, "correct_strict": strict}


def record(number, **changes):
    usual = {
        "id": f"test-{number}",
        "row": number,
        "prompt": f"Question {number}\n",
        "prediction": "It is 8 \u2028 .\n#### 8",
        "gold": "8",
        "solution": "3 + 5 = 8\n#### 8",
        "correct": True,
        "correct_strict": True,
        "num_tokens": 10,
        "cut": False,
        "decided_at": [],
        "inserted_at": [],
        "num_latents": 0,
        "seconds": 0.5,
        "difficulty": 1,
        "family": None,
    }
    return usual | changes


def test_metrics_of_four_answers_by_hand():
    records = [
        record(0, decided_at=[0, 4, 9], inserted_at=[0], num_latents=8, seconds=1.5),
        record(1, correct_strict=False, decided_at=[0], inserted_at=[0], num_latents=8, num_tokens=30),
        record(2, correct=False, correct_strict=False, cut=True, difficulty=2, num_tokens=100),
        record(3, decided_at=[0, 5], inserted_at=[0, 5], num_latents=16, difficulty=2, num_tokens=20),
    ]
    metrics = summarise(records)
    low, high = wilson_interval(3, 4)
    assert (metrics["n"], metrics["accuracy"], metrics["accuracy_low"], metrics["accuracy_high"]) == (
        4,
        0.75,
        low,
        high,
    )
    low, high = wilson_interval(2, 4)
    strict = [metrics[f"accuracy_strict{end}"] for end in ("", "_low", "_high")]
    assert strict == [0.5, low, high]
    assert metrics["insertion_rate"] == 4 / 6  # decisions weigh, not answers
    assert metrics["latents_per_answer"] == 8
    assert metrics["tokens_per_answer"] == 40
    assert metrics["seconds_per_answer"] == 0.75
    assert metrics["share_cut"] == 0.25
    assert metrics["difficulty/1/accuracy"] == 1.0
    assert metrics["difficulty/2/accuracy"] == 0.5
    assert not [name for name in metrics if name.startswith(("ltpo", "family"))]


def test_test_time_optimisation_counts_where_it_took_place():
    records = [
        record(0, ltpo_first=1.0, ltpo_best=2.5, ltpo_moved=0.25, ltpo_steps=10),
        record(1, ltpo_first=2.0, ltpo_best=2.5, ltpo_moved=0.75, ltpo_steps=4),
        record(2, ltpo_first=None, ltpo_best=None, ltpo_moved=None, ltpo_steps=None),
    ]
    metrics = summarise(records)
    found = {name: value for name, value in metrics.items() if name.startswith("ltpo")}
    assert found == {"ltpo_reward_gain": 1.0, "ltpo_moved": 0.5, "ltpo_steps": 7.0}


def test_no_decision_is_no_rate():
    assert "insertion_rate" not in summarise([record(0)])
    assert summarise([record(0, decided_at=[0, 3])])["insertion_rate"] == 0.0


def test_keys_stand_in_one_order_and_groups_last():
    rising, falling = ([record(n, difficulty=d, decided_at=[0]) for n, d in enumerate(ds)] for ds in ([1, 2], [2, 1]))
    assert list(summarise(rising)) == list(summarise(falling))
    names = list(summarise(rising))
    assert names[:7] == [
        "n", "accuracy", "accuracy_low", "accuracy_high", "accuracy_strict", "accuracy_strict_low",
        "accuracy_strict_high",
    ]  # fmt: skip
    first_group = next(place for place, name in enumerate(names) if "/" in name)
    assert all("/" in name for name in names[first_group:])


def test_answer_lines_are_json_lines_with_a_summary_last():
    *answers, last = answer_lines([record(0), record(1, correct=False)]).rstrip("\n").split("\n")
    assert [json.loads(line) for line in answers] == [
        {
            "prompt": f"Question {number}\n",
            "solution": "3 + 5 = 8\n#### 8",
            "completion": "It is 8 \u2028 .\n#### 8",
            "metrics": {"compute_reward": reward},
        }
        for number, reward in ((0, 1.0), (1, 0.0))
    ]
    assert json.loads(last) == {"summary_metrics": {"compute_reward": 0.5}}
    assert json.loads(answer_lines([])) == {"summary_metrics": {"compute_reward": None}}
