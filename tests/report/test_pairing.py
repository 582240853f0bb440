"""Denoisers set against each other: which records enter, what is one item, and which test judges a share."""

import json
import math

import pytest
from written_denoisers import MASKED, RECURSIVE, record, records_of, write_denoiser
from written_runs import answers, write_run

from rtx_lab.core.rundir import RunDir
from rtx_lab.report.build import read_study
from rtx_lab.report.groups import group_runs
from rtx_lab.report.pairing import compare, read_answers
from rtx_lab.report.runs import load_runs
from rtx_lab.report.versus import compare_sides, compose_versus
from rtx_lab.scoring.comparisons import compare_values

LEAVES = ("loss", "accuracy", "exact_match", "avg_reasoning_steps", "flops")


def compared(root, leaf):
    """The single pass against recursion."""
    groups = group_runs(load_runs(root))
    left, right = sorted(groups, key=lambda group: group.settings["model"])
    return compare(left, right, leaf, read_answers(groups, (*LEAVES, leaf))), left, right


def two(root, left, right, *, seeds=(0,)):
    for seed in seeds:
        write_denoiser(root, left, model=MASKED, seed=seed)
        write_denoiser(root, right, model=RECURSIVE, seed=seed)


@pytest.mark.parametrize("leaf", ["loss", "accuracy", "avg_reasoning_steps", "flops"])
def test_the_difference_is_that_of_the_metric(tmp_path, leaf):
    two(tmp_path, records_of(skill=0.5, passes=1), records_of(skill=0.6))
    found, left, right = compared(tmp_path, leaf)
    key = f"test/{leaf}"
    assert found.difference == pytest.approx(right.mean(key) - left.mean(key), rel=1e-9)
    assert found.low <= found.difference <= found.high


@pytest.mark.parametrize("leaf", ["mask/50/accuracy", "mask/90/loss", "mask/30/exact_match", "fixed/4/accuracy"])
def test_a_metric_of_a_part_is_compared_over_these_records_alone(tmp_path, leaf):
    two(tmp_path, records_of(skill=0.5, passes=4), records_of(skill=0.6))
    found, left, right = compared(tmp_path, leaf)
    assert found.difference == pytest.approx(right.mean(f"test/{leaf}") - left.mean(f"test/{leaf}"), rel=1e-9)
    assert found.num_items == 24


def test_a_part_that_one_side_does_not_have_is_no_pair(tmp_path):
    two(tmp_path, records_of(skill=0.5, passes=1), records_of(skill=0.6))
    assert "has no predictions" in compared(tmp_path, "fixed/4/loss")[0], "a single pass takes no four"
    assert "has no predictions" in compared(tmp_path, "mask/55/loss")[0]


def test_an_expectation_at_one_ratio_is_judged_over_its_texts(tmp_path):
    """So little of a difference that the intervals of both sides overlap, yet nearly the same on every text."""
    sides = {"better": {"model": "recursive_denoiser"}, "than": {"model": "masked_language_model"}}
    metrics = ("test/mask/50/accuracy", "test/mask/50/loss")
    rows = [{"claim": metric, "metric": metric, **sides} for metric in metrics]
    for skill, model in ((0.6, MASKED), (0.635, RECURSIVE)):
        write_denoiser(tmp_path, records_of(skill=skill), model=model, expect=rows)
    study = read_study(tmp_path)
    spans = [group.interval(metrics[0]) for group in study.groups]
    assert spans[0][0] < spans[1][1]
    assert spans[1][0] < spans[0][1]
    verdicts = {one.claim: one for one in study.verdicts}
    assert [verdicts[metric].verdict for metric in metrics] == ["reached", "reached"]
    assert "corrected p" in verdicts[metrics[0]].evidence
    compared_at = {one.leaf: one for one in study.comparisons}
    assert compared_at["mask/50/accuracy"].difference.num_items == 24


@pytest.mark.parametrize("leaf", ["loss", "accuracy", "exact_match"])
def test_what_has_fixed_steps_or_nothing_hidden_does_not_enter(tmp_path, leaf):
    sides = records_of(skill=0.5, passes=1), records_of(skill=0.6)
    kept = [[one for one in side if one["num_tokens"] and not one["fixed_steps"]] for side in sides]
    two(tmp_path / "all", *sides)
    two(tmp_path / "kept", *kept)
    found, *_ = compared(tmp_path / "all", leaf)
    assert found == compared(tmp_path / "kept", leaf)[0]


def test_sides_without_the_same_fixed_steps_are_compared_all_the_same(tmp_path):
    two(tmp_path, records_of(skill=0.5, passes=1, fixed=False), records_of(skill=0.6))
    assert compared(tmp_path, "loss")[0].difference < 0


