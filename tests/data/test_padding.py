"""What of a batch is padding: lengths of its samples, and the batch without columns that none of them uses."""

import numpy as np
import pytest
import torch

from rtx_lab.data.collate import collate
from rtx_lab.data.generated import reasoning
from rtx_lab.data.padding import lengths, trim


@pytest.fixture
def split(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "padding_cache"))
    return reasoning(num_train=80, num_validation=4, num_test=4).split("train")


def test_lengths_are_those_of_the_split(split):
    rows = np.arange(30)
    expected = np.stack([split.source_lengths[rows], split.target_lengths[rows] + 1], axis=1)
    assert (lengths(collate(split, rows)) == expected).all()


def test_a_slice_without_its_padding_is_what_collate_makes_of_its_rows(split):
    rows = np.argsort(split.lengths)[::-1][:40]
    batch = collate(split, rows)
    for part in (slice(0, 7), slice(7, 8), slice(20, 40)):
        small, own = trim({name: value[part] for name, value in batch.items()}), collate(split, rows[part])
        assert small.keys() == own.keys()
        assert all(torch.equal(small[name], own[name]) for name in own)


def test_nobody_keeps_a_column(split):
    batch = trim(collate(split, np.array([-1])))
    assert lengths(batch).tolist() == [[1, 0]]
    assert (batch["source"].shape, batch["labels"].shape) == ((1, 1), (1, 1))


def test_running_text_has_one_axis_and_may_be_unpadded():
    tokens = torch.arange(12).reshape(2, 6)
    whole = {"tokens": tokens, "maskable": torch.ones(2, 6, dtype=torch.bool), "seed": torch.zeros(2)}
    assert lengths(whole).tolist() == [[6], [6]]
    assert trim(whole)["tokens"].shape == (2, 6)
    real = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]]).bool()
    padded = trim(whole | {"real": real})
    assert lengths(padded).tolist() == [[3], [4]]
    assert {name: list(padded[name].shape) for name in ("tokens", "maskable", "real")} == {
        "tokens": [2, 4], "maskable": [2, 4], "real": [2, 4],
    }  # fmt: skip
    assert padded["seed"].shape == (2,)
