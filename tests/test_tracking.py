import json
import logging
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from rtx_lab import tracking
from rtx_lab.tracking import Tracker, flatten, one_line, with_seed_keys


def settings(**changes):
    base = {"wandb": "off", "tensorboard": False, "project": "rtx_lab", "entity": None, "group": None, "tags": ["a"]}
    return SimpleNamespace(**(base | changes))


class FakeRun:
    def __init__(self):
        self.rows, self.summary, self.finished = [], {}, False

    def log(self, scalars, step):
        self.rows.append((step, scalars))

    def finish(self):
        self.finished = True


class FakeWandb:
    """Stands in for the module; `error` is raised by init, `gate` is waited for in init."""

    def __init__(self, *, error=None, gate=None, logged_in=True):
        self.error, self.gate, self.logged_in = error, gate, logged_in
        self.run, self.arguments = FakeRun(), {}

    def Settings(self, **fields):
        return fields

    def login(self, prompt):
        assert prompt is False  # asking would stop the training on a terminal
        return self.logged_in

    def init(self, **arguments):
        self.arguments = arguments
        if self.gate is not None:
            self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.run


@pytest.fixture
def wandb_is(monkeypatch):
    def install(fake):
        monkeypatch.setitem(sys.modules, "wandb", fake)
        return fake

    return install


def read_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_off_writes_nothing(tmp_path):
    tracker = Tracker(settings(), tmp_path, signature="abc")
    tracker.log({"step": 1, "loss": 2.0})
    tracker.close({"test/accuracy": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_holds_every_number_by_step(tmp_path):
    tracker = Tracker(
        settings(tensorboard=True), tmp_path, signature="abc", config={"optim": {"lr": 0.1}, "tags": None}
    )
    tracker.log({"step": 50, "loss": 2.0, "note": "text", "bad": float("nan"), "gone": None})
    tracker.log({"step": 100, "loss": 1.0, "validation/accuracy": 0.25})
    tracker.close({"test/accuracy": 0.5})
    found = read_tensorboard(tmp_path / "tensorboard")
    assert found["loss"] == [(50, 2.0), (100, 1.0)]
    assert found["validation/accuracy"] == [(100, 0.25)]
    assert found["test/accuracy"] == [(0, 0.5)]
    assert not {"note", "bad", "gone", "step"} & set(found)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1  # no sub-run named by the clock


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path):
    first = Tracker(settings(tensorboard=True), tmp_path, signature="abc")
    for step in (50, 100, 150):
        first.log({"step": step, "loss": 1.0})
    first.close()
    second = Tracker(settings(tensorboard=True), tmp_path, signature="abc", resume_step=100)
    for step in (150, 200):
        second.log({"step": step, "loss": 2.0})
    second.close()
    assert read_tensorboard(tmp_path / "tensorboard")["loss"] == [(50, 1.0), (100, 1.0), (150, 2.0), (200, 2.0)]


def test_an_unwritable_tensorboard_is_one_warning(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file, not a folder")
    tracker = Tracker(settings(tensorboard=True), tmp_path, signature="abc")
    for step in range(3):
        tracker.log({"step": step, "loss": 1.0})
    tracker.close()
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "tensorboard is off for the rest of this run"
    ]


def test_wandb_gets_our_keys_and_the_older_ones(tmp_path, wandb_is):
    fake = wandb_is(FakeWandb())
    tracker = Tracker(settings(wandb="online", group="g"), tmp_path, signature="abc123", config={"a": {"b": 1}})
    tracker.log({"step": 7, "loss": 2.0, "lr": 0.1, "memory_gb": 3.0, "avg_reasoning_steps": 4.0})
    tracker.close({"test/accuracy": 0.5})
    (step, row), run = fake.run.rows[0], fake.run
    assert step == 7
    assert row["loss"] == row["train_loss"] == 2.0
    assert (row["learning_rate"], row["memory_used"], row["reasoning_steps"]) == (0.1, 3.0, 4.0)
    assert run.summary == {"test/accuracy": 0.5}
    assert run.finished
    assert (fake.arguments["id"], fake.arguments["resume"], fake.arguments["mode"]) == ("abc123", "allow", "online")
    assert fake.arguments["config"] == {"a.b": 1}
    assert fake.arguments["settings"]["init_timeout"] == tracking.INIT_TIMEOUT_S


def test_training_does_not_wait_for_wandb(tmp_path, wandb_is, monkeypatch, caplog):
    gate = threading.Event()
    fake = wandb_is(FakeWandb(gate=gate))
    monkeypatch.setattr(tracking, "QUEUE_SIZE", 10)
    tracker = Tracker(settings(wandb="online"), tmp_path, signature="abc")
    for step in range(50):  # init hangs all the while
        tracker.log({"step": step, "loss": 1.0})
    assert fake.run.rows == []
    gate.set()
    tracker.close()
    assert fake.run.finished
    assert "metrics.jsonl only" in caplog.text


def test_a_wandb_that_never_answers_is_left_behind(tmp_path, wandb_is, monkeypatch, caplog):
    gate = threading.Event()
    wandb_is(FakeWandb(gate=gate))
    monkeypatch.setattr(tracking, "CLOSE_TIMEOUT_S", 0.05)
    tracker = Tracker(settings(wandb="online"), tmp_path, signature="abc")
    tracker.close()
    assert "wandb sync" in caplog.text
    gate.set()


def test_errors_of_wandb_are_one_warning_and_name_the_key(tmp_path, wandb_is, caplog):
    refused = type("AuthenticationError", (Exception,), {"__module__": "wandb.errors.errors"})
    wandb_is(FakeWandb(error=refused("invalid\nkey")))
    tracker = Tracker(settings(wandb="online"), tmp_path, signature="abc")
    tracker._sinks[0]._thread.join()
    for step in range(5):
        tracker.log({"step": step, "loss": 1.0})
    tracker.close()
    assert len(caplog.records) == 1
    assert "WANDB_API_KEY" in caplog.text
    assert "invalid key" in caplog.text


def test_a_missing_key_is_told_before_wandb_can_ask(tmp_path, wandb_is, caplog):
    fake = wandb_is(FakeWandb(logged_in=False))
    tracker = Tracker(settings(wandb="online"), tmp_path, signature="abc")
    tracker.close()
    assert fake.arguments == {}
    assert "WANDB_API_KEY" in caplog.text


def test_a_missing_package_is_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    Tracker(settings(wandb="offline"), tmp_path, signature="abc").close()
    assert "wandb is off for the rest of this run" in caplog.text


def test_real_wandb_offline_keeps_a_run_in_the_run_folder(tmp_path, monkeypatch, caplog):
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING, logger="rtx_lab"):
        tracker = Tracker(settings(wandb="offline"), tmp_path / "run", signature="0123456789ab", config={"lr": 1.0})
        tracker.log({"step": 1, "loss": 2.0})
        tracker.close({"test/accuracy": 1.0})
    assert [record for record in caplog.records if record.name.startswith("rtx_lab")] == []
    assert list((tmp_path / "run").glob("wandb/offline-run-*-0123456789ab/run-0123456789ab.wandb"))


