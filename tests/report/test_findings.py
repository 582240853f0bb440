"""What a report concludes: comparisons, their correction, expectations, jobs that gave no result."""

import pytest
from scipy import stats
from written_runs import answers, write_run

from rtx_lab.core.rundir import write_json
from rtx_lab.report.build import read_study
from rtx_lab.report.expectations import REACHED
from rtx_lab.report.headlines import say_findings
from rtx_lab.report.runs import load_runs


def compared(study, leaf="accuracy"):
    return [one for one in study.comparisons if one.leaf == leaf]


def test_the_best_by_validation_is_the_reference_even_where_test_says_otherwise(tmp_path):
    write_run(tmp_path, answers(90), model__num_slots=64, validation=0.6)
    write_run(tmp_path, answers(60), model__num_slots=128, validation=0.7)
    study = read_study(tmp_path)
    (one,) = compared(study)
    assert (one.right.label, one.left.label) == ("N=128", "N=64")
    assert one.difference.difference == pytest.approx(-0.25)
    assert one.difference.p == pytest.approx(stats.binomtest(0, 30).pvalue)
    assert one.p == one.difference.p
    assert (one.shown, one.right_is_better) == (True, False)
    (sentence,) = say_findings(study.factors, study.comparisons)
    assert sentence.startswith("slots N (D = 256): accuracy with 128 is 0.250 lower than with 64 (95 % interval 0.17")
    assert "one seed a side" in sentence


def test_that_no_difference_can_be_shown_is_said_with_what_could_have_been(tmp_path):
    for seed in range(3):
        write_run(tmp_path, answers(60, shift=seed), seed=seed, model__num_slots=64, validation=0.6)
        write_run(tmp_path, answers(61, shift=2 * seed), seed=seed, model__num_slots=128)
    study = read_study(tmp_path)
    (one,) = compared(study)
    assert not one.shown
    (sentence,) = say_findings(study.factors, study.comparisons)
    assert "no difference in accuracy can be shown between 64 and 128" in sentence
    assert f"smallest difference that could have been shown: {one.detectable:.3f}" in sentence
    assert "3 seeds a side" in sentence


def test_every_test_of_the_report_is_corrected_together(tmp_path):
    for slots, right in ((64, 70), (128, 60), (256, 64), (512, 40)):
        write_run(tmp_path, answers(right), model__num_slots=slots, validation=right / 120)
    by_gap = sorted(compared(read_study(tmp_path)), key=lambda one: one.difference.p)
    raw = [stats.binomtest(0, n).pvalue for n in (30, 10, 6)]
    assert [one.difference.p for one in by_gap] == pytest.approx(raw)
    assert [one.p for one in by_gap] == pytest.approx([3 * raw[0], 2 * raw[1], raw[2]])


def test_along_the_threshold_the_reasoning_steps_are_compared_too(tmp_path):
    for threshold, steps in ((0.001, [6] * 100 + [5] * 20), (0.1, [2] * 120)):
        write_run(tmp_path, answers(60), model__convergence_threshold=threshold, steps=steps)
    (one,) = compared(read_study(tmp_path), "avg_reasoning_steps")
    assert abs(one.difference.difference) == pytest.approx(6 - 20 / 120 - 2)
    assert one.shown


def test_a_control_is_the_reference_among_models(tmp_path):
    write_run(tmp_path, answers(90), validation=0.9)
    baseline = {"_target_": "rtx_lab.models.transformer_baseline.TransformerBaseline"}
    write_run(tmp_path, answers(60), model=baseline, validation=0.1)
    (one,) = compared(read_study(tmp_path))
    assert one.right.label == "transformer_baseline"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run: run.predictions_path.unlink(), "has no predictions"),
        (lambda run: run.write_predictions([{"id": "test-0", "gold": "yes"}]), "not every prediction of"),
        (lambda run: run.write_predictions([{"id": "x", "gold": "yes", "correct": True}]), "did not answer the same"),
        (
            lambda run: run.write_predictions([{"id": f"test-{i}", "gold": "no", "correct": True} for i in range(120)]),
            "held against different right answers",
        ),
    ],
)
def test_what_is_no_pair_is_refused_with_its_reason(tmp_path, change, reason):
    write_run(tmp_path, answers(60), model__num_slots=64)
    change(write_run(tmp_path, answers(61), model__num_slots=128))
    (one,) = compared(read_study(tmp_path))
    assert one.difference is None
    assert reason in one.reason


def expect(*rows):
    return {"expect": list(rows)}


def verdicts(root):
    return {one.claim: one.verdict for one in read_study(root).verdicts}


def test_bounds_are_judged_by_the_interval(tmp_path):
    where = {"model": "connection_transformer", "dataset": "reasoning", "model.num_slots": 64.0}
    bounds = {"sure": 0.6, "open": 0.74, "missed": 0.9}
    rows = [{"claim": claim, "where": where, "at_least": bound} for claim, bound in bounds.items()]
    rows += [{"claim": "few", "where": where, "metric": "test/avg_reasoning_steps", "at_most": 4}]
    rows += [{"claim": "elsewhere", "where": {"model.num_slots": 7}, "at_least": 0.1}]
    write_run(tmp_path, answers(90), **expect(*rows))
    assert verdicts(tmp_path) == {
        "sure": "reached",
        "open": "cannot be told",
        "missed": "not reached",
        "few": "reached",
        "elsewhere": "cannot be told",
    }


