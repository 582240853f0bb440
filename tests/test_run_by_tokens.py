"""A whole run under a budget of tokens, in which memory runs out wherever it can."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from out_of_memory import run_out

from rtx_lab.core import checkpoint, memory
from rtx_lab.core.rundir import RunDir
from rtx_lab.core.schema import settle
from rtx_lab.run import run_settled
from rtx_lab.sweep.door import COMPOSE_KEYWORDS
from rtx_lab.tasks.answer import AnswerTask

CONF = Path(__file__).parent.parent / "conf"
TINY = (
    *("dataset=arithmetic", "dataset.num_train=64", "dataset.num_validation=20", "dataset.num_test=12"),
    *("model.d_model=16", "model.num_slots=8", "model.bilinear_rank=4", "hardware=cpu", "hardware.num_threads=1"),
    *("budget.global_batch=16", "budget.steps=4", "budget.eval_every=2", "tracking.tensorboard=false"),
)


@pytest.fixture
def go(tmp_path):
    threads = torch.get_num_threads()

    def start(name, *overrides):
        with initialize_config_dir(config_dir=str(CONF), **COMPOSE_KEYWORDS):
            settled = settle(compose("config", overrides=[*TINY, *overrides], return_hydra_config=True))
        (tmp_path / name).mkdir()
        return run_settled(settled, RunDir(tmp_path / name))

    yield start
    torch.set_num_threads(threads)


def _tight(monkeypatch):
    """Let loss and scores of more than so many positions be out of memory, and the first loading of weights."""
    loss, score, load = AnswerTask.loss, AnswerTask.score, checkpoint.load_weights
    loaded = []

    def check(batch, most):
        if batch["source"].numel() + batch["labels"].numel() > most:
            run_out()

    def tight_loss(self, model, batch):
        check(batch, 250)
        return loss(self, model, batch)

    def tight_score(self, model, batch, split):
        check(batch, 350)
        return score(self, model, batch, split)

    def tight_load(model, place):
        loaded.append(place)
        if len(loaded) == 1:
            run_out()
        return load(model, place)

    monkeypatch.setattr(AnswerTask, "loss", tight_loss)
    monkeypatch.setattr(AnswerTask, "score", tight_score)
    monkeypatch.setattr(checkpoint, "load_weights", tight_load)


def test_every_out_of_memory_is_survived_and_told(go, monkeypatch):
    plain = go("plain", "budget.micro_tokens=400")
    assert plain["status"] == "done"
    assert plain["events"] == []
    _tight(monkeypatch)
    result = go("tight", "budget.micro_tokens=400")
    assert result["status"] == "done"
    failures = [event for event in result["events"] if event["event"] == "out_of_memory"]
    assert len(failures) == len(result["events"])
    assert {event.get("split", event.get("where", "training")) for event in failures} == {
        "training", "validation", "test", "load",
    }  # fmt: skip
    assert {event["step"] for event in failures if "step" in event} <= {1, 2, 3, 4}
    keys = ("test/accuracy", "validation/accuracy", "validation/loss", "test/n")
    assert [result["metrics"][key] for key in keys] == pytest.approx([plain["metrics"][key] for key in keys], rel=1e-4)


def test_auto_is_found_before_the_first_batch(go, monkeypatch):
    monkeypatch.setattr(memory, "fit_micro_tokens", lambda *_: 200)
    result = go("auto", "budget.micro_tokens=auto", "budget.sort_window=1")
    assert result["status"] == "done"
    assert result["events"] == [{"event": "micro_tokens_found", "micro_tokens": 200}]


def test_auto_looks_at_the_model(go):
    result = go("looked", "budget.micro_tokens=auto", "budget.steps=1")
    assert result["status"] == "done"
    (event,) = result["events"]
    assert event["micro_tokens"] > 0
