import shutil

import pytest
import torch
from torch import nn

from rtx_lab.core import checkpoint, recovery
from rtx_lab.core.checkpoint import Store
from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import parent_identity, write_json


def _save(store, step, best=None):
    torch.manual_seed(step)
    known = {"step": best, "value": 0.5} if best else None
    return checkpoint.save(store, {"step": step, "best": known}, nn.Linear(2, 2))


def _damage(path):
    weights = path / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)


def test_a_run_goes_on_from_its_newest_checkpoint(tmp_path):
    store = Store(folder=tmp_path, owner="abc")
    _save(store, 1)
    newest = _save(store, 2, best=1)
    assert recovery.latest_of(store) == (newest, [])


def test_checkpoints_of_another_run_are_passed_over_and_named(tmp_path):
    own, other = Store(folder=tmp_path / "own", owner="abc"), Store(folder=tmp_path / "other", owner="xyz")
    mine = _save(own, 1)
    shutil.copytree(_save(other, 2), own.folder / "step-00000002")
    found, skipped = recovery.latest_of(own)
    assert found == mine
    assert len(skipped) == 1
    assert "step-00000002 belongs to another run (xyz)" in skipped[0]


def test_a_damaged_best_sends_the_run_back_before_it(tmp_path):
    store = Store(folder=tmp_path, keep_last=5)
    before = _save(store, 1)
    best = _save(store, 2, best=2)
    _save(store, 3, best=2)
    _damage(best)
    found, skipped = recovery.latest_of(store)
    assert found == before
    assert any("remembers a best checkpoint that is damaged" in problem for problem in skipped)


def test_a_foreign_model_is_refused_without_building_it(tmp_path):
    path = _save(Store(folder=tmp_path), 1)
    with torch.device("meta"):
        recovery.check_fits(nn.Linear(2, 2), path)
        with pytest.raises(
            UsageError, match=r"belongs to another model: weight has shape \(2, 2\) there and shape \(3, 2\)"
        ):
            recovery.check_fits(nn.Linear(2, 3), path)


def test_the_content_digest_follows_the_content(tmp_path):
    first = recovery.content_digest(_save(Store(folder=tmp_path / "a"), 1))
    assert first == recovery.content_digest(_save(Store(folder=tmp_path / "b"), 1))
    assert first != recovery.content_digest(_save(Store(folder=tmp_path / "c"), 2))


def test_a_parent_is_known_by_its_signature_however_it_is_spelled(tmp_path, monkeypatch):
    run = tmp_path / "multirun" / "main" / "x-0123456789ab"
    write_json(run / "result.json", {"status": "done", "signature": "0123456789ab"})
    monkeypatch.chdir(tmp_path)
    spellings = (str(run), "multirun/main/x-0123456789ab", "./multirun/../multirun/main/x-0123456789ab/")
    assert {parent_identity(place) for place in spellings} == {"0123456789ab/"}
    inside = parent_identity(str(run / "checkpoints" / "step-00000500"))
    assert inside == "0123456789ab/step-00000500"
    assert parent_identity("/nowhere") == "/nowhere"