def test_a_full_disk_under_tensorboard_is_one_warning(tmp_path):
    script = f"""
import logging, resource
from pathlib import Path
from types import SimpleNamespace
import torch.utils.tensorboard  # imports need a disk that takes files
from rtx_lab.tracking import Tracker
logging.basicConfig(format="%(message)s")
settings = SimpleNamespace(wandb="off", tensorboard=True)
tracker = Tracker(settings, Path({str(tmp_path)!r}), signature="abc")
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
for step in range(30):
    tracker.log({{"step": step, "loss": 1.0}})
tracker.close({{"test/accuracy": 1.0}})
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = finished.stderr.splitlines()
    assert line.startswith("tensorboard is off for the rest of this run: [Errno 27]")


def test_the_env_file_of_the_working_directory_is_read(tmp_path, monkeypatch, wandb_is):
    wandb_is(FakeWandb())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RTX_TRACKING_TEST", "")
    monkeypatch.delenv("RTX_TRACKING_TEST")
    (tmp_path / ".env").write_text("RTX_TRACKING_TEST=1\n")
    Tracker(settings(wandb="offline"), tmp_path, signature="abc").close()
    assert os.environ["RTX_TRACKING_TEST"] == "1"


def test_older_names_prefer_the_training_value():
    assert with_seed_keys({"validation/avg_reasoning_steps": 2.0})["reasoning_steps"] == 2.0
    assert with_seed_keys({"avg_reasoning_steps": 3.0, "validation/avg_reasoning_steps": 2.0})["reasoning_steps"] == 3.0
    assert with_seed_keys({"x": 1.0}) == {"x": 1.0}


def test_hparams_are_flat_and_plain():
    flat = flatten({"model": {"d": 4, "halting": None}, "tags": ["a"], "ok": True})
    assert flat == {"model.d": 4, "model.halting": "None", "tags": "['a']", "ok": True}
    json.dumps(flat)


def test_one_line_of_an_empty_or_long_error():
    assert one_line(ValueError()) == "ValueError"
    assert one_line(ValueError("a\n  b")) == "a b"


def test_denoisers_get_the_older_tags_of_tensorboard_beside_ours():
    from rtx_lab.tracking import with_denoiser_tags

    line = {"loss": 3.0, "total_loss": 3.0, "recon_loss": 2.5, "gate_loss": 0.5, "lr": 1e-3}
    assert with_denoiser_tags(line) == line | {
        "train/total_loss": 3.0, "train/recon_loss": 2.5, "train/gate_loss": 0.5, "train/lr": 1e-3,
    }  # fmt: skip
    looked = {"validation/loss": 2.0, "validation/mask/50/accuracy": 0.4}
    assert with_denoiser_tags(looked) == looked | {"val/loss": 2.0, "val/mask/50/accuracy": 0.4}
    others = {"loss": 1.0, "lr": 1e-3, "validation/accuracy": 0.5}
    assert with_denoiser_tags(others) == others
