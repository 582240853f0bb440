"""The summary of a phase with stages: every job with its times, status, scores, memory and log."""

import json

import pytest
from written_runs import answers, write_run
from written_summaries import write_summariser

from rtx_lab.core.rundir import write_json
from rtx_lab.report.build import write_report

STAGES = ["baseline_kobart", "mt5_xlsum_ultimate", "eenzeenee_t5", "high_learning_rate"]


def moments(start, end):
    return {"started_at": f"2026-11-21T{start}+00:00", "ended_at": f"2026-11-21T{end}+00:00"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A campaign of four: one done, one out of memory, one refused before the start, one not started; its report."""
    root = tmp_path_factory.mktemp("summary") / "multirun"
    done = write_summariser(root, 0.4, result=moments("08:00:00", "08:15:00"))
    lost = {"status": "out_of_memory", "reason": "step 2: memory ran out\nbeside it", "metrics": {}, "time_s": 90.0}
    other = write_summariser(root, 0.4, phase=STAGES[1], result=lost | moments("08:16:00", "08:17:30"))
    (other.path / "train.log").unlink()
    jobs = [f"{run.path.parent.name}/{run.path.name}" for run in (done, other)]
    refused = {"job": "eenzeenee_t5: seed=0", "class": "no parent", "reason": "no finished run"}
    write_json(root / "main7" / "study.json", {
        "phase": "main7", "command": ["python", "train.py", "-m", "phase=main7"], "stages": STAGES,
        "jobs": [*jobs, "high_learning_rate/kobart-seed0-0123456789ab"], "not_run": [refused],
    })  # fmt: skip
    return write_report(root / "main7")


def test_the_text_says_what_the_shell_runner_said(folder):
    text = (folder / "experiment_summary.txt").read_text().splitlines()
    assert text[:6] == [
        "experiment summary: main7",
        "stages   baseline_kobart, mt5_xlsum_ultimate, eenzeenee_t5, high_learning_rate",
        "start    2026-11-21 08:00:00 UTC",
        "end      2026-11-21 08:17:30 UTC",
        "took     17.5 min; all jobs together 16.5 min",
        "done     1 of 4",
    ]
    heads = [line for line in text if line[:3].strip().rstrip(".").isdecimal()]
    assert heads == [
        " 1. baseline_kobart, seed 0: done, 15.0 min",
        " 2. mt5_xlsum_ultimate, seed 0: out_of_memory, 1.5 min",
        " 3. eenzeenee_t5: no parent, not recorded",
        " 4. high_learning_rate: waiting, not recorded",
    ]
    (scores,) = (line for line in text if "scores" in line)
    assert [part.split("[")[0].split("0.")[0].strip() for part in scores.split("scores")[1].split("], ")] == [
        "ROUGE-1 (characters)", "ROUGE-2 (characters)", "ROUGE-L (characters)",
    ]  # fmt: skip
    assert "    reason   step 2: memory ran out beside it" in text
    assert "    reason   no finished run" in text
    assert "    memory   7.50 GB at most" in text


def test_the_data_hold_the_same(folder):
    told = json.loads((folder / "experiment_summary.json").read_text())
    assert (told["done"], told["total"], told["minutes"], told["minutes_of_jobs"]) == (1, 4, 17.5, 16.5)
    assert told["command"] == ["python", "train.py", "-m", "phase=main7"]
    first, second, refused, waiting = told["experiments"]
    assert (first["start"], first["end"]) == ("2026-11-21T08:00:00+00:00", "2026-11-21T08:15:00+00:00")
    assert first["scores"]["rouge1_characters"]["tokens"] == "characters"
    assert 0 < first["scores"]["rouge1_characters"]["low"] < first["scores"]["rouge1_characters"]["value"]
    assert first["log"] == f"{first['run']}/train.log"
    assert (second["log"], second["scores"]) == (None, {})
    assert (refused["status"], waiting["status"], waiting["minutes"]) == ("no parent", "waiting", None)


def test_written_again_it_is_the_same_and_names_no_machine(folder):
    files = [folder / f"experiment_summary.{kind}" for kind in ("txt", "json")]
    first = [path.read_bytes() for path in files]
    write_report(folder.parent)
    assert first == [path.read_bytes() for path in files]
    assert not any(str(folder.parent.parent).encode() in data for data in first)


def test_tasks_without_rouge_tell_what_they_monitor(tmp_path):
    run = write_run(tmp_path, answers(60))
    name = f"{run.path.parent.name}/{run.path.name}"
    write_json(tmp_path / "all" / "study.json", {"phase": "all", "stages": ["study"], "jobs": [name]})
    text = (write_report(tmp_path / "all") / "experiment_summary.txt").read_text()
    assert "    scores   accuracy 0.500 [0.4" in text
    assert "    from     not recorded to not recorded" in text
    (run.path / "result.json").write_text("{")
    text = (write_report(tmp_path / "all") / "experiment_summary.txt").read_text()
    assert "1. study, seed 0: broken, not recorded" in text
    assert "result.json cannot be read" in text


def test_a_phase_without_stages_has_none(tmp_path):
    write_run(tmp_path, answers(60))
    folder = write_report(tmp_path)
    assert not list(folder.glob("experiment_summary.*"))
    (folder / "experiment_summary.txt").write_text("old")
    write_report(tmp_path)
    assert not list(folder.glob("experiment_summary.*"))
