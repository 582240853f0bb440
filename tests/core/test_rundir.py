import json
import multiprocessing
import os
import subprocess
import sys

import pytest

from rtx_lab.core import rundir
from rtx_lab.core.errors import RunError
from rtx_lab.core.rundir import RunDir, find_runs, readable, signature, write_json, write_text

CONFIG = {
    "model": {
        "_target_": "rtx_lab.models.connection_transformer.ConnectionTransformer",
        "num_slots": 32,
        "d_model": 64,
    },
    "dataset": {"_target_": "rtx_lab.data.generated.reasoning"},
    "hardware": {"device": "cpu", "num_workers": 0, "num_threads": 2},
    "budget": {"micro_batch": 32, "log_every": 50},
    "tracking": {"wandb": "off"},
    "seed": 42,
    "plan": False,
}


def _changed(section, key, value):
    changed = json.loads(json.dumps(CONFIG))
    if section is None:
        changed[key] = value
    else:
        changed[section][key] = value
    return changed


def test_a_file_in_place_of_a_run_is_no_running_run(tmp_path):
    (tmp_path / "run").write_text("")
    assert RunDir(tmp_path / "run").status() == "new"


def test_signature_is_blind_to_spelling_and_order():
    assert signature(_changed("model", "num_slots", 32.0)) == signature(CONFIG)
    assert signature(dict(reversed(CONFIG.items()))) == signature(CONFIG)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("tracking", "wandb", "online"), ("hardware", "num_workers", 4), ("budget", "log_every", 7), (None, "plan", True)],
)
def test_signature_leaves_out_what_changes_no_number(section, key, value):
    assert signature(_changed(section, key, value)) == signature(CONFIG)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "num_slots", 64),
        ("hardware", "num_threads", 1),
        ("budget", "micro_batch", 16),
        (None, "seed", 1),
        (None, "resume_from", "other"),
    ],
)
def test_signature_tells_experiments_apart(section, key, value):
    assert signature(_changed(section, key, value)) != signature(CONFIG)


def test_readable_name_is_made_of_values():
    assert readable(CONFIG) == "connection_transformer-n32-d64-reasoning-seed42"


def test_write_text_leaves_the_old_file_when_the_disk_refuses(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_text(path, "old")

    def refuse(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(RunError, match=r"cannot write .*result\.json: No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]


def test_json_holds_no_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 1.5]}


def test_metrics_survive_a_cut_line_and_a_rewind(tmp_path):
    run = RunDir(tmp_path)
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": step / 10})
    with open(run.metrics_path, "a") as file:
        file.write('{"step": 4, "lo')
    assert [record["step"] for record in run.read_metrics()] == [1, 2, 3]
    run.rewind_metrics(2)
    assert run.metrics_path.read_text() == '{"step": 1, "loss": 0.1}\n{"step": 2, "loss": 0.2}\n'


def _hold(path, ready, release):
    with RunDir(path).lock():
        ready.set()
        release.wait(20)


def test_two_processes_never_hold_one_run(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, release))
    holder.start()
    assert ready.wait(20)
    run = RunDir(tmp_path)
    assert run.status() == "running"
    with pytest.raises(RunError, match="another process is running"), run.lock():
        pass
    release.set()
    holder.join(20)
    assert run.status() == "new"
    with run.lock():
        assert run.status() == "running"
        assert run.is_locked(), "asking must not let go of the lock"
        with pytest.raises(RunError), run.lock():
            pass
    assert run.status() == "new"


def test_status_reads_killed_and_terminal_states(tmp_path):
    run = RunDir(tmp_path / "a")
    run.path.mkdir()
    write_text(run.config_path, "seed: 1\n")
    assert run.status() == "killed"
    for status in rundir.STATUSES:
        write_json(run.result_path, {"status": status})
        assert run.status() == status
    run.result_path.write_text('{"status": "do')
    assert run.status() == "killed"
    assert find_runs(tmp_path) == [run] == find_runs(run.path)


def test_rundir_needs_no_torch():
    code = "import rtx_lab.core.rundir, sys; assert 'torch' not in sys.modules and 'hydra' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_that_may_only_be_read_is_not_running(tmp_path, monkeypatch):
    run = RunDir(tmp_path)
    run.lock_path.touch()

    real = open

    def read_only(path, mode="r", **kwargs):
        if set(mode) & set("wa+"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, mode, **kwargs)

    monkeypatch.setattr("builtins.open", read_only)
    assert not run.is_locked()


def test_a_line_without_a_step_does_not_outlive_a_rewind(tmp_path):
    run = RunDir(tmp_path)
    run.metrics_path.write_text('{"step": 1}\n{"step": "a"}\n{"step": 3}\n')
    run.rewind_metrics(2)
    assert run.read_metrics() == [{"step": 1}]
