"""`python train.py` as a user types it: single runs, sweeps, and runs that a signal ends."""

import json
import signal
import subprocess
import sys
import time

import pytest
from tiny_runs import ROOT, TINY, numbers

from rtx_lab.core.rundir import RunDir, find_runs


def test_a_run_is_done_once_and_holds_its_files(command, tmp_path):
    code, text = command(*TINY, "budget.steps=6")
    assert code == 0, text
    (run,) = find_runs(tmp_path / "multirun")
    result = run.read_result()
    assert result["status"] == "done"
    assert result["metrics"]["test/n"] == 64
    assert result["signature"] == run.path.name[-12:]
    assert [record["step"] for record in run.read_metrics() if "loss" in record] == [1, 2, 3, 4, 5, 6]
    rows = [json.loads(line) for line in run.predictions_path.read_text().splitlines()]
    assert len({row["id"] for row in rows}) == 64
    assert not any(key.startswith("_") for row in rows for key in row)
    accuracy = sum(row["correct"] for row in rows) / 64
    assert accuracy == pytest.approx(result["metrics"]["test/accuracy"])
    before = run.result_path.read_bytes()
    code, text = command(*TINY, "budget.steps=6", "tracking.wandb=off", "hardware.num_workers=0")
    assert code == 0
    assert "already done" in text
    assert run.result_path.read_bytes() == before


def test_a_sweep_runs_each_experiment_once_and_tells(command, tmp_path):
    code, text = command("-m", *TINY, "budget.steps=2", "seed=1,2,1")
    assert code == 0, text
    assert len(find_runs(tmp_path / "multirun")) == 2
    assert text.count("done") >= 2
    code, text = command("-m", *TINY, "budget.steps=2", "seed=range(1,4)")
    assert code == 0, text
    assert len(find_runs(tmp_path / "multirun")) == 3


def test_two_jobs_in_one_process_equal_two_processes(command, tmp_path):
    assert command("-m", *TINY, "budget.steps=3", "seed=1,2")[0] == 0
    sweep = {run.path.name: numbers(run) for run in find_runs(tmp_path / "multirun")}
    for run in find_runs(tmp_path / "multirun"):
        run.path.rename(tmp_path / run.path.name)
    assert command(*TINY, "budget.steps=3", "seed=2")[0] == 0
    (alone,) = find_runs(tmp_path / "multirun")
    assert numbers(alone) == sweep[alone.path.name]


def test_joblib_runs_the_same_sweep(command, tmp_path):
    code, text = command("-m", *TINY, "budget.steps=2", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert code == 0, text
    assert [run.status() for run in find_runs(tmp_path / "multirun")] == ["done", "done"]


def test_an_optuna_search_gets_its_objective(command, tmp_path):
    code, text = command(
        "-m", *TINY, "budget.steps=2", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1",
        "hydra.sweeper.direction=maximize", "optim.lr=interval(1e-4,1e-2)",
    )  # fmt: skip
    assert code == 0, text
    assert len(find_runs(tmp_path / "multirun")) == 2


def test_run_anyway_trains_again_from_the_start(command, tmp_path):
    assert command(*TINY, "budget.steps=6", "budget.eval_every=2")[0] == 0
    (run,) = find_runs(tmp_path / "multirun")
    first = numbers(run)
    code, text = command(*TINY, "budget.steps=6", "budget.eval_every=2", "run_anyway=true")
    assert code == 0
    assert "already done" not in text
    assert "continuing" not in text
    assert numbers(run) == first
    assert not list(run.path.glob("*earlier*"))


def test_run_anyway_survives_a_kill(command, tmp_path):
    sizes = (*TINY, "budget.steps=200", "budget.eval_every=1000", "budget.checkpoint_every=5")
    assert command(*sizes)[0] == 0
    (run,) = find_runs(tmp_path / "multirun")
    first, predictions = numbers(run), run.predictions_path.read_bytes()
    again = [sys.executable, str(ROOT / "train.py"), *sizes, "run_anyway=true"]
    process = subprocess.Popen(again, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_until(lambda: (run.path / "earlier").exists() and len(run.read_metrics()) > 5)
    process.kill()
    process.wait()
    assert run.status() == "killed"
    assert RunDir(run.path / "earlier").read_result()["status"] == "done"
    code, text = command(*sizes, "run_anyway=true")
    assert code == 0, text
    assert "continuing at step" in text
    assert (numbers(run), run.predictions_path.read_bytes()) == (first, predictions)
    assert not (run.path / "earlier").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 0)])
def test_a_signal_saves_and_the_same_command_ends_as_if_undisturbed(tmp_path, signum, code):
    long = [sys.executable, str(ROOT / "train.py"), *TINY, "budget.steps=120", "budget.eval_every=1000"]
    calm, stopped = tmp_path / "calm", tmp_path / "stopped"
    calm.mkdir()
    stopped.mkdir()
    subprocess.run(long, cwd=calm, check=True, capture_output=True)
    process = subprocess.Popen(long, cwd=stopped, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    _wait_for_step(stopped, 5)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "Traceback" not in output
    (run,) = find_runs(stopped)
    assert run.status() == "interrupted"
    assert subprocess.run(long, cwd=stopped, capture_output=True).returncode == 0
    (undisturbed,) = find_runs(calm)
    assert numbers(run) == numbers(undisturbed)
    assert run.predictions_path.read_bytes() == undisturbed.predictions_path.read_bytes()


def _wait_for_step(folder, step):
    _wait_until(lambda: any(line["step"] >= step for run in find_runs(folder) for line in run.read_metrics()))


def _wait_until(happened):
    for _ in range(600):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("the run did not get going")
