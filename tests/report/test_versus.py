"""Two sides set against each other: what may be said of them, where it stands, and what is refused."""

from dataclasses import replace

import pytest
from written_runs import answers, write_run

from rtx_lab.core.errors import UsageError
from rtx_lab.report.build import read_study, write_report
from rtx_lab.report.versus import compare_sides, compose_versus, say_versus, side_of, write_versus


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two settings with two seeds each, one of them clearly better, and one that is its like."""
    root = tmp_path_factory.mktemp("study") / "multirun"
    for seed in (0, 1):
        write_run(root, answers(60 + seed), seed=seed, model__num_slots=64)
        write_run(root, answers(100 + seed), seed=seed, model__num_slots=128)
        write_run(root, answers(62 - seed), seed=seed, model__num_slots=256)
    return root


def versus(root, left, right):
    study = read_study(root)
    groups = {group.label: group for group in study.groups}
    return compare_sides(groups[left], groups[right], study.leaf, study.comparisons)


def tables_of(found):
    document = compose_versus(found)
    return {table.title: {row[0]: row[1:] for row in table.rows} for part in document.sections for table in part.tables}


def test_a_difference_is_said_in_words_with_its_interval(root):
    settings, first, *_, seeds = say_versus(versus(root, "N=64", "N=128"))
    assert settings == "A and B differ in model.num_slots (64 against 128)."
    assert first.startswith(
        "Accuracy is 0.333 higher for B than for A (A 0.504, B 0.838; B - A = +0.333, 95 % interval +0."
    )
    assert "corrected p < 0.001" in first
    assert "exact McNemar pooled over seeds" in first
    assert seeds == "2 seeds a side."
    turned = say_versus(versus(root, "N=128", "N=64"))[1]
    assert turned.startswith("Accuracy is 0.333 lower for B than for A (A 0.838, B 0.504; B - A = -0.333")


def test_no_difference_is_said_with_what_could_have_been_shown(root):
    sentence = say_versus(versus(root, "N=64", "N=256"))[1]
    assert sentence.startswith(
        "No difference in accuracy can be shown (A 0.504, B 0.512; B - A = +0.008, 95 % interval -0."
    )
    assert "The smallest that could have been shown: 0." in sentence


def test_the_tables_hold_both_sides_in_full(root):
    found = versus(root, "N=64", "N=128")
    tables = tables_of(found)
    assert tables["The two sides"]["A"][0] == "N=64"
    assert tables["The two sides"]["A"][1].count("study/connection_transformer-diag-n64-") == 2
    assert tables["Settings that differ"] == {"model.num_slots": ["64", "128"]}
    assert tables["Numbers"]["test/accuracy"] == ["0.5042", "0.8375"]
    assert tables["Differences"]["accuracy"][0] == "+0.3333"
    assert tables["Differences"]["accuracy"][2] == "< 0.001"
    assert tables["Differences"].keys() == {"accuracy", "f1", "loss", "avg_reasoning_steps"}
    shares = [float(row[0]) for row in tables["Right answers"].values()]
    assert list(tables["Right answers"]) == ["both", "only A", "only B", "neither"]
    assert sum(shares) == pytest.approx(1, abs=0.002)
    assert shares[1:3] == [0.0, pytest.approx(1 / 3, abs=0.01)]


def test_two_single_runs_are_two_trained_models(root):
    one, other = (run for run in read_study(root).runs if "-n64-" in run.name)
    found = compare_sides(side_of(one), side_of(other), "accuracy", [])
    told = say_versus(found)
    assert told[0] == "A and B differ in seed (0 against 1)."
    assert told[-1] == "One seed a side: this speaks of two trained models, not of the settings."
    assert found.num_tests == 4
    study = read_study(root)
    assert compare_sides(side_of(one), side_of(other), "accuracy", study.comparisons).num_tests == 4 + 2
    shares = [row[0] for row in tables_of(found)["Right answers"].values()]
    assert shares == ["0.500", "0.000", "0.008", "0.492"]


def test_the_file_is_the_same_bytes_again_and_no_part_of_the_report(root):
    path = write_versus(root / "report", versus(root, "N=64", "N=128"))
    assert path == root / "report" / "compare-N=64-N=128.md"
    first = path.read_bytes()
    assert str(root).encode() not in first
    write_report(root)
    assert path.read_bytes() == first
    assert "against N=128" not in (root / "report" / "report.md").read_text()
    before = {name: name.stat().st_mtime_ns for name in (root / "report").rglob("*") if name != path}
    path.write_text("older")
    assert write_versus(root / "report", versus(root, "N=64", "N=128")).read_bytes() == first
    files = [name for name in before if name.is_file()]
    assert {name: name.stat().st_mtime_ns for name in files} == {name: before[name] for name in files}


def test_a_file_is_named_by_signatures_and_a_long_setting_is_cut(root, tmp_path):
    one, other, *_ = read_study(root).runs
    found = compare_sides(side_of(one), side_of(other), "accuracy", [])
    signatures = [run.path.name[-12:] for run in (one, other)]
    assert write_versus(tmp_path, found).name == "compare-{}-{}.md".format(*signatures)
    groups = read_study(root).groups
    wide = [replace(group, label=f"{'설정 ' * 90}{place}") for place, group in enumerate(groups)]
    names = {write_versus(tmp_path, compare_sides(wide[0], side, "accuracy", [])).name for side in wide[1:]}
    assert len(names) == 2
    assert max(len(name.encode()) for name in names) < 255


def test_what_cannot_be_compared_is_one_sentence(tmp_path):
    write_run(tmp_path, answers(20, 40), model__num_slots=64)
    write_run(tmp_path, answers(20, 41), model__num_slots=128)
    write_run(tmp_path, answers(20, 40), model__num_slots=256, result={"status": "failed", "reason": "disk"})
    with pytest.raises(UsageError, match="did not answer the same items"):
        versus(tmp_path, "N=64", "N=128")
    with pytest.raises(UsageError, match=r"N=256 has no finished run \(status failed\)"):
        versus(tmp_path, "N=64", "N=256")
    with pytest.raises(UsageError, match="stands on both sides: name two that differ"):
        versus(tmp_path, "N=64", "N=64")
