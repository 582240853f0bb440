"""What a sweep prints of its jobs in the end: each by what its task is judged by."""

from types import SimpleNamespace

import pytest

from rtx_lab.core.rundir import RunDir, write_json
from rtx_lab.sweep.jobs import Refusal
from rtx_lab.sweep.outcomes import print_outcomes

ACCURACY = {"test/accuracy": 0.75, "test/accuracy_low": 0.7, "test/accuracy_high": 0.8, "test/avg_reasoning_steps": 3}
ROUGE = {"test/rouge_characters": 0.31, "test/rouge_characters_low": 0.3, "test/rouge_characters_high": 0.33}
LOSS = {"test/loss": 2.5}


@pytest.fixture
def table(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")

    def printed(*results, refused=0):
        """The lines of the table that is printed of jobs with these monitors and metrics."""
        jobs = []
        for seed, (monitor, metrics) in enumerate([*results, *[(None, {})] * refused]):
            run = RunDir(tmp_path / f"run-{seed}")
            refusal = None if monitor else Refusal("price", "too large")
            if monitor:
                write_json(run.result_path, {"status": "done", "monitor": monitor, "metrics": metrics, "time_s": 7.4})
            settled = SimpleNamespace(run=SimpleNamespace(phase="main", labels={}), config={}, directory=f"run-{seed}")
            job = SimpleNamespace(overrides=(f"seed={seed}",), settled=settled, run=run, refusal=refusal, left_out="")
            jobs.append(job)
        print_outcomes(jobs)
        lines = [line for line in capsys.readouterr().out.splitlines() if "┃" in line or "│" in line]
        return [[cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")] for line in lines]

    return printed


def test_answers_show_accuracy_and_steps(table):
    heading, row, other = table(("validation/accuracy", ACCURACY), ("validation/accuracy", {}))
    assert heading[:5] == ["job", "status", "test accuracy (95 %)", "reasoning steps", "time"]
    assert row[:5] == ["seed=0", "done", "0.7500 (0.7000-0.8000)", "3.00", "7 s"]
    assert other[2] == "-"


def test_summaries_show_what_they_are_judged_by(table):
    heading, row, refused = table(("validation/rouge_characters", ROUGE), refused=1)
    assert heading[2] == "test rouge_characters (95 %)"
    assert row[2] == "0.3100 (0.3000-0.3300)"
    assert refused[1:3] == ["refused", "-"]


def test_jobs_of_several_tasks_name_their_metric(table):
    kinds = (("validation/accuracy", ACCURACY), ("validation/rouge_characters", ROUGE), ("validation/loss", LOSS))
    heading, *rows = table(*kinds, ("validation/loss", {}), refused=1)
    assert heading[2] == "test score (95 %)"
    assert [row[2] for row in rows] == [
        "accuracy 0.7500 (0.7000-0.8000)", "rouge_characters 0.3100 (0.3000-0.3300)", "loss 2.5000", "-", "-",
    ]  # fmt: skip


def test_jobs_without_a_score_have_a_heading(table):
    heading, row = table(refused=1)
    assert heading[2] == "test score (95 %)"
    assert row[2] == "-"
