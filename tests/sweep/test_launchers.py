"""The same sweep under the launchers of others; submitit and Ray need an environment of their own, see .ci/run."""

import os
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest
from processes import holder, wait_for
from tiny_runs import ROOT, TINY, numbers

from rtx_lab.core.rundir import find_runs

needs_submitit = pytest.mark.skipif(find_spec("submitit") is None, reason="needs hydra-submitit-launcher")
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs hydra-ray-launcher")
SUBMITIT = ("hydra/launcher=submitit_local",)
RAY = (
    *("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"),
    *("+hydra.launcher.ray.init.num_gpus=1", "+hydra.launcher.ray.remote.num_gpus=0.5"),  # which Ray is told to believe
    "+hydra.launcher.ray.remote.num_cpus=1",
)


def _sweep(folder, *arguments):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "-m", *TINY, *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip


def _finish(process):
    output, _ = process.communicate(timeout=300)
    assert "Traceback" not in output
    return process.returncode, output


def _by_seed(folder):
    return {run.path.name.partition("-seed")[2].partition("-")[0]: run for run in find_runs(folder / "multirun")}


def _same(some, others):
    assert some.keys() == others.keys()
    for name, run in some.items():
        assert numbers(run) == numbers(others[name])
        assert run.predictions_path.read_bytes() == others[name].predictions_path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(SUBMITIT, marks=needs_submitit, id="submitit"),
        pytest.param(RAY, marks=needs_ray, id="ray"),
    ],
)
def test_one_that_fails_costs_itself_and_the_sweep_goes_on_under_another_launcher(tmp_path, launcher):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    grid = ("budget.steps=4", "seed=1,2,3")
    assert _finish(_sweep(here, *grid, "hydra/launcher=local"))[0] == 0
    blocked = elsewhere / _by_seed(here)["2"].path.relative_to(here) / "metrics.jsonl"
    blocked.mkdir(parents=True)  # nothing can be logged there
    code, output = _finish(_sweep(elsewhere, *grid, *launcher))
    assert code == 4, output
    assert {seed: run.status() for seed, run in _by_seed(elsewhere).items()} == {
        "1": "done",
        "2": "failed",
        "3": "done",
    }
    assert "metrics.jsonl" in output
    blocked.rmdir()
    code, output = _finish(_sweep(elsewhere, *grid, "hydra/launcher=local"))
    assert code == 0, output
    _same(_by_seed(here), _by_seed(elsewhere))


@pytest.mark.slow
@needs_submitit
def test_a_preempted_job_saves_is_queued_again_and_goes_on_in_its_directory(tmp_path):
    long = ("budget.steps=150", "budget.eval_every=1000", "budget.checkpoint_every=1000", "seed=1")
    assert _finish(_sweep(tmp_path / "calm", *long, "hydra/launcher=local"))[0] == 0
    process = _sweep(tmp_path / "preempted", *long, *SUBMITIT)
    (run,) = wait_for(lambda: [run for run in find_runs(tmp_path / "preempted") if len(run.read_metrics()) > 5])
    os.kill(holder(run), signal.SIGUSR2)
    code, output = _finish(process)
    assert code == 0, output
    assert "continuing at step" in (run.path / "train.log").read_text()
    assert run.status() == "done"
    _same(_by_seed(tmp_path / "calm"), _by_seed(tmp_path / "preempted"))


@pytest.mark.slow
@needs_submitit
def test_slurm_takes_the_same_command(tmp_path):
    """No cluster is at hand: what it would be asked for is composed and printed."""
    shown = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--cfg", "hydra", *TINY, "hydra/launcher=submitit_slurm",
         "hydra.launcher.gpus_per_node=1", "hydra.launcher.timeout_min=600", "hydra.launcher.partition=gpu"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for words in ("submitit_launcher.SlurmLauncher", "gpus_per_node: 1", "partition: gpu", "max_num_timeout"):
        assert words in shown
