"""Checkpoints: what is saved comes back bit for bit, what is damaged is found, and what fails leaves nothing behind."""

from __future__ import annotations

import json
import os
import random
import shutil

import pytest
import torch
from damage import damage
from safetensors.torch import load_file
from torch import nn

from rtx_lab import optim
from rtx_lab.core import checkpoint, tensorfile
from rtx_lab.core.checkpoint import Store
from rtx_lab.core.errors import RunError, UsageError


class Tied(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.table = nn.Embedding(5, width)
        self.head = nn.Linear(width, 5)
        self.head.weight = self.table.weight
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("codes", torch.arange(300, dtype=torch.uint8))
        self.register_buffer("nothing", torch.empty(0, 3))
        self.register_buffer("brain", torch.randn(3, dtype=torch.bfloat16))
        self.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T)


def trained(steps=2):
    model = Tied()
    update = optim.adamw(model, 10)
    for _ in range(steps):
        model.head(model.table(torch.arange(5))).square().sum().backward()
        update.optimizer.step()
        update.optimizer.zero_grad()
    return model, update.optimizer


def write(folder, step=1, keep_last=3, best=None):
    model, optimizer = trained()
    state = {"step": step, "best": best and {"step": best, "value": 1.0}, "loss": 0.1 + 0.2}
    return checkpoint.save(Store(folder=folder, keep_last=keep_last), state, model, optimizer)


def same(a, b):
    return all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a.values(), b.values(), strict=True))


def test_everything_comes_back_bit_for_bit(tmp_path):
    model, optimizer = trained()
    path = checkpoint.save(Store(folder=tmp_path), {"step": 7, "loss": 0.1 + 0.2}, model, optimizer)
    assert path.name == "step-00000007"
    other, second = trained(steps=1)
    state = checkpoint.restore(path, other, second)
    assert state == {"step": 7, "loss": 0.1 + 0.2}
    assert same(model.state_dict(), other.state_dict())
    for old, new in zip(optimizer.state.values(), second.state.values(), strict=True):
        assert same(old, new)
    assert other.head.weight is other.table.weight


def test_the_files_are_plain_safetensors_and_json(tmp_path):
    path = write(tmp_path)
    names = sorted(file.name for file in path.iterdir())
    assert names == ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    weights = load_file(path / "model.safetensors")
    assert "table.weight" in weights
    assert "head.weight" not in weights  # tied weights are kept once ...
    assert "head.weight" in checkpoint.read_weights(path)  # ... and read under both names
    assert json.loads((path / "manifest.json").read_text())["step"] == 1


def test_our_writer_and_the_library_agree_on_the_bytes_of_every_type(tmp_path):
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    tensors = {str(kind): torch.arange(5).to(kind) for kind in [*kinds, torch.int8, torch.uint8, torch.bool]}
    tensors["scalar"] = torch.tensor(3.5)
    digest = tensorfile.write(tmp_path / "a.safetensors", tensors)
    assert digest == tensorfile.digest_of(tmp_path / "a.safetensors")
    back = load_file(tmp_path / "a.safetensors")
    assert same({name: tensors[name] for name in sorted(tensors)}, {name: back[name] for name in sorted(tensors)})


def test_nested_state_survives_with_its_types():
    tree = {0: {"a": (1, 2.5, None), "b": [torch.ones(2), "x"]}, "1": True}
    shape, tensors = tensorfile.split(tree)
    back = tensorfile.join(json.loads(json.dumps(shape)), tensors)
    assert back[0]["a"] == (1, 2.5, None)
    assert isinstance(back[0]["a"], tuple)
    assert list(back) == [0, "1"]
    assert torch.equal(back[0]["b"][0], torch.ones(2))
    with pytest.raises(TypeError, match="x holds a set"):
        tensorfile.split({"x": {1}})


@pytest.mark.parametrize("factory", [optim.adamw_8bit, optim.adamw_paged])
def test_bitsandbytes_state_comes_back_in_place(tmp_path, factory):
    def make(value):
        torch.manual_seed(0)
        model = nn.Linear(80, 80)
        update = factory(model, 10)
        update.prepare()
        for _ in range(3):
            model(torch.full((2, 80), value)).square().sum().backward()
            update.optimizer.step()
        return model, update.optimizer

    model, optimizer = make(1.0)
    path = checkpoint.save(Store(folder=tmp_path), {"step": 3}, model, optimizer)
    other, second = make(0.3)
    buffers = [state["state1"] for state in second.state.values()]
    checkpoint.restore(path, other, second)
    for old, new, buffer in zip(optimizer.state.values(), second.state.values(), buffers, strict=True):
        assert new["state1"] is buffer  # so that paged memory stays paged
        assert new["step"] == old["step"] == 3
        assert all(torch.equal(old[key], new[key]) for key in old if key != "step")


def test_every_truncation_and_bit_flip_is_found_and_named(tmp_path):
    good = write(tmp_path / "good")
    rng = random.Random(0)
    for round_ in range(60):
        copy = tmp_path / "copy" / good.name
        shutil.copytree(good, copy)
        name = sorted(file.name for file in good.iterdir())[round_ % 4]
        what = damage(copy / name, rng)
        problems = checkpoint.verify(copy)
        assert problems, what
        assert name in problems[0], (what, problems)
        shutil.rmtree(copy)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_missing_file_is_found(tmp_path, name):
    path = write(tmp_path)
    (path / name).unlink()
    assert f"{name} is missing" in checkpoint.verify(path)[0]