def test_a_text_with_all_its_ratios_is_one_item_weighed_by_its_hidden_tokens(tmp_path):
    sides = records_of(skill=0.5, passes=1), records_of(skill=0.6)
    two(tmp_path, *sides)
    found, *_ = compared(tmp_path, "loss")
    sums, tokens = ([0.0] * 24, [0.0] * 24), [0.0] * 24
    for total, side in zip(sums, sides, strict=True):
        for one in side:
            if one["num_tokens"] and not one["fixed_steps"]:
                total[one["text"]] += one["nll"]
    for one in sides[0]:
        tokens[one["text"]] += one["num_tokens"] * (not one["fixed_steps"])
    rates = [[value / count for value, count in zip(total, tokens, strict=True)] for total in sums]
    expected = compare_values(*rates, tokens)
    assert found.num_items == expected.num_items == 24
    for name in ("difference", "low", "high", "p", "standard_error"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_shares_are_never_counted_as_right_or_wrong(tmp_path, seeds):
    two(tmp_path, records_of(skill=0.5, passes=1), records_of(skill=0.6), seeds=seeds)
    found, *_ = compared(tmp_path, "accuracy")
    assert found.method.startswith("paired bootstrap over items")


def test_shares_that_happen_to_be_whole_are_shares_all_the_same(tmp_path):
    def side(right):
        records = [record(text, 0.05, skill=0.5, steps=1) for text in range(12)]  # one token each
        return [one | {"correct": float(one["text"] in right), "num_right": one["text"] in right} for one in records]

    two(tmp_path, side({1, 2}), side({1, 2, 3, 4}))
    assert "McNemar" not in compared(tmp_path, "accuracy")[0].method


def test_shares_whose_texts_are_not_named_are_no_right_answers_either(tmp_path):
    sides = (records_of(skill=skill, passes=1) for skill in (0.5, 0.6))
    left, right = ([one for one in side if one["num_tokens"] and not one["fixed_steps"]] for side in sides)
    two(tmp_path, left, right)
    for run in load_runs(tmp_path):
        lines = [json.loads(line) for line in (run.path / "predictions.jsonl").read_text().splitlines()]
        RunDir(run.path).write_predictions([{key: one[key] for key in one if key != "text"} for one in lines])
    assert compared(tmp_path, "accuracy")[0].method == "paired bootstrap over items"


def test_other_texts_and_other_masks_are_no_pair(tmp_path):
    two(tmp_path / "texts", records_of(num_texts=20, passes=1), records_of())
    assert "did not answer the same items" in compared(tmp_path / "texts", "loss")[0]
    fewer = [one | {"num_tokens": one["num_tokens"] + (one["ratio"] == 0.9)} for one in records_of(passes=1)]
    two(tmp_path / "masks", fewer, records_of())
    for leaf in ("loss", "accuracy"):
        assert "count tokens differently" in compared(tmp_path / "masks", leaf)[0]


def test_a_likelihood_that_is_no_number_is_refused_by_name(tmp_path):
    broken = [one | {"nll": math.inf} if one["id"] == "test-3@50" else one for one in records_of(passes=1)]
    two(tmp_path, broken, records_of())
    assert "not every prediction of" in compared(tmp_path, "loss")[0]
    assert not isinstance(compared(tmp_path, "accuracy")[0], str)


def test_nothing_hidden_or_a_single_text_is_one_sentence(tmp_path):
    nothing = [record(text, 0.0, skill=0.5, steps=0) for text in range(5)]
    two(tmp_path / "nothing", nothing, nothing)
    two(tmp_path / "one", records_of(num_texts=1, passes=1), records_of(num_texts=1))
    for name in ("nothing", "one"):
        assert "fewer than two texts" in compared(tmp_path / name, "loss")[0]


def test_right_or_wrong_answers_keep_their_exact_test(tmp_path):
    write_run(tmp_path, answers(60), model__num_slots=64)
    write_run(tmp_path, answers(90), model__num_slots=128)
    (one,) = read_study(tmp_path).comparisons
    assert (one.difference.method, one.difference.num_items) == ("exact McNemar", 120)


def test_the_report_compares_denoisers_by_their_loss(tmp_path):
    two(tmp_path, records_of(skill=0.5, passes=1), records_of(skill=0.6), seeds=(0, 1))
    study = read_study(tmp_path)
    (one,) = study.comparisons
    assert (study.leaf, one.leaf, one.shown) == ("loss", "loss", True)
    assert one.right.settings["model"] == "recursive_denoiser", "the better by validation is the reference"


def test_two_denoisers_have_no_table_of_right_answers(tmp_path):
    two(tmp_path, records_of(skill=0.5, passes=1), records_of(skill=0.6))
    study = read_study(tmp_path)
    document = compose_versus(compare_sides(*study.groups, study.leaf, study.comparisons))
    tables = {table.title: table for part in document.sections for table in part.tables}
    assert {row[0] for row in tables["Differences"].rows} == {"loss", "accuracy", "avg_reasoning_steps"}
    assert "Right answers" not in tables
