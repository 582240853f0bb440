import json
import signal
import subprocess
import sys

import pytest

from rtx_lab.__main__ import main
from rtx_lab.commands import status
from rtx_lab.commands.row import duration, read_row
from rtx_lab.core.rundir import RunDir, write_json

CONFIG = "budget: {steps: 400, epochs: null}\nmodel: {d_model: 8}\n"


def make_run(root, name, *, phase="main", config=CONFIG, result=None, lines=()):
    folder = root / phase / f"{name}-0123456789ab"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    if result is not None:
        write_json(folder / "result.json", result)
    if lines:
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunDir(folder)


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "multirun"
    metrics = {"test/accuracy": 0.8125, "test/accuracy_low": 0.79, "test/accuracy_high": 0.83}
    best = {"step": 300, "value": 0.82}
    done = {
        "status": "done",
        "metrics": metrics,
        "best": best,
        "steps": 400,
        "time_s": 125.4,
        "monitor": "validation/accuracy",
    }
    make_run(root, "finished", result=done)
    make_run(root, "failed", phase="nd_ratio", result={"status": "diverged", "reason": "step 12 is\nnot finite"})
    make_run(root, "killed", lines=[{"step": 50, "loss": 1.0}, {"step": 100, "validation/accuracy": 0.5}])
    return root


def rows_of(root):
    return {row.name: row for row in map(read_row, status.list_runs(root))}


def test_rows_tell_what_the_directories_hold(runs):
    rows = rows_of(runs)
    done = rows["finished"]
    assert (done.phase, done.status, done.step, done.total_steps) == ("main", "done", 400, 400)
    assert (done.best, done.best_step) == (0.82, 300)
    assert (done.accuracy, done.accuracy_low, done.accuracy_high, done.time_s) == (0.8125, 0.79, 0.83, 125.4)
    assert (rows["failed"].phase, rows["failed"].status, rows["failed"].note) == (
        "nd_ratio",
        "diverged",
        "step 12 is not finite",
    )
    killed = rows["killed"]
    assert (killed.status, killed.step, killed.best, killed.total_steps) == ("killed", 100, 0.5, 400)
    assert "same command" in killed.note


def test_a_locked_run_is_running_whatever_an_earlier_attempt_left(tmp_path):
    run = make_run(tmp_path, "again", result={"status": "interrupted"}, lines=[{"step": 7}])
    with run.lock():
        row = read_row(run)
    assert (row.status, row.step) == ("running", 7)
    assert row.time_s is not None
    assert row.time_s >= 0


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("result.json", '{"status": "do', "result.json cannot be read"),
        ("result.json", "[1, 2]", "result.json cannot be read"),
        ("config.yaml", "a: [1", "not valid YAML"),
        ("config.yaml", "just text", "not that of a run"),
        ("config.yaml", "some: thing\nof: others\n", "not that of a run"),
        ("config.yaml", "\x00\x01", "config.yaml"),
    ],
)
def test_damage_is_a_broken_row(tmp_path, file, content, word):
    run = make_run(tmp_path, "x")
    (run.path / file).write_text(content)
    row = read_row(run)
    assert row.status == "broken"
    assert word in row.note


def test_odd_values_are_no_traceback(tmp_path):
    run = make_run(tmp_path, "x", result={"status": "done", "metrics": [1], "best": "high", "time_s": "long"})
    assert read_row(run).status == "broken"
    (run.path / "metrics.jsonl").write_text('{"step": 3}\n{"step": 4, "los')
    (run.path / "result.json").unlink()
    assert read_row(run).step == 3


def test_folders_of_wandb_and_exports_are_no_runs(runs):
    (runs / "main" / "finished-0123456789ab" / "wandb" / "run-1" / "files").mkdir(parents=True)
    (runs / "main" / "finished-0123456789ab" / "wandb" / "run-1" / "files" / "config.yaml").write_text("a: 1")
    exported = make_run(runs, "exported")
    (exported.path / "config.json").write_text("{}")
    assert set(rows_of(runs)) == {"finished", "failed", "killed"}


def test_table_and_json(runs, capsys):
    assert main(["status", str(runs)]) == 0
    table = capsys.readouterr().out
    assert "0.8125 [0.7900, 0.8300]" in table
    assert "2 min 5 s" in table
    assert "3 runs: 1 killed" in table or "3 runs: 1 done" in table
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 250
    assert main(["status", str(runs), "--json"]) == 0
    assert {row["status"] for row in json.loads(capsys.readouterr().out)} == {"done", "diverged", "killed"}


def test_no_runs_and_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    assert "no runs below multirun" in capsys.readouterr().out
    assert main(["status", "nowhere"]) == 2
    assert "there is no folder nowhere" in capsys.readouterr().err
    (tmp_path / "multirun" / "nd_ratio").mkdir(parents=True)
    assert main(["status", "nd_ration"]) == 2
    assert "did you mean multirun/nd_ratio?" in capsys.readouterr().err


