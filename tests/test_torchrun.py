"""The real command under torchrun: what it trains equals what one process trains."""

import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from rtx_lab.core.rundir import find_runs

ROOT = Path(__file__).parent.parent
OVERRIDES = (
    *("phase=smoke", "budget.steps=4", "hardware=cpu", "hardware.num_threads=1", "tracking.tensorboard=false"),
    *("dataset.num_train=300", "dataset.num_validation=32", "dataset.num_test=32"),
)


def _train(folder, *launcher):
    folder.mkdir()
    command = [*launcher, str(ROOT / "train.py"), *OVERRIDES]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    (run,) = find_runs(folder)
    assert run.status() == "done"
    return run, load_file(run.checkpoints / "step-00000004" / "model.safetensors")


def test_two_processes_train_the_weights_of_one(tmp_path):
    alone, weights = _train(tmp_path / "one", sys.executable)
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    together, shared = _train(tmp_path / "two", *launcher)
    assert max((weights[name] - shared[name]).abs().max().item() for name in weights) <= 1e-6
    assert alone.path.name == together.path.name
    assert alone.read_result()["metrics"]["test/n"] == together.read_result()["metrics"]["test/n"] == 32
    assert len(together.predictions_path.read_text().splitlines()) == 32
