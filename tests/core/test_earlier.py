"""A finished attempt moves aside whole; at every moment it is either there to be read or named as set aside."""

import contextlib
import os

import pytest

from rtx_lab.core import earlier
from rtx_lab.core.errors import RunError
from rtx_lab.core.rundir import RunDir, write_json, write_text

PARTS = ("result.json", "metrics.jsonl", "predictions.jsonl", "checkpoints")


@pytest.fixture
def done(tmp_path):
    directory = RunDir(tmp_path / "run")
    write_text(directory.config_path, "seed: 1\n")
    write_json(directory.result_path, {"status": "done", "attempt": 1})
    write_text(directory.metrics_path, "{}\n")
    write_text(directory.predictions_path, "{}\n")
    write_text(directory.checkpoints / "step-00000001" / "state.json", "{}")
    return directory


def test_a_finished_attempt_moves_whole_and_goes_with_the_next_result(done):
    earlier.set_aside(done, run_anyway=True)
    assert done.status() == "killed"
    assert not done.checkpoints.exists()
    assert {path.name for path in (done.path / "earlier").iterdir()} == set(PARTS)
    earlier.set_aside(done, run_anyway=True)  # the same command after a kill: nothing is finished, nothing moves
    assert (done.path / "earlier" / "result.json").exists()
    earlier.drop(done, {"status": "failed"})
    assert (done.path / "earlier").exists()
    earlier.drop(done, {"status": "done"})
    assert [path.name for path in done.path.iterdir()] == ["config.yaml"]


def test_without_run_anyway_and_without_a_finished_attempt_nothing_moves(done):
    earlier.set_aside(done, run_anyway=False)
    assert done.status() == "done"
    write_json(done.result_path, {"status": "interrupted"})
    earlier.set_aside(done, run_anyway=True)
    assert done.checkpoints.exists()


@pytest.mark.parametrize("moves", range(5))
def test_a_kill_while_it_moves_leaves_no_mixture(done, monkeypatch, moves):
    replace, count = os.replace, 0

    def killed(*arguments):
        nonlocal count
        if count == moves:
            raise KeyboardInterrupt
        count += 1
        replace(*arguments)

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(earlier.os, "replace", killed)
        earlier.set_aside(done, run_anyway=True)
    assert (done.status() == "done") == (moves == 0)
    earlier.set_aside(done, run_anyway=False)
    assert {path.name for path in (done.path / "earlier").iterdir()} == set(PARTS)
    assert [path.name for path in done.path.iterdir() if path.name != "earlier"] == ["config.yaml"]


def test_a_second_time_replaces_what_the_first_left(done):
    earlier.set_aside(done, run_anyway=True)
    write_json(done.result_path, {"status": "done", "attempt": 2})
    earlier.set_aside(done, run_anyway=True)
    assert RunDir(done.path / "earlier").read_result() == {"status": "done", "attempt": 2}
    assert not (done.path / "earlier" / "checkpoints").exists()


def test_what_the_disk_refuses_is_one_sentence(done, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(earlier.os, "replace", refuse)
    with pytest.raises(RunError, match="cannot be moved aside"):
        earlier.set_aside(done, run_anyway=True)
