"""Two processes under torchrun: the weights of one, one opinion about everything, and one writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_training import STEPS, ToyModel, ToyTask, digest, distance, train

from rtx_lab.core import checkpoint
from rtx_lab.core.parallel import Ranks

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What both processes saw in every condition, from one start of torchrun."""
    out = tmp_path_factory.mktemp("parallel")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = f"{TESTS / 'reference'}{os.pathsep}{TESTS.parent}"
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    script = [str(TESTS / "reference" / "train_in_parallel.py"), str(out)]
    done = subprocess.run([*command, *script], env=environment, capture_output=True, text=True, timeout=240)
    if "terminate called without an active exception" in done.stderr:  # gloo's threads, now and then, at exit
        done = subprocess.run([*command, *script], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return {"out": out, "ranks": [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]}


def both(seen, name, key):
    first, second = (rank[name][key] for rank in seen["ranks"])
    assert first == second, name
    return first


def test_two_processes_train_the_weights_of_one(seen):
    one, _, records = train(ToyTask(micro_batch=12), ToyModel(dropout=0.0))
    two = ToyModel()
    two.load_state_dict(torch.load(seen["out"] / "plain0.pt", weights_only=True))
    assert distance(one, two) < 1e-6
    assert both(seen, "plain", "digest") == digest(two)
    assert seen["ranks"][0]["plain"]["losses"] == pytest.approx([record["loss"] for record in records], rel=1e-5)


def test_rank_0_alone_logs_and_writes(seen):
    assert len(seen["ranks"][0]["plain"]["losses"]) == STEPS
    assert seen["ranks"][1]["plain"]["losses"] == []
    (path,) = checkpoint.steps(seen["out"] / "plain")
    assert checkpoint.verify(path) == []


def test_processes_that_begin_apart_are_made_alike(seen):
    both(seen, "alike", "digest")
    assert seen["ranks"][0]["alike"]["losses"] == seen["ranks"][0]["plain"]["losses"]
    assert (both(seen, "alike", "flags"), both(seen, "alike", "turned")) == ([True, False], 15)


def test_one_process_that_runs_out_of_memory_does_not_block_the_other(seen):
    assert both(seen, "tight on one", "status") == "done"
    assert both(seen, "tight on one", "micro_batch") == 1
    both(seen, "tight on one", "digest")
    assert both(seen, "too tight on one", "status") == "out_of_memory"
    assert both(seen, "too tight on one", "digest") == digest(ToyModel(dropout=0.0))


def test_a_broken_loss_of_one_process_ends_both(seen):
    assert both(seen, "broken on one", "status") == "diverged"


def test_weights_that_not_every_process_uses(seen):
    assert both(seen, "unused", "status") == "done"
    both(seen, "unused", "digest")
    assert both(seen, "unused", "never") == 16  # as alone: no gradient, no decay


def test_a_signal_to_one_process_stops_both_and_the_resume_leaves_no_trace(seen):
    assert both(seen, "stopped by one", "status") == "interrupted"
    assert both(seen, "stopped by one", "signum") == signal.SIGTERM
    assert 5 <= both(seen, "stopped by one", "step") <= 6
    assert both(seen, "resumed", "digest") == both(seen, "undisturbed", "digest")
    pieces = [seen["ranks"][0][name]["losses"] for name in ("stopped by one", "resumed", "undisturbed")]
    assert pieces[0] + pieces[1] == pieces[2]
    assert both(seen, "stopped in evaluation", "status") == "interrupted"


def test_the_value_of_rank_0_decides(seen):
    assert both(seen, "evaluated", "best") == {"step": 3, "value": 0.0}
    assert both(seen, "evaluated", "step") == 9


def test_a_checkpoint_that_cannot_be_written_ends_both(seen):
    errors = [rank["no disk"]["error"] for rank in seen["ranks"]]
    assert "could not be written" in errors[0]
    assert "rank 0 could not write" in errors[1]


def test_alone_nothing_is_communicated():
    ranks = Ranks()
    assert ranks.leads
    assert ranks.sum_host([1.0]) == ranks.max_host([1.0]) == ranks.from_lead([1.0]) == [1.0]
