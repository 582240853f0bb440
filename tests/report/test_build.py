"""The whole report: its files, their numbers, the same bytes again, and damage that breaks nothing."""

import csv
import re
import shutil

import pytest
from written_runs import answers, write_run

from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import write_json
from rtx_lab.report.build import compose, read_study, write_report
from rtx_lab.report.document import Document, Section, Table
from rtx_lab.report.exports import to_latex
from rtx_lab.report.markdown import to_markdown


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two settings with two seeds each, one of them clearly better, and its report."""
    root = tmp_path_factory.mktemp("study") / "multirun"
    labels = {"model.num_slots=64": "4to1_compression"}
    expect = [{"claim": "64 slots suffice", "where": {"model.num_slots": 64}, "at_least": 0.9}]
    for seed in (0, 1):
        write_run(root, answers(60 + seed), seed=seed, model__num_slots=64, labels=labels, expect=expect)
        write_run(root, answers(100 + seed), seed=seed, model__num_slots=128, validation=0.8, labels=labels)
    write_report(root)
    return root


def say(root):
    """The report without its figures, which take most of its time."""
    return compose(read_study(root), "multirun", {})


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_report_is_all_there(study):
    names = set(contents(study / "report"))
    assert {"report.md", "report.html", "results.csv", "comparisons.csv"} <= names
    assert {"tables/results.tex", "tables/comparisons.tex", "tables/cost.tex"} <= names
    text = (study / "report" / "report.md").read_text()
    drawn = re.findall(r"\]\((figures/\S+\.png)\)", text)
    assert drawn
    assert {*drawn, *(name.replace(".png", ".svg") for name in drawn)} == {n for n in names if n.startswith("figures/")}


def test_it_says_first_what_was_found(study):
    text = (study / "report" / "report.md").read_text()
    head, _, rest = text.partition("\n## ")
    assert head.startswith("# Report: multirun\n\n- All 4 jobs finished.\n- Best by validation on reasoning: N=128")
    assert "test accuracy 0.838" in head
    assert "accuracy with 128 is 0.333 higher than with 64 (4to1_compression)" in head
    assert "Of 1 expectations: 0 reached, 1 not reached, 0 cannot be told." in head
    titles = re.findall(r"^## (.*)$", text, re.M)
    assert titles == [
        "What was run", "Results", "Comparisons", "Expectations", "By factor", "Reasoning steps", "Cost",
        "How this was computed",
    ]  # fmt: skip
    assert "N=128 (best by validation) | 2 | 120 | 0.838 |" in rest
    assert "| N=64 (4to1_compression) | 0.00 | 0.50 | 1,015 | 1.90 | 2.00 | - |" in rest
    assert "All runs together: 2.00 h." in rest


def test_written_again_it_is_the_same_bytes_wherever_it_lies(study, tmp_path):
    first = contents(study / "report")
    write_report(study)
    assert contents(study / "report") == first
    shutil.copytree(study, tmp_path / "multirun", ignore=shutil.ignore_patterns("report"))
    write_report(tmp_path / "multirun")
    assert contents(tmp_path / "multirun" / "report") == first
    assert not any(str(study).encode() in data for data in first.values())


def test_what_an_earlier_report_drew_does_not_stay(study):
    for name in ("figures/old.png", "figures/old.svg", "tables/old.tex"):
        (study / "report" / name).write_text("x")
    (study / "report" / "notes.txt").write_text("mine")
    write_report(study)
    assert not [name for name in contents(study / "report") if "old." in name]
    assert (study / "report" / "notes.txt").read_text() == "mine"
    (study / "report" / "notes.txt").unlink()


def test_the_csv_files_hold_every_run_and_comparison(study):
    rows = list(csv.DictReader((study / "report" / "results.csv").open()))
    assert [(row["model.num_slots"], row["seed"], row["status"]) for row in rows] == [
        ("128", "0", "done"), ("128", "1", "done"), ("64", "0", "done"), ("64", "1", "done"),
    ]  # fmt: skip
    assert float(rows[3]["test/accuracy"]) == 61 / 120
    assert rows[0]["energy_kwh"] == ""
    (row,) = csv.DictReader((study / "report" / "comparisons.csv").open())
    assert float(row["difference"]) == pytest.approx(40 / 120)
    assert (row["items"], row["seeds_right"], row["seeds_left"]) == ("120", "2", "2")


def test_a_folder_without_runs_is_refused_and_left_as_it_is(tmp_path):
    with pytest.raises(UsageError, match="there are no runs at or below"):
        write_report(tmp_path / "empty")
    assert not (tmp_path / "empty").exists()


def test_damage_is_named_and_never_breaks_the_report(tmp_path):
    whole = write_run(tmp_path, answers(60), seed=0, model__num_slots=64)
    broken = {
        "result.json": write_run(tmp_path, answers(60), seed=1),
        "config.yaml": write_run(tmp_path, answers(60), seed=2),
        "metrics.jsonl": write_run(tmp_path, answers(60), seed=3),
        "predictions.jsonl": write_run(tmp_path, answers(60), seed=4),
    }
    for file, run in broken.items():
        data = (run.path / file).read_text()
        (run.path / file).write_text(data[: len(data) // 2])
    odd = {"metrics": [1], "best": "high", "time_s": None, "parameters": "many", "monitor": 3}
    write_run(tmp_path, answers(60), seed=5, result=odd)
    nulls = {"metrics": {"test/accuracy": None, "test/n": None, "validation/accuracy": None}}
    write_run(tmp_path, answers(60), seed=6, result=nulls)
    lost = write_run(tmp_path, answers(60), seed=7)
    lost.predictions_path.unlink()
    (lost.path / "metrics.jsonl").unlink()
    text = (write_report(tmp_path) / "report.md").read_text()
    assert "result.json cannot be read" in text
    assert "config.yaml is cut" in text
    assert "without predictions.jsonl and metrics.jsonl" in text
    assert "without the metrics of result.json" in text
    assert whole.path.is_dir()


def test_only_refused_jobs_are_a_report_too(tmp_path):
    row = {"job": "model.connection=dense", "class": "refused", "reason": "needs 69 GB of 24"}
    write_json(tmp_path / "study.json", {"phase": "baselines", "jobs": [], "not_run": [row]})
    text = (write_report(tmp_path) / "report.md").read_text()
    assert "- 0 of 1 jobs finished; 1 refused." in text
    assert "| model.connection=dense | refused | needs 69 GB of 24 |" in text


def test_one_run_is_a_report_of_its_own(tmp_path):
    run = write_run(tmp_path, answers(90))
    text = (write_report(run.path) / "report.md").read_text()
    assert "- The job finished." in text
    assert "test accuracy 0.750, 95 % interval 0.666 to 0.819 (1 seed)" in text
    assert "Every setting has one seed" in text


def test_datasets_get_tables_of_their_own_and_a_mean_rank(tmp_path):
    for dataset, best in (("gsm8k", 64), ("logiqa", 64), ("strategyqa", 128)):
        for slots in (64, 128):
            target = {"_target_": f"rtx_lab.data.corpora.{dataset}"}
            write_run(
                tmp_path, answers(60), dataset=target, model__num_slots=slots, validation=0.5 + (slots == best) / 9
            )
    tables = {table.title: table for section in say(tmp_path).sections for table in section.tables}
    assert tables["Mean rank"].rows == [["N=64", "1.33"], ["N=128", "1.67"]]
    assert {"Results on gsm8k", "Results on logiqa", "Results on strategyqa"} <= tables.keys()


def test_markup_in_data_is_text():
    table = Table(title="T", columns=("a_b", "n"), rows=[["x|y *z* <b> _q", "1"]], numeric=frozenset({"n"}))
    text = to_markdown(Document(title="a_b", headlines=["[x]"], sections=[Section(title="S", tables=[table])]))
    assert "| x\\|y \\*z\\* \\<b> \\_q | 1 |" in text
    assert "| :--- | ---: |" in text
    assert "- \\[x\\]" in text


def test_latex_is_escaped_and_ruled():
    table = Table(title="T", columns=("a_b", "95 %"), rows=[["[x] & {y}", "1\\2"]], numeric=frozenset({"95 %"}))
    assert to_latex(table).splitlines() == [
        "% needs \\usepackage{booktabs}",
        "\\begin{tabular}{lr}",
        "\\toprule",
        "a\\_b & 95 \\% \\\\",
        "\\midrule",
        "{[x] \\& \\{y\\}} & 1\\textbackslash{}2 \\\\",
        "\\bottomrule",
        "\\end{tabular}",
    ]
