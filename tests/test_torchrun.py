"""The real command under torchrun: what it trains and answers is what one process does."""

import json
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from rtx_lab.core.rundir import find_runs

ROOT = Path(__file__).parent.parent
ONE, TWO = (sys.executable,), (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
SMALL = ("hardware=cpu", "hardware.num_threads=1", "tracking.tensorboard=false", "dataset.num_train=300")
TRAINED = ("phase=smoke", "budget.steps=4", *SMALL, "dataset.num_validation=32", "dataset.num_test=32")
ANSWERED = (
    *("phase=base_eval", "model=memgen_tiny", "model.pretrain_phase=null", "dataset=arithmetic", *SMALL),
    *("dataset.num_validation=8", "dataset.num_test=33", "budget.eval_batch=4", "generation.max_new_tokens=8"),
)


def _run(folder, launcher, overrides):
    folder.mkdir()
    command = [*launcher, str(ROOT / "train.py"), *overrides]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    (run,) = find_runs(folder)
    assert run.status() == "done"
    return run


def test_two_processes_train_the_weights_of_one(tmp_path):
    alone, together = _run(tmp_path / "one", ONE, TRAINED), _run(tmp_path / "two", TWO, TRAINED)
    weights, shared = (load_file(run.checkpoints / "step-00000004" / "model.safetensors") for run in (alone, together))
    assert max((weights[name] - shared[name]).abs().max().item() for name in weights) <= 1e-6
    assert alone.path.name == together.path.name
    assert alone.read_result()["metrics"]["test/n"] == together.read_result()["metrics"]["test/n"] == 32
    assert len(together.predictions_path.read_text().splitlines()) == 32


def test_two_processes_answer_every_row_once_and_as_one_does(tmp_path):
    alone, together = _run(tmp_path / "one", ONE, ANSWERED), _run(tmp_path / "two", TWO, ANSWERED)
    told = [
        [(line["row"], line["prediction"]) for line in map(json.loads, run.predictions_path.read_text().splitlines())]
        for run in (alone, together)
    ]
    assert told[0] == told[1]
    assert sorted(row for row, _ in told[0]) == [*range(33)]
    assert len({text for _, text in told[0]}) > 1
    assert together.read_result()["metrics"]["test/n"] == 33