def test_a_file_of_another_checkpoint_is_found(tmp_path):
    one, two = write(tmp_path, step=1), write(tmp_path, step=2)
    shutil.copy(one / "state.json", two / "state.json")
    assert "state.json was changed" in checkpoint.verify(two)[0]
    shutil.copytree(one, tmp_path / "step-00000009")
    assert "holds step-00000001" in checkpoint.verify(tmp_path / "step-00000009")[0]


def test_the_newest_whole_one_is_used(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step=step)
    assert checkpoint.newest(tmp_path) == (tmp_path / "step-00000003", [])
    (tmp_path / "step-00000003" / "state.json").write_text("{}")
    (tmp_path / "step-00000002" / "manifest.json").write_text("[]")
    found, skipped = checkpoint.newest(tmp_path)
    assert found == tmp_path / "step-00000001"
    assert [("step-00000003/state.json" in skipped[0]), ("step-00000002/manifest.json" in skipped[1])] == [True, True]
    assert checkpoint.newest(tmp_path / "none") == (None, [])


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    for step in range(1, 8):
        write(tmp_path, step=step, keep_last=2, best=min(step, 3))
    assert [checkpoint.step_of(path) for path in checkpoint.steps(tmp_path)] == [3, 6, 7]
    assert checkpoint.best(tmp_path) == tmp_path / "step-00000003"
    assert checkpoint.find(tmp_path) == tmp_path / "step-00000003"
    (tmp_path / "step-00000003" / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="the best checkpoint cannot be used"):
        checkpoint.best(tmp_path)


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/step-00000001"])
def test_weights_load_from_a_run_a_folder_or_a_checkpoint(tmp_path, place):
    write(tmp_path / "checkpoints")
    model = Tied()
    assert checkpoint.load_weights(model, tmp_path / place).name == "step-00000001"
    assert same(model.state_dict(), trained()[0].state_dict()) is False  # random weights of another model ...
    assert same(model.state_dict(), checkpoint.read_weights(tmp_path / "checkpoints/step-00000001"))  # ... but these


def test_nothing_to_load_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="holds no checkpoint that can be used"):
        checkpoint.load_weights(Tied(), tmp_path)


def test_another_model_is_refused_before_anything_changes(tmp_path):
    path = write(tmp_path)
    wider = Tied(width=9)
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(UsageError, match=r"table.weight has shape \(5, 8\) there and shape \(5, 9\) here"):
        checkpoint.restore(path, wider)
    assert same(before, wider.state_dict())
    with pytest.raises(UsageError, match=r"weight has no such tensor there and shape \(2, 2\) here"):
        checkpoint.restore(path, nn.Linear(2, 2))


def test_another_optimizer_is_refused_before_anything_changes(tmp_path):
    path = write(tmp_path)
    model = Tied()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UsageError, match="was saved with AdamW, this run uses SGD"):
        checkpoint.restore(path, model, torch.optim.SGD(model.parameters()))
    assert same(before, model.state_dict())


def test_the_configuration_decides_rates_and_decays_after_a_restore(tmp_path):
    path = write(tmp_path)
    model = Tied()
    optimizer = optim.adamw(model, 10, weight_decay=0.5, betas=[0.8, 0.9]).optimizer
    checkpoint.restore(path, model, optimizer)
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_disk_that_refuses_leaves_the_earlier_checkpoint_alone(tmp_path, monkeypatch, call):
    write(tmp_path, step=1)
    for nth in range(1, 8):
        with monkeypatch.context() as patch:
            calls = _fail_at(patch, call, nth)
            if call == "fsync" or nth == 1:
                with pytest.raises(RunError, match=r"step-00000002 could not be written \(No space left on device\)"):
                    write(tmp_path, step=2)
            if not calls:
                break
        assert checkpoint.newest(tmp_path)[0] == tmp_path / "step-00000001"
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
        if call == "fsync" and nth == 5:  # four files and the folder; the sixth follows the rename
            break


def _fail_at(patch, call, nth):
    calls = []
    real = getattr(os, call)

    def fail(*args, **kwargs):
        calls.append(args)
        if len(calls) == nth:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    patch.setattr(os, call, fail)
    return calls


def test_leftovers_of_a_killed_writer_are_cleared(tmp_path):
    (tmp_path / ".step-00000005.writing").mkdir()
    write(tmp_path, step=6)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000006"]


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path):
    path = write(tmp_path)
    (path / "model.safetensors").write_bytes(b"x")
    write(tmp_path)
    assert checkpoint.verify(path) == []


@pytest.mark.parametrize("look", [checkpoint.find, checkpoint.find_newest])
def test_a_run_whose_checkpoints_are_all_damaged_is_told_from_one_without(tmp_path, look):
    path = write(tmp_path / "checkpoints")
    (path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match=r"every checkpoint of .* is damaged: .*model\.safetensors has 1 bytes"):
        look(tmp_path)
