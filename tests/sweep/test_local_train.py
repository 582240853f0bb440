"""Real jobs under the local launcher: what they compute, what a bad one costs, and studies that are killed."""

import json
import os
import signal
import subprocess
import sys

import pytest
from processes import holder, wait_for
from tiny_runs import ROOT, TINY, numbers

from rtx_lab.core.rundir import RunDir, find_runs

LOCAL = ("-m", "hydra/launcher=local")


def _weights(run):
    """Digests of weights and optimizer state in every checkpoint; the other files hold times."""
    files = {
        (path.parent.name, name): entry["sha256"]
        for path in run.checkpoints.glob("*/manifest.json")
        for name, entry in json.loads(path.read_text())["files"].items()
        if name.endswith(".safetensors")
    }
    assert files
    return files


@pytest.mark.slow
def test_a_warm_job_computes_what_a_fresh_process_does(command, tmp_path):
    two_threads = ("hardware.num_threads=2", "hardware.num_workers=1", "budget.steps=4")
    code, text = command(*LOCAL, *TINY, *two_threads, "seed=1,2")
    assert code == 0, text
    warm = {run.path.name: run for run in find_runs(tmp_path / "multirun")}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    fresh = [sys.executable, str(ROOT / "train.py"), *TINY, *two_threads, "seed=2"]
    subprocess.run(fresh, cwd=elsewhere, check=True, capture_output=True)
    (alone,) = find_runs(elsewhere)
    same = warm[alone.path.name]
    assert numbers(alone) == numbers(same)
    assert alone.read_result()["metrics"] == same.read_result()["metrics"]
    assert alone.predictions_path.read_bytes() == same.predictions_path.read_bytes()
    assert _weights(alone) == _weights(same)


def test_hydras_own_sweepers_know_the_launcher(command, tmp_path):
    code, text = command(*LOCAL, *TINY, "budget.steps=1", "seed=1,2", "hydra/sweeper=basic")
    assert code in (0, None), text
    assert [run.status() for run in find_runs(tmp_path / "multirun")] == ["done", "done"]
    code, text = command(
        *LOCAL, *TINY, "budget.steps=1", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.direction=maximize", "optim.lr=interval(1e-4,1e-2)",
    )  # fmt: skip
    assert code in (0, None), text
    assert len(find_runs(tmp_path / "multirun")) == 3


@pytest.mark.parametrize("launcher", ["local", "basic"])
def test_a_failed_job_shows_in_the_exit_code_of_hydras_own_sweeper(command, launcher):
    jobs = ("-m", *TINY, "budget.steps=2", "hydra/sweeper=basic", f"hydra/launcher={launcher}")
    assert command(*jobs, "optim.lr=1e30,1e-3")[0] == 4
    assert command(*jobs, "optim.lr=1e-3")[0] in (0, None)


@pytest.mark.slow
def test_four_bad_jobs_of_six_leave_two_that_finish(tmp_path):
    """One fails, one is killed, one diverges, one is refused by price; the table names all four."""
    grids = (
        "+hydra.sweeper.params.seed='1,2,3,4'",
        "hydra.sweeper.also=[{seed: 5, optim.lr: 1e30}, {seed: 6, hardware.memory_gb: 0.001}]",
    )
    process = _start(tmp_path, "budget.steps=100", *grids)
    (_seed(tmp_path, 2) / "metrics.jsonl").mkdir()  # nothing can be logged there
    third = RunDir(_seed(tmp_path, 3))
    wait_for(lambda: len(third.read_metrics()) > 2)
    os.kill(holder(third), signal.SIGKILL)
    code, output = _end(process)
    assert code == 4, output
    found = {run.path.name.partition("-seed")[2][0]: run.status() for run in find_runs(tmp_path)}
    assert found == {"1": "done", "2": "failed", "3": "killed", "4": "done", "5": "diverged", "6": "refused"}
    table = output[output.rindex("test accuracy") :]
    for status in ("failed", "killed", "diverged", "refused"):
        assert status in table


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_study_goes_on_to_the_same_numbers(tmp_path, signum, code):
    study = ("budget.steps=100", "budget.eval_every=1000", "hydra.launcher.jobs_per_device=2", "seed=1,2,3")
    calm, stopped = tmp_path / "calm", tmp_path / "stopped"
    assert _end(_start(calm, *study))[0] == 0
    process = _start(stopped, *study)
    wait_for(lambda: sum(len(run.read_metrics()) > 5 for run in find_runs(stopped)) == 2)
    os.killpg(process.pid, signum)
    ended, output = _end(process)
    assert ended == code, output
    assert {run.status() for run in find_runs(stopped)} == {"interrupted"}
    assert not RunDir(_seed(stopped, 3)).config_path.exists(), "no other job may start"
    assert _end(_start(stopped, *study))[0] == 0
    for undisturbed, run in zip(find_runs(calm), find_runs(stopped), strict=True):
        assert numbers(run) == numbers(undisturbed)
        assert run.predictions_path.read_bytes() == undisturbed.predictions_path.read_bytes()
        assert _weights(undisturbed).items() <= _weights(run).items(), "the checkpoint of the stop may be there still"


@pytest.mark.slow
def test_jobs_of_a_killed_sweep_finish_and_a_rerun_waits_for_them(tmp_path):
    study = ("budget.steps=300", "budget.eval_every=1000", "seed=1")
    process = _start(tmp_path, *study)
    run = RunDir(_seed(tmp_path, 1))
    wait_for(lambda: len(run.read_metrics()) > 5)
    process.kill()
    process.communicate()
    orphan = holder(run)
    assert orphan is not None
    code, output = _end(_start(tmp_path, *study))
    assert code == 0, output
    assert "waiting for another process" in output
    assert run.status() == "done"
    assert "continuing at step" not in (run.path / "train.log").read_text(), "the orphan did all of it"


@pytest.mark.slow
def test_a_study_killed_again_and_again_ends_like_one_that_was_not():
    script = ROOT / "benchmarks" / "sweep_kill.py"
    subprocess.run([sys.executable, str(script), "--kills", "8"], check=True, stdout=subprocess.DEVNULL)


def _start(folder, *arguments):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *LOCAL, *TINY, *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def _end(process):
    output, _ = process.communicate(timeout=300)
    assert "Traceback" not in output
    return process.returncode, output


def _seed(folder, seed):
    """The run directory of a seed, once the sweep has planned it."""
    (plan,) = wait_for(lambda: list(folder.glob(f"multirun/*/*-seed{seed}-*/plan.json")))
    return plan.parent
