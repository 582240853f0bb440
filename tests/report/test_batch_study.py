"""The batch study: what is measured, what is tested, what is recommended, and the files that carry its name."""

import csv
import json
import shutil
from dataclasses import replace
from statistics import fmean

import pytest
from written_batch_study import ARMS, EVERY, advice, judged, tables, write_arm_run, write_batch_study, write_untrained

from rtx_lab.core.rundir import write_json
from rtx_lab.report import batch_picture, batch_study
from rtx_lab.report.batch_tables import NOT_MEASURED
from rtx_lab.report.build import compose, read_study, write_report

NAMES = ["05a (8 x 8)", "05b (16 x 4)", "05c (64 x 1)"]
FILES = ["batch_optimization_report.md", "batch_optimization_results.csv", "memory_vs_speed.png", "summary_table.png",
         "training_curves.png"]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Three arms with three seeds, the untrained score, and the report."""
    root = tmp_path_factory.mktemp("study") / "batch_study"
    write_batch_study(root.parent)
    write_untrained(root.parent)
    write_report(root)
    return root


def files(root):
    """The files of the batch study alone, without the rest of the report, whose figures take long."""
    studies, folder = read_study(root).batches, root / "report"
    figures = batch_study.draw_batches(studies, folder)
    batch_study.copy_pictures(studies, folder)
    for name, text in batch_study.batch_texts(studies, figures).items():
        (folder / name).write_text(text)
    return folder, [figure for found in figures.values() for figure in found]


def test_the_files_lie_beside_the_report(study):
    names = [path.name for path in (study / "report").iterdir()]
    assert set(FILES) <= set(names)
    for name in FILES:
        if name.endswith(".png"):
            assert (study / "report" / name).read_bytes().startswith(b"\x89PNG")
    text = (study / "report" / FILES[0]).read_text()
    assert text.startswith("# Batch size and accumulation\n\n- Recommended: 05c (64 x 1)")
    assert "](figures/memory_vs_speed.png)" in text
    assert "## Batch study" in (study / "report" / "report.md").read_text()


def test_written_again_they_are_the_same_bytes_wherever_they_lie(study, tmp_path):
    first = {name: (study / "report" / name).read_bytes() for name in FILES}
    shutil.copytree(study.parent, tmp_path / "multirun", ignore=shutil.ignore_patterns("report"))
    again, _ = files(tmp_path / "multirun" / "batch_study")
    assert first == {name: (again / name).read_bytes() for name in FILES}


def test_arms_are_in_order_of_the_micro_batch_and_the_untrained_job_is_none(study):
    one = judged(study).study
    assert [arm.name for arm in one.arms] == NAMES
    assert [arm.micro_batch for arm in one.arms] == sorted(ARMS)
    assert (one.global_batch, one.on_cpu, one.differ_otherwise) == (64, False, False)
    assert [factor.key for factor in read_study(study).factors] == ["budget.micro_batch"], "eval_batch follows it"
    untrained = next(run for run in read_study(study).runs if run.config["budget"]["steps"] == 0)
    assert one.untrained == untrained.metric("validation/rouge_characters")


def test_speed_leaves_out_the_line_that_warms_up(study):
    rows = {row["arm"]: row for row in tables(study)["Speed"]}
    for name, (speed, _) in zip(NAMES, ARMS.values(), strict=True):
        row = rows[name]
        assert float(row["samples/s"]) == pytest.approx(speed, rel=0.011), "the first line took three times as long"
        assert float(row["steps/s"]) == pytest.approx(float(row["samples/s"]) / 64, rel=1e-2)
        assert row["real share"] == f"{180 / 210:.3f}"
        assert row["seeds"] == "3"


def test_memory_and_time_are_those_of_the_results(study):
    rows = {row["arm"]: row for row in tables(study)["Memory"]}
    row = rows[NAMES[2]]
    assert [row[f"{kind} (GB)"] for kind in ("mean allocated", "peak allocated", "mean reserved", "peak reserved")] == [
        "10.200", "17.000", "18.700", "20.400",
    ]  # fmt: skip
    assert row["out of memory"] == "0"
    assert "Out of memory" not in tables(study)
    time = {row["arm"]: row for row in tables(study)["Time"]}[NAMES[0]]
    parts = [float(time[name]) for name in ("data", "train", "evaluation", "checkpoint", "rest")]
    assert sum(parts) == pytest.approx(float(time["total"]), abs=0.03)
    assert time["rest"] == "0.15", "nine seconds of set-up"


def test_scores_and_the_way_there(study):
    found = tables(study)
    rows = {row["arm"]: row | price for row, price in zip(found["Score"], found["Score against cost"], strict=True)}
    one = judged(study).study
    best = max(look.score for arm in one.arms for looks in arm.looks for look in looks)
    assert one.target == pytest.approx(0.95 * best)
    for arm in one.arms:
        row = rows[arm.name]
        assert row["best ROUGE (characters)"] == f"{fmean(arm.values('best_score')):.3f}"
        firsts = [next(look for look in looks if look.score >= one.target) for looks in arm.looks]
        assert float(row["minutes to 95%"]) == pytest.approx(fmean(look.time_s for look in firsts) / 60, abs=0.006)
        gains = [
            (found["validation_score"] - one.untrained) / found["best_min"] for found in arm.measures
        ]  # fmt: skip
        assert float(row["gain per minute"]) == pytest.approx(fmean(gains), abs=6e-5)
        assert float(row["best score per GB"]) == pytest.approx(
            fmean(arm.values("best_score")) / ARMS[arm.micro_batch][1], abs=1e-4
        )
        assert row["95 % interval of test"].count(" to ") == 1


def test_a_target_that_some_seeds_missed_is_told_in_table_and_csv(tmp_path):
    for seed in (0, 1):
        write_arm_run(tmp_path, 8, seed, skill=0.32 if seed else 0.2)
    assert tables(tmp_path)["Score against cost"][0]["steps to 95%"] == "reached by 1 of 2 seeds"
    rows = list(csv.DictReader(batch_study.batch_texts(read_study(tmp_path).batches, {})[FILES[1]].splitlines()))
    assert [row["minutes_to_target"] == row["steps_to_target"] for row in rows] == [True, True, False]
    assert [row["steps_to_target"] for row in rows[:2]] == ["reached by 1 of 2 seeds", "not reached"]
    assert float(rows[2]["steps_to_target"]) % EVERY == 0


def test_the_picture_of_the_table_marks_what_reads_like_the_best(tmp_path):
    for micro, peak_gb in ((8, 4.0), (16, 4.0), (64, 17.0)):
        write_arm_run(tmp_path, micro, peak_gb=peak_gb)
    study = judged(tmp_path).study
    marked = batch_picture._best_cells(study)
    colours = batch_picture._MARKS
    assert {row for row, _, colour in marked if colour == colours["peak_allocated_gb"]} == {0, 1}
    assert [row for row, _, colour in marked if colour == colours["samples_per_s"]] == [2]
    alike = replace(study, arms=study.arms[:2])
    assert not [colour for *_, colour in batch_picture._best_cells(alike) if colour == colours["peak_allocated_gb"]]


def test_what_was_not_measured_is_said_to_be_and_never_zero(tmp_path):
    for seed in (0, 1):
        run = write_arm_run(tmp_path, 8, seed, on_gpu=False)
        result = json.loads(run.result_path.read_text())
        for key in ("time_split_s", "peak_memory_gb", "mean_memory_gb", "time_s"):
            del result[key]
        run.result_path.write_text(json.dumps(result))
        kept = [{"step": line["step"], "loss": line["loss"]} for line in run.read_metrics() if "loss" in line]
        run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    files(tmp_path)
    found = tables(tmp_path)
    told = {"arm", "seeds", "out of memory", "test ROUGE (characters)"}
    for rows in found.values():
        for column, cell in rows[0].items():
            assert column in told or "95 % interval" in column or cell == NOT_MEASURED, column
    assert found["Score"][0]["test ROUGE (characters)"] != NOT_MEASURED
    rows = list(csv.DictReader((tmp_path / "report" / FILES[1]).open()))
    for key in ("peak_allocated_gb", "samples_per_s", "train_min", "best_score", "gain_per_min"):
        assert {row[key] for row in rows} == {NOT_MEASURED}
    assert not (tmp_path / "report" / "memory_vs_speed.png").exists()
    assert (tmp_path / "report" / "summary_table.png").exists()
    assert advice(tmp_path)[0] == "No recommendation: the speed of no arm was measured."


def test_on_a_cpu_memory_is_that_of_the_process(tmp_path):
    write_batch_study(tmp_path, arms=(8, 64), seeds=(0, 1), on_gpu=False)
    said = advice(tmp_path)
    assert any("memory is the resident size of the whole process" in line for line in said)
    assert any(line.startswith("Memory: ") and "(of the process, not of a card)" in line for line in said)
    row = tables(tmp_path)["Memory"][0]
    assert row["mean reserved (GB)"] == row["peak reserved (GB)"] == NOT_MEASURED
    _, figures = files(tmp_path)
    assert all("memory of the process" in figure.caption for figure in figures)


def test_other_models_are_studies_of_their_own(tmp_path):
    write_batch_study(tmp_path, seeds=(0, 1), arms=(8, 64))
    write_batch_study(tmp_path, seeds=(0, 1), arms=(8, 64), change={"model.d_model": 128})
    studies, folder = read_study(tmp_path).batches, tmp_path / "report"
    texts = batch_study.batch_texts(studies, {})
    rows = list(csv.DictReader(texts[FILES[1]].splitlines()))
    assert [row["row"] for row in rows] == (["arm"] * 2 + ["run"] * 4) * 2
    assert texts[FILES[0]].count("## Batch study 2: pretrained_seq2_seq on dialogues") == 3
    (folder / "figures").mkdir(parents=True)
    for number in ("", "_2", "_3"):
        (folder / "figures" / f"memory_vs_speed{number}.png").write_bytes(b"png")
    batch_study.copy_pictures(studies, folder)
    assert sorted(path.name for path in folder.glob("*.png")) == ["memory_vs_speed.png", "memory_vs_speed_2.png"]
    titles = [part.title for part in compose(read_study(tmp_path), "x", {}).sections]
    assert [title for title in titles if title.startswith("Batch")] == [
        f"Batch study {number}: pretrained_seq2_seq on dialogues, global batch 64" for number in (1, 2)
    ]


def test_other_phases_are_no_batch_study_and_old_files_go(tmp_path):
    row = {"job": "x", "class": "refused", "reason": "too large"}
    write_json(tmp_path / "study.json", {"phase": "main", "jobs": [], "not_run": [row]})
    folder = tmp_path / "report"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text("old")
    (folder / "memory_vs_speed_of_mine.png").write_text("mine")
    write_report(tmp_path)
    assert not set(FILES) & {path.name for path in folder.iterdir()}
    assert (folder / "memory_vs_speed_of_mine.png").exists()
    assert read_study(tmp_path).batches == []


def test_one_arm_alone_and_a_study_without_a_finished_run_have_their_files_too(tmp_path):
    write_arm_run(tmp_path / "one", 8)
    folder, figures = files(tmp_path / "one")
    assert {path.name for path in folder.iterdir()} >= set(FILES)
    assert [figure.name for figure in figures] == ["memory_vs_speed", "training_curves"]
    write_arm_run(tmp_path / "none", 8, result={"status": "failed", "reason": "x", "metrics": {}})
    folder, figures = files(tmp_path / "none")
    assert figures == []
    assert {path.name for path in folder.iterdir()} == {*FILES[:2], "summary_table.png", "figures"}
