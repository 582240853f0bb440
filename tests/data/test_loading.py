import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from rtx_lab.core.partition import group_tokens, rounded
from rtx_lab.core.types import Cut
from rtx_lab.data.collate import IGNORED, collate, collate_options
from rtx_lab.data.generated import arithmetic, reasoning
from rtx_lab.data.loading import StepDataset, both_lengths, held_out_batches, step_loader

SMALL = {"num_train": 300, "num_validation": 20, "num_test": 45}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "loading_cache"))


@pytest.fixture
def train():
    return reasoning(**SMALL).split("train")


def load(split, start, stop, workers=0, **changes):
    own = Cut(**{"seed": 5, "global_batch": 64, "micro_batch": 32, **changes})
    return list(step_loader(StepDataset(split, own), start=start, stop=stop, num_workers=workers))


def same(first, second):
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for step, other in zip(first, second, strict=False)
        for a, b in zip(step, other, strict=True)
    )


def test_a_batch_holds_its_rows_shifted_and_padded(train):
    rows = np.array([4, 100, 7])
    batch = collate(train, rows)
    assert batch["index"].tolist() == [4, 100, 7]
    for place, row in enumerate(rows):
        size, target = train.source_lengths[row], train.target(row).tolist()
        assert batch["source"][place, :size].tolist() == train.source(row).tolist()
        assert batch["source_mask"][place].tolist() == [at < size for at in range(batch["source"].shape[1])]
        assert (batch["source"][place, size:] == train.pad_id).all()
        labels = batch["labels"][place]
        assert labels[labels != IGNORED].tolist() == [*target, train.eos_id]
        assert batch["decoder_input"][place, : len(target) + 1].tolist() == [train.start_id, *target]
    assert {key: value.dtype for key, value in batch.items()} == {
        "index": torch.int64,
        "source": torch.int64,
        "source_mask": torch.bool,
        "decoder_input": torch.int64,
        "labels": torch.int64,
    }


def test_options_are_whole_and_the_marked_one_is_the_target(train):
    rows = np.arange(40)
    batch = collate_options(train, rows)
    assert batch["option_mask"].all()
    assert batch["option_labels"].shape[:2] == (40, 4)
    assert batch["option_input"].shape == batch["option_labels"].shape
    for row in rows:
        labels = batch["option_labels"][row, train.record(row)["label"]]
        target = batch["labels"][row]
        assert labels[labels != IGNORED].tolist() == target[target != IGNORED].tolist()


def test_nobody_weighs_nothing_and_attends_to_something(train):
    batch = collate_options(train, np.array([-1]))
    assert (batch["labels"] == IGNORED).all()
    assert batch["source_mask"].any(1).all()
    assert batch["index"].tolist() == [-1]
    mixed = collate_options(train, np.array([3, -1]))
    assert not mixed["option_mask"][1].any()
    assert (mixed["option_labels"][1] == IGNORED).all()


def test_generated_answers_have_no_options():
    batch = next(held_out_batches(arithmetic(**SMALL).split("test"), batch_size=4))
    assert not [key for key in batch if key.startswith("option")]


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_change_nothing(train, workers):
    assert same(load(train, 3, 9), load(train, 3, 9, workers))


def test_resuming_gives_the_rest_of_the_series(train):
    whole = load(train, 0, 12)
    assert same(whole[7:], load(train, 7, 12))
    assert len(whole) == 12
    assert load(train, 4, 4) == []


@pytest.mark.parametrize(("micro", "world"), [(64, 1), (16, 1), (8, 2), (24, 3)])
def test_an_epoch_of_batches_is_the_whole_split(train, micro, world):
    seen = []
    for rank in range(world):
        steps = load(train, 0, 5, micro_batch=micro, rank=rank, world_size=world)
        assert len(steps) == 5
        seen += [row for step in steps for batch in step for row in batch["index"].tolist() if row != -1]
    assert sorted(seen) == list(range(300))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_held_out_batches_hold_every_row_once(world):
    split = reasoning(**SMALL).split("test")
    batches = [b for rank in range(world) for b in held_out_batches(split, batch_size=8, rank=rank, world_size=world)]
    assert sorted(row for batch in batches for row in batch["index"].tolist()) == list(range(45))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("batch_size", "max_tokens"), [(8, 400), (99, 400), (99, 30), (3, 10**6)])
def test_held_out_batches_by_tokens_hold_every_row_once(world, batch_size, max_tokens):
    split = reasoning(**SMALL).split("test")
    options = {"batch_size": batch_size, "max_tokens": max_tokens, "world_size": world}
    batches = [b for rank in range(world) for b in held_out_batches(split, **options, rank=rank)]
    rows = [batch["index"].numpy() for batch in batches]
    assert sorted(np.concatenate(rows)) == list(range(45))
    assert all(len(own) <= batch_size for own in rows)
    assert all(group_tokens(both_lengths(split)[own]) <= max_tokens or len(own) == 1 for own in rows)
    longest = [int(rounded(split.source_lengths[own]).max()) for own in rows]
    assert world > 1 or longest == sorted(longest, reverse=True)


@pytest.mark.parametrize("max_tokens", [None, 200])
def test_some_rows_alone_can_be_held_out(max_tokens):
    split = reasoning(**SMALL).split("test")
    batches = held_out_batches(split, batch_size=4, max_tokens=max_tokens, rows=np.array([3, 40, 7, 8, 21]))
    assert sorted(row for batch in batches for row in batch["index"].tolist()) == [3, 7, 8, 21, 40]


@pytest.mark.parametrize("workers", [0, 2])
def test_steps_by_tokens_are_the_same_however_they_are_reached(train, workers):
    options = {"micro_tokens": 600, "sort_window": 2}
    whole = load(train, 0, 10, **options)
    assert same(whole[6:], load(train, 6, 10, workers, **options))
    seen = [row for step in whole[:5] for batch in step for row in batch["index"].tolist()]
    assert sorted(seen) == list(range(300))


LOOP = """
import sys
from rtx_lab.core.types import Cut
from rtx_lab.data.generated import reasoning
from rtx_lab.data.loading import StepDataset, step_loader
import time
split = reasoning(num_train=300, num_validation=20, num_test=45).split("train")
steps = StepDataset(split, Cut(seed=5, global_batch=64, micro_batch=32))
try:
    for number, batches in enumerate(step_loader(steps, start=0, stop=10**6, num_workers=2)):
        if number >= 2:  # both workers are at work, not still starting
            print("step", flush=True)
        time.sleep(0.02)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def test_control_c_ends_the_workers_without_a_traceback():
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "step\n"
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out.endswith("stopped\n")
    assert err == ""
    assert process.returncode == 0


def test_workers_can_be_spawned(train):
    import pickle

    steps = StepDataset(train, Cut(seed=5, global_batch=64, micro_batch=32))
    again = pickle.loads(pickle.dumps(steps))
    assert same([steps[3]], [again[3]])
