"""What a batch study recommends: from tests and numbers alone, and that nothing can be told is one of the answers."""

import pytest
from written_batch_study import EVERY, advice, judged, out_of_memory, tables, write_arm_run, write_batch_study

from rtx_lab.report.batch_advice import choose
from rtx_lab.report.batch_runs import shape_words
from rtx_lab.report.batch_tables import NOT_MEASURED

NAMES = ["05a (8 x 8)", "05b (16 x 4)", "05c (64 x 1)"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three arms with three seeds."""
    root = tmp_path_factory.mktemp("study")
    write_batch_study(root)
    return root


def test_equal_scores_are_called_so_and_the_fastest_is_recommended(study):
    choice, scores, expected, *_ = told = advice(study)
    assert choice.startswith("Recommended: 05c (64 x 1) (budget.micro_batch=64): it trains faster than 05a")
    assert choice.endswith("no arm was shown to reach another score.")
    assert scores.startswith("Score: no significant difference in test ROUGE (characters) between any two arms")
    assert "60 items, 3 seeds a side" in scores
    assert "the same optimisation up to dropout masks and rounding" in expected
    assert any(line.startswith("Memory: 05a (8 x 8) is best with 4.00 GB at most; 05b") for line in told)
    assert len(judged(study).scores) == 3


def test_speed_within_the_noise_is_no_reason(tmp_path):
    for seed, factor in enumerate((0.9, 1.0, 1.12)):
        write_arm_run(tmp_path, 8, seed, speed=300)
        write_arm_run(tmp_path, 64, seed, speed=303 * factor)
    said = advice(tmp_path)
    assert said[0].startswith("Recommended: 05a (8 x 8) (budget.micro_batch=8): no significant difference in speed to")
    assert "and less memory" in said[0]
    assert any(line.startswith("Speed: ") and "no significant difference, p = " in line for line in said)


def test_a_real_difference_in_score_is_a_warning_and_a_reason(tmp_path):
    write_batch_study(tmp_path, arms=(8, 16))
    write_batch_study(tmp_path, arms=(64,), skill=0.2)
    said = advice(tmp_path)
    assert said[0].startswith("Recommended: 05b (16 x 4)")
    assert "no arm was shown to reach a better score" in said[0]
    assert any("of 05c (64 x 1) is 0." in line and "lower than of 05a (8 x 8)" in line for line in said)
    assert any("look for what else differed" in line for line in said)
    assert any(
        "no significant difference in test ROUGE (characters) between 05a (8 x 8) and 05b" in line for line in said
    )


def test_running_out_of_memory_is_counted_and_told(tmp_path):
    write_batch_study(tmp_path, arms=(8, 16))
    write_arm_run(tmp_path, 64, 0, result={"events": [out_of_memory(), out_of_memory(step=9, size=32)]})
    write_arm_run(tmp_path, 64, 1)
    write_arm_run(tmp_path, 64, 2, result={"status": "out_of_memory", "reason": "step 1: not even one", "metrics": {}})
    rows = {row["arm"]: row for row in tables(tmp_path)["Memory"]}
    assert rows[NAMES[2]]["out of memory"] == "3"
    where = [list(row.values()) for row in tables(tmp_path)["Out of memory"]]
    assert where == [
        [NAMES[2], "seed 0, step 3: 64 samples, 64 x 512 x 128; went on with 32"],
        [NAMES[2], "seed 0, step 9: 32 samples, 32 x 512 x 128; went on with 16"],
        [NAMES[2], "seed 2, step 1: not even one"],
    ]
    said = advice(tmp_path)
    assert said[0].startswith("Recommended: 05b (16 x 4)"), "the fastest arm does not fit"
    assert "05c (64 x 1) ran out of memory on the way" in said[0]
    assert any(line.startswith("Out of memory: 05c (64 x 1) 3 times") for line in said)
    assert "05c (64 x 1): 1 of 3 runs did not come to their end (out_of_memory)." in said


def test_one_seed_and_one_arm_are_no_study_of_differences(tmp_path):
    write_batch_study(tmp_path / "seed", seeds=(0,))
    said = advice(tmp_path / "seed")
    assert any("One seed an arm" in line for line in said)
    assert any("not tested, fewer than two seeds" in line for line in said)
    assert said[0].startswith("Recommended: 05c (64 x 1) (budget.micro_batch=64): the faster one by its numbers")
    write_arm_run(tmp_path / "arm", 8)
    assert advice(tmp_path / "arm")[0] == "Only 05a (8 x 8) came to its end, so there is no choice to make."


def test_without_an_untrained_job_the_slope_begins_at_the_first_evaluation(tmp_path):
    write_batch_study(tmp_path, arms=(8,), seeds=(0,))
    (arm,) = judged(tmp_path).study.arms
    looks = arm.looks[0]
    best = max(looks, key=lambda look: look.score)
    expected = (best.score - looks[0].score) / ((best.time_s - looks[0].time_s) / 60)
    assert arm.mean("gain_per_min") == pytest.approx(expected)
    assert looks[0].step == EVERY
    assert any("The untrained score was not measured" in line for line in advice(tmp_path))


def test_only_failed_runs_are_a_study_without_recommendation(tmp_path):
    for seed in (0, 1):
        broken = {"status": "out_of_memory", "reason": "step 1: too large", "metrics": {}, "events": []}
        write_arm_run(tmp_path, 64, seed, result=broken)
    write_arm_run(tmp_path, 8).result_path.unlink()
    said = advice(tmp_path)
    assert said[0] == "No arm came to its end, so nothing can be recommended."
    assert {row["out of memory"] for row in tables(tmp_path)["Memory"]} == {"2", NOT_MEASURED}


def test_factors_beside_the_cut_stand_in_the_names_and_may_change_the_score(tmp_path):
    for checkpointing in (True, False):
        for optimizer in ("adamw", "adamw_8bit"):
            change = {"budget.gradient_checkpointing": checkpointing, "optim._target_": f"rtx_lab.optim.{optimizer}"}
            write_arm_run(tmp_path, 8, change=change, phase="batch_study_factors")
    one = judged(tmp_path).study
    assert sorted(arm.name for arm in one.arms) == [
        f"05a (8 x 8), gradient_checkpointing={value}, {name}"
        for value in ("false", "true") for name in ("adamw", "adamw_8bit")
    ]  # fmt: skip
    assert one.differ_otherwise
    assert not any("same optimisation" in line for line in advice(tmp_path))


@pytest.mark.parametrize(
    ("labels", "result", "name"),
    [
        ({}, {}, "8 x 8"),
        ({"budget.micro_batch=8": "small"}, {}, "small: 8 x 8"),
        ({"budget.micro_batch=16": "other"}, {"num_processes": 2}, "8 x 4 on 2 GPUs"),
    ],
)
def test_an_arm_is_named_by_how_the_batch_is_cut(tmp_path, labels, result, name):
    write_arm_run(tmp_path, 8, result=result, labels=labels)
    assert [arm.name for arm in judged(tmp_path).study.arms] == [name]


def test_micro_batches_that_a_run_found_or_counts_in_tokens_name_the_arm(tmp_path):
    found = [{"event": "micro_batch_found", "micro_batch": 32}]
    write_arm_run(tmp_path, "auto", result={"events": found}, labels={})
    write_arm_run(tmp_path, None, change={"budget.micro_tokens": 8192, "budget.eval_batch": 128}, labels={})
    assert sorted(arm.name for arm in judged(tmp_path).study.arms) == ["32 x 2", "8192 tokens"]


def test_the_choice_among_arms_follows_the_rule(study):
    one = judged(study)
    assert choose(one.study, one.scores, one.costs).name == NAMES[2]
    slow = [test for test in one.costs if test.key != "samples_per_s"]
    assert choose(one.study, one.scores, slow).name == NAMES[2], "without a test the numbers are taken as they are"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"step": 3, "micro_tokens": 8192, "retried_with": 5734, "shape": [8, 512, 128]},
         "step 3: 8192 tokens, 8 x 512 x 128; went on with 5734"),
        ({"split": "test", "micro_batch": 4, "retried_with": 2}, "evaluation of test: 4 samples; went on with 2"),
        ({"step": 2, "where": "update"}, "step 2 update"),
        ({"shape": {"source": [2, 9]}}, "place not recorded: source 2 x 9"),
        ({"reason": "not even one sample"}, "not even one sample"),
    ],
)  # fmt: skip
def test_where_memory_ran_out_is_told_in_words(event, text):
    assert shape_words({"event": "out_of_memory", **event}) == text
