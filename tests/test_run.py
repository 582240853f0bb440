"""The composition root: a settled configuration in, a run directory and a result out."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from rtx_lab import loop
from rtx_lab.core import memory
from rtx_lab.core.rundir import RunDir
from rtx_lab.core.schema import settle
from rtx_lab.run import run
from rtx_lab.sweep.door import COMPOSE_KEYWORDS

CONF = Path(__file__).parent.parent / "conf"
TINY = (
    *("dataset.num_train=128", "dataset.num_validation=40", "dataset.num_test=24", "tracking.tensorboard=false"),
    *("model.d_model=16", "model.num_slots=8", "model.bilinear_rank=4", "hardware=cpu", "hardware.num_threads=1"),
    *("budget.global_batch=16", "budget.log_every=1", "optim.lr=0.03"),
)


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Compose, run in an empty folder, and return the result with its directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # a train.py started in this process leaves its own behind
    threads = torch.get_num_threads()

    def go(*overrides):
        with initialize_config_dir(config_dir=str(CONF), **COMPOSE_KEYWORDS):
            config = compose("config", overrides=[*TINY, *overrides], return_hydra_config=True)
        place = Path("multirun", settle(config).directory)
        place.mkdir(parents=True, exist_ok=True)  # as Hydra does before it calls us
        return run(config), RunDir(place)

    yield go
    torch.set_num_threads(threads)


def _lines(directory):
    return [json.loads(line) for line in directory.metrics_path.read_text().splitlines()]


def test_the_best_weights_by_validation_are_the_ones_that_are_judged(start):
    result, directory = start("budget.steps=8", "budget.eval_every=1")
    assert result["status"] == "done"
    looks = {line["step"]: line for line in _lines(directory) if "validation/accuracy" in line}
    assert {line["validation/n"] for line in looks.values()} == {40}, "selection never sees the test split"
    best = max(line["validation/accuracy"] for line in looks.values())
    assert result["best"]["value"] == best > looks[max(looks)]["validation/accuracy"], (
        "the last step must not be the best here"
    )
    metrics = result["metrics"]
    assert metrics["validation/accuracy"] == best == result["objective"]
    assert metrics["validation/loss"] == pytest.approx(looks[result["best"]["step"]]["validation/loss"])
    assert metrics["test/n"] == 24
    records = [json.loads(line) for line in directory.predictions_path.read_text().splitlines()]
    assert [record["row"] for record in records] == list(range(24))
    assert sum(record["correct"] for record in records) / 24 == pytest.approx(metrics["test/accuracy"])
    assert not [key for record in records for key in record if key.startswith("_")]
    drawn = json.loads((directory.path / "connections.json").read_text())
    assert drawn["num_slots"] == len(drawn["strength"]) == 8


def test_weights_of_a_run_can_be_judged_again_without_training(start):
    first, directory = start("budget.steps=3")
    again, _ = start("budget.steps=0", f"init_from={directory.path}")
    assert again["steps"] == 0
    assert again["parents"] == [str(directory.path)]
    assert {key: again["metrics"][key] for key in first["metrics"]} == first["metrics"]


def test_another_run_is_continued_where_it_stood(start):
    _, directory = start("budget.steps=3", "seed=1")
    result, continued = start("budget.steps=5", "seed=2", f"resume_from={directory.path}")
    assert result["status"] == "done"
    assert [line["step"] for line in _lines(continued) if "loss" in line] == [4, 5]


def test_a_killed_run_goes_on_and_logs_every_step_once(start):
    arguments = ("budget.steps=6", "budget.checkpoint_every=2", "budget.eval_every=6")
    straight, directory = start(*arguments)
    whole, predictions = _lines(directory), directory.predictions_path.read_text()
    for lost in (directory.result_path, directory.predictions_path):
        lost.unlink()
    shutil.rmtree(directory.checkpoints / "step-00000006")  # killed after its lines were written
    again, directory = start(*arguments)
    assert again["metrics"] == straight["metrics"]
    assert directory.predictions_path.read_text() == predictions
    keys = ("step", "loss", "grad_norm", "lr", "validation/accuracy")
    assert [[line.get(key) for key in keys] for line in _lines(directory)] == [
        [line.get(key) for key in keys] for line in whole
    ]


def test_what_the_budget_says_reaches_the_loop(start, monkeypatch):
    seen = {}

    def fit(model, task, update, plan, *arguments, **named):
        seen.update(model=model, task=task, plan=plan)
        return whole(model, task, update, plan, *arguments, **named)

    whole = loop.fit
    monkeypatch.setattr(loop, "fit", fit)
    monkeypatch.setattr(memory, "fit_micro_batch", lambda *_: 4)
    result, directory = start("budget.steps=2", "budget.gradient_checkpointing=true", "budget.micro_batch=auto")
    assert seen["model"].gradient_checkpointing
    assert seen["plan"].steps == result["steps"] == 2
    (event,) = result["events"]
    assert event == {"event": "micro_batch_found", "micro_batch": 4}
    (step,) = seen["task"].batches(seen["model"], 0, 1)
    assert [len(batch["index"]) for batch in step] == [4, 4, 4, 4]
    assert directory.status() == "done"


def test_a_run_that_diverges_says_so_and_keeps_no_prediction(start):
    result, directory = start("budget.steps=6", "optim.lr=1e30", "optim.max_grad_norm=null", "optim.warmup_ratio=0")
    assert result["status"] == "diverged"
    assert "is not finite" in result["reason"]
    assert result["exit_code"] == 1
    assert not directory.predictions_path.exists()
    assert directory.read_result()["status"] == "diverged"
