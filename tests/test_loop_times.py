"""What a run spends its time on, how fast it is and how much memory it holds: booked once, over resumes too."""

import time

import pytest
from toy_training import STEPS, ToyTask, host, scores, stop_after, train

from rtx_lab import loop, optim
from rtx_lab.core import checkpoint, record
from rtx_lab.core.checkpoint import Store
from rtx_lab.core.device import GB, Device
from rtx_lab.core.training import PURPOSES


class Clock:
    """A clock that each purpose moves by an amount of its own."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def spend(self, seconds):
        self.now += seconds

    def task(self):
        """Two seconds of waiting for a batch, five for its step."""
        clock = self

        class Timed(ToyTask):
            def batches(self, model, start, stop):
                clock.spend(10.0)  # the loader starts
                for batches in super().batches(model, start, stop):
                    clock.spend(2.0)
                    yield batches

            def loss(self, model, batch):
                clock.spend(5.0)
                return super().loss(model, batch)

        return Timed(micro_batch=12)

    def evaluate(self):
        """Seven seconds for each look."""
        line = iter((0.1, 0.2, 0.3, 0.4))

        def look():
            self.spend(7.0)
            return {"validation/accuracy": next(line)}

        return look


def timed(monkeypatch, store, **options):
    clock = Clock(monkeypatch)
    plan = {"eval_every": 3, "checkpoint_every": 3}
    return train(clock.task(), store=store, plan=plan, evaluate=clock.evaluate(), **options)


def test_every_second_is_booked_once(monkeypatch, tmp_path):
    _, outcome, lines = timed(monkeypatch, Store(folder=tmp_path))
    spent = outcome.state.time_split_s
    assert set(spent) <= set(PURPOSES)
    assert spent["train"] == pytest.approx(5.0 * STEPS)
    assert spent["data"] == pytest.approx(10.0 + 2.0 * STEPS)
    assert spent["evaluation"] == pytest.approx(7.0 * 4)
    assert spent["checkpoint"] == 0
    assert sum(spent.values()) == pytest.approx(outcome.state.time_s)
    looks = [line["time_s"] for line in lines if "validation/accuracy" in line]
    assert looks == pytest.approx([10 + 7 * 3 + 7, 10 + 7 * 6 + 14, 10 + 7 * 9 + 21, 10 + 7 * 12 + 28])


def test_a_resumed_run_goes_on_counting(monkeypatch, tmp_path):
    store = Store(folder=tmp_path)
    _, first, _ = timed(monkeypatch, store, **stop_after(5))
    assert first.earlier_s == 0
    _, second, lines = timed(monkeypatch, store)
    assert first.state.time_s == pytest.approx(10 + 7 * 5 + 7)
    assert second.earlier_s == pytest.approx(first.state.time_s)
    assert second.state.time_split_s["train"] == pytest.approx(5.0 * STEPS)
    assert second.state.time_split_s["data"] == pytest.approx(2 * 10.0 + 2.0 * STEPS), "the loader started twice"
    looks = [line["time_s"] for line in lines if "validation/accuracy" in line]
    assert looks == sorted(looks)
    assert looks[0] > first.state.time_s


def test_writing_a_checkpoint_is_booked(monkeypatch, tmp_path):
    clock, save = Clock(monkeypatch), checkpoint.save

    def slow(*arguments):
        clock.spend(30.0)
        return save(*arguments)

    monkeypatch.setattr(checkpoint, "save", slow)
    plan = {"checkpoint_every": 6}
    _, outcome, lines = train(clock.task(), store=Store(folder=tmp_path), plan=plan)
    assert outcome.state.time_split_s["checkpoint"] == pytest.approx(60.0)
    assert [line["step_time_s"] for line in lines[1:]] == pytest.approx([7.0] * 11), "writing is no part of a step"


def test_samples_are_counted_however_they_are_cut(monkeypatch):
    for micro_batch in (12, 5, 1):
        clock = Clock(monkeypatch)
        task = clock.task()
        task.micro_batch = micro_batch
        _, _, lines = train(task, plan={"log_every": 4})
        for line in lines:
            assert line["samples_per_s"] * line["step_time_s"] == pytest.approx(12)


def test_a_line_that_spans_a_resume_has_all_samples(monkeypatch, tmp_path):
    clock, plan = Clock(monkeypatch), {"log_every": 5}
    train(clock.task(), store=Store(folder=tmp_path), plan=plan, **stop_after(7))
    _, _, lines = train(clock.task(), store=Store(folder=tmp_path), plan=plan)
    assert lines[0]["step"] == 10
    assert lines[0]["samples_per_s"] * lines[0]["step_time_s"] == pytest.approx(12)


def test_another_run_that_is_continued_lends_no_time(tmp_path):
    model, *_ = train(store=Store(folder=tmp_path / "old" / "checkpoints"), evaluate=scores(0.5))
    update = optim.adamw(model, STEPS, lr=1e-2)
    state = loop.resume_from(tmp_path / "old", model, update, host())
    assert state.time_split_s == {}
    assert state.time_s > 0


def test_no_reserved_memory_on_a_cpu():
    _, _, lines = train(steps=2)
    assert lines[0]["reserved_gb"] is lines[0]["peak_reserved_gb"] is None


def test_memory_of_a_run_counts_earlier_processes(monkeypatch):
    lines = [{"step": 1, "memory_gb": 2.0, "peak_memory_gb": 90.0, "reserved_gb": 4.0, "peak_reserved_gb": 95.0}]
    lines += [{"step": 2, "validation/accuracy": 0.5}, {"step": 3, "memory_gb": 4.0, "reserved_gb": None}]
    told = record.memory(lines, host())
    assert told == {"mean_memory_gb": 3.0, "peak_memory_gb": 90.0, "mean_reserved_gb": 4.0, "peak_reserved_gb": 95.0}
    monkeypatch.setattr(Device, "peak_memory_gb", lambda _: 91.0)
    assert record.memory(lines, host())["peak_memory_gb"] == 91.0
    assert record.memory([], host())["mean_memory_gb"] is None
    assert GB == 2**30


def test_the_time_of_a_killed_attempt_is_known_from_its_checkpoint():
    assert record.times(time.time() - 5, {}, 100.0)["time_s"] == pytest.approx(105, abs=2)
    before = {"time_s": 300.0, "started_at": "2026-11-21T08:00:00+00:00"}
    found = record.times(time.time() - 5, before, 100.0)
    assert found["time_s"] == pytest.approx(305, abs=2)
    assert found["started_at"] == "2026-11-21T08:00:00+00:00"
    assert found["ended_at"].endswith("+00:00")
