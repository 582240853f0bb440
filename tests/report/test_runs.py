import json
import math

import pytest
from written_runs import answers, write_run

from rtx_lab.core.rundir import write_json
from rtx_lab.report.runs import load_runs


def test_a_run_tells_its_numbers_curve_and_predictions(tmp_path):
    write_run(tmp_path, answers(30, 40), seed=4, validation=0.7)
    (run,) = load_runs(tmp_path)
    assert (run.phase, run.status, run.seed, run.problem) == ("study", "done", 4, "")
    assert run.name == f"study/{run.path.name}"
    assert (run.metric("test/accuracy"), run.metric("validation/accuracy")) == (0.75, 0.7)
    assert (run.metric("time_s"), run.metric("parameters"), run.metric("absent")) == (1800.0, 1000.0, None)
    assert [line["step"] for line in run.curve()] == [10, 20, 20]
    assert run.predictions()["test-39"]["correct"] is False
    assert len(run.predictions()) == 40
    assert run.config["optim"]["betas"] == [0.9, 0.999]


def test_runs_stand_in_order_of_their_names_and_a_run_is_found_at_its_own_path(tmp_path):
    written = [write_run(tmp_path, [1], phase=phase, seed=seed) for phase in ("b", "a") for seed in (2, 1)]
    names = [run.name for run in load_runs(tmp_path)]
    assert names == sorted(names)
    assert len(names) == 4
    assert [run.path for run in load_runs(written[0].path)] == [written[0].path]


def test_a_study_brings_the_runs_of_other_phases(tmp_path):
    own, other = (write_run(tmp_path, [1], phase=phase) for phase in ("both", "rank"))
    jobs = [f"rank/{other.path.name}", f"both/{own.path.name}", "rank/not-there"]
    write_json(tmp_path / "both" / "study.json", {"phase": "both", "jobs": jobs})
    assert [run.phase for run in load_runs(tmp_path / "both")] == ["both", "rank"]
    assert [run.phase for run in load_runs(tmp_path / "rank")] == ["rank"]


def test_exported_models_are_no_runs(tmp_path):
    run = write_run(tmp_path, [1])
    (run.path / "config.json").write_text("{}")
    assert load_runs(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("result.json", '{"status": "do', "result.json cannot be read"),
        ("result.json", '{"status": "finished"}', "no known status"),
        ("result.json", '{"status": ["done"]}', "no known status"),
        ("config.yaml", "model: [1", "config.yaml cannot be read"),
        ("config.yaml", "model: {a: 1}\n- b", "config.yaml cannot be read"),
        ("config.yaml", "just text", "not that of a run"),
        ("config.yaml", "a: 1", "not that of a run"),
        ("config.yaml", "", "not that of a run"),
        ("config.yaml", "\x00\x01", "config.yaml"),
    ],
)
def test_damage_is_named_and_breaks_nothing(tmp_path, file, content, problem):
    run = write_run(tmp_path, [1])
    (run.path / file).write_text(content)
    (found,) = load_runs(tmp_path)
    assert found.status == "broken"
    assert problem in found.problem


def test_what_has_no_end_is_killed_or_running(tmp_path):
    run = write_run(tmp_path, [1])
    with run.lock():
        assert [(one.status, one.result) for one in load_runs(tmp_path)] == [("running", {})]
    run.result_path.unlink()
    assert [one.status for one in load_runs(tmp_path)] == ["killed"]


def test_cut_files_and_nulls_are_left_out(tmp_path):
    run = write_run(tmp_path, [1, 0], result={"time_s": math.nan, "metrics": {"test/accuracy": None, "test/n": True}})
    run.metrics_path.write_text('{"step": 1}\n{"step": 2, "los')
    run.predictions_path.write_text('{"id": "a", "correct": true}\n[1]\n{"no": "id"}\n{"id": "b", "corr')
    (found,) = load_runs(tmp_path)
    assert (found.metric("test/accuracy"), found.metric("time_s"), found.metric("test/n")) == (None, None, None)
    assert found.curve() == [{"step": 1}]
    assert list(found.predictions()) == ["a"]
    run.predictions_path.unlink()
    run.metrics_path.unlink()
    (found,) = load_runs(tmp_path)
    assert (found.curve(), found.predictions()) == ([], {})


def test_blocks_are_read_as_the_whole_file_is(tmp_path):
    import yaml

    run = write_run(tmp_path, [1])
    text = "# a comment\nmodel:\n  a: {b: [1, 2.5, null]}\n  c: 'x: y'\n\n"
    text += "list:\n- 1\n- two\nseed: 3\nnote: 'over\n  two'\n"
    run.config_path.write_text(text)
    (found,) = load_runs(tmp_path)
    assert found.config == yaml.safe_load(text)
    assert json.dumps(found.config)