def test_hours_are_summed_over_runs_and_wait_for_the_last(tmp_path):
    rows = [{"claim": "ample", "metric": "hours", "where": {"phase": "study"}, "at_most": 2}]
    rows += [{"claim": "tight", "metric": "hours", "where": {"phase": "study"}, "at_most": 0.7}]
    for seed in (0, 1):
        write_run(tmp_path, [1], seed=seed, **expect(*rows))
    assert verdicts(tmp_path) == {"ample": "reached", "tight": "not reached"}
    write_run(tmp_path, [1], seed=2, result={"status": "failed"}, **expect(*rows))
    assert verdicts(tmp_path) == {"ample": "cannot be told", "tight": "not reached"}


def test_runs_are_counted_by_how_they_ended(tmp_path):
    rows = [{"claim": "all", "metric": "runs_done", "where": {}, "at_least": 3}]
    rows += [{"claim": "patient", "metric": "runs_stopped_early", "where": {}, "at_most": 0}]
    for seed in (0, 1):
        write_run(tmp_path, [1], seed=seed, **expect(*rows))
    assert verdicts(tmp_path) == {"all": "not reached", "patient": "reached"}
    write_run(tmp_path, [1], seed=2, result={"reason": "stopped early at step 5: 2 evaluations"}, **expect(*rows))
    assert verdicts(tmp_path) == {"all": "reached", "patient": "not reached"}


def test_better_than_is_judged_by_the_paired_test(tmp_path):
    rows = [
        {"claim": "more", "better": {"model.num_slots": 128}, "than": {"model.num_slots": 64}},
        {"claim": "less", "better": {"model.num_slots": 64}, "than": {"model.num_slots": 128}},
        {"claim": "same", "better": {"model.num_slots": 256}, "than": {"model.num_slots": 128}},
        {"claim": "none", "better": {"model.num_slots": 9}, "than": {"model.num_slots": 128}},
    ]
    for slots, right in ((64, 50), (128, 90), (256, 91)):
        write_run(tmp_path, answers(right), model__num_slots=slots, validation=right / 120, **expect(*rows))
    expected = {"more": "reached", "less": "not reached", "same": "cannot be told", "none": "cannot be told"}
    assert verdicts(tmp_path) == expected
    study = read_study(tmp_path)
    assert len(study.comparisons) == 3, "256 against each, and 64 against 128 for the expectation: each pair once"


def test_presets_are_held_against_one_another_though_more_than_the_claim_differs(tmp_path):
    row = {"claim": "x", "better": {"model.connection": "diag"}, "than": {"model.connection": "linear"}}
    write_run(tmp_path, answers(100), **expect(row))
    write_run(tmp_path, answers(50), model__connection="linear", model__num_slots=256, model__bilinear_rank=None)
    assert verdicts(tmp_path) == {"x": REACHED}


def test_other_datasets_are_judged_by_intervals(tmp_path):
    sides = {"better": {"dataset": "gsm8k"}, "than": {"dataset": "sst2"}}
    rows = [{"claim": "deeper", "metric": "test/avg_reasoning_steps", **sides}]
    for dataset, steps in (("gsm8k", [5, 6] * 20), ("sst2", [2, 3] * 20)):
        target = {"_target_": f"rtx_lab.data.corpora.{dataset}"}
        write_run(tmp_path, answers(20, 40), dataset=target, steps=steps, **expect(*rows))
    assert verdicts(tmp_path) == {"deeper": "reached"}


def test_jobs_without_a_result_are_listed_with_class_and_reason(tmp_path):
    write_run(tmp_path, [1], seed=0)
    write_run(tmp_path, [1], seed=1, result={"status": "diverged", "reason": "step 12 is\nnot finite"})
    write_run(tmp_path, [1], seed=2).result_path.unlink()
    write_run(tmp_path, [1], seed=3).result_path.write_text("{")
    refused = {"job": "model.connection=dense", "class": "refused", "reason": "needs 69 GB"}
    study = {"phase": "study", "jobs": ["study/later-0123456789ab"], "not_run": [refused]}
    write_json(tmp_path / "study" / "study.json", study)
    for path in (tmp_path, tmp_path / "study"):
        found = {one.status: (one.job, one.reason) for one in read_study(path).missing}
        assert found["diverged"][1] == "step 12 is not finite"
        assert found["refused"] == ("model.connection=dense", "needs 69 GB")
        assert found["waiting"] == ("study/later", "not started")
        assert "same command" in found["killed"][1]
        assert found["broken"][1] == "result.json cannot be read"
        assert len(found) == 5
    assert len(load_runs(tmp_path)) == 4