def test_status_needs_no_torch(runs):
    code = (
        f"import sys; from rtx_lab.__main__ import main; main(['status', {str(runs)!r}]); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.4, "0 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (11220, "3 h 7 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_what_a_study_names_waits_until_it_has_begun(tmp_path, capsys):
    root = tmp_path / "multirun"
    planned = make_run(root, "planned", phase="rank")
    planned.config_path.rename(planned.plan_path)
    write_json(planned.plan_path, {"price": {"steps": 90}})
    make_run(root, "over", phase="nd_ratio", result={"status": "done", "steps": 4, "total_steps": 4})
    (root / "connection_study").mkdir()
    study = {
        "jobs": ["nd_ratio/over-0123456789ab", "rank/planned-0123456789ab", "rank/named-0123456789ab"],
        "not_run": [{"job": "rank: model=x seed=1", "class": "refused", "reason": "does not fit"}],
    }
    write_json(root / "connection_study" / "study.json", study)
    expected = {
        ("nd_ratio", "over", "done", 4),
        ("rank", "planned", "waiting", 90),
        ("rank", "named", "waiting", None),
        ("rank", "model=x seed=1", "refused", None),
    }
    for place in (root, root / "connection_study"):
        rows = status.list_rows(place)
        assert {(row.phase, row.name, row.status, row.total_steps) for row in rows} == expected
    assert main(["status", str(root), "--phase", "rank", "--failed", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["note"] == "does not fit"


def test_a_running_job_tells_loss_and_the_time_left(tmp_path):
    lines = [{"step": step, "loss": 1.0 / step, "step_time_s": 2.0} for step in range(10, 101, 10)]
    run = make_run(tmp_path, "x", lines=lines)
    write_json(run.checkpoints / "step-00000100" / "state.json", {"state": {"step": 100, "time_s": 250.0}})
    with run.lock():
        row = read_row(run)
    assert (row.step, row.total_steps, row.loss) == (100, 400, 0.01)
    assert row.eta_s == pytest.approx(300 * 2.5, abs=5), "two seconds a step and half a second of evaluation"


def test_a_watcher_in_a_pipe_tells_changes_and_ends_with_the_last_run(tmp_path):
    run = make_run(tmp_path / "multirun", "x", lines=[{"step": 7, "loss": 2.0, "step_time_s": 1.0}])
    command = [sys.executable, "-m", "rtx_lab", "status", str(tmp_path / "multirun"), "--watch", "0.1"]
    with run.lock():
        watcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert "main/x-0123456789ab: running  7/400  loss 2.0000" in watcher.stdout.readline()
        run.append_metrics({"step": 8, "loss": 1.5, "step_time_s": 1.0})
        assert "8/400  loss 1.5000" in watcher.stdout.readline()
        write_json(run.result_path, {"status": "done", "steps": 400})
    rest, _ = watcher.communicate(timeout=30)
    assert watcher.returncode == 0
    assert rest.splitlines()[-1] == "1 run: 1 done"


def test_a_line_of_the_watcher_is_no_wider_than_columns_and_names_the_run(tmp_path):
    folder = tmp_path / "nd_ratio" / "connection_transformer-diag-n512-d256-r32-strategyqa-seed0-30fe819ab836"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    write_json(folder / "result.json", {"status": "failed", "steps": 12, "reason": "the disk is full"})
    row = read_row(RunDir(folder))
    assert status._line(row, None) == f"nd_ratio/{folder.name}: failed  12/400  the disk is full"
    for width in (40, 80, 100):
        line = status._line(row, width)
        assert len(line) <= width
        assert "30fe819ab836: failed" in line


def test_ctrl_c_leaves_the_watcher_quietly(tmp_path):
    run = make_run(tmp_path, "x", lines=[{"step": 7}])
    command = [sys.executable, "-m", "rtx_lab", "status", str(tmp_path), "--watch"]
    with run.lock():
        watcher = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        watcher.stdout.readline()
        watcher.send_signal(signal.SIGINT)
        _, err = watcher.communicate(timeout=30)
    assert (watcher.returncode, err) == (0, "")


def test_a_path_after_watch_is_explained(capsys):
    assert main(["status", "--watch", "multirun"]) == 2
    assert "PATH goes before --watch" in capsys.readouterr().err


def test_runs_of_one_name_are_told_apart_by_their_signatures(tmp_path):
    for signature in ("0" * 12, "1" * 12):
        folder = tmp_path / "main" / f"x-{signature}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(CONFIG)
    rows = status.list_rows(tmp_path)
    assert [(row.name, row.signature) for row in rows] == [("x", "0" * 12), ("x", "1" * 12)]
    assert [row.folder for row in rows] == ["x-" + "0" * 12, "x-" + "1" * 12]
