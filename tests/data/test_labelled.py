"""Texts with classes: the rows of SST-2 without their prefix, each with its own label."""

import os

import numpy as np
import pytest
from sentences import sentence, write_sst2

from rtx_lab.core.errors import RunError
from rtx_lab.data.corpora import sst2
from rtx_lab.data.labelled import sst2_texts

SPLITS = {"train": "train", "test": "validation"}


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path / "cache"))
    return write_sst2(tmp_path / "data") | {"splits": SPLITS}


def test_every_text_has_the_label_of_its_row(given):
    dataset = sst2_texts(**given)
    questions = sst2(**given | {"tokenizer": "words", "vocab_size": 32000})
    for name, size in (("train", 108), ("validation", 12), ("test", 32)):
        split, labels = dataset.split(name), dataset.labels(name)
        assert len(split) == len(labels) == size == dataset.num_rows(name)
        rows = [questions.split(name).record(row) for row in range(size)]
        assert [dataset.classes[label] for label in labels] == [row["gold"] for row in rows]
        for row, record in enumerate(rows):
            text = dataset.tokenizer.decode(split.tokens(row).tolist())
            assert record["source"].removeprefix("sentiment: ") == text, "without its prefix"
    assert dataset.tokenizer.decode(dataset.split("test").tokens(3).tolist()) == sentence(123)["sentence"]
    assert dataset.labels("test")[3] == sentence(123)["label"]


def test_it_says_of_itself_what_its_texts_say(given):
    dataset = sst2_texts(**given, max_source_length=40)
    told = (dataset.name, dataset.vocab_size, dataset.max_source_length, dataset.max_target_length, dataset.num_options)
    assert told == ("sst2_texts", 236, 40, 1, 0)
    assert dataset.tokenizer is dataset.texts.tokenizer
    assert dataset.digest() == dataset.texts.digest() != sst2_texts(**given).digest()
    dataset.check_vocabulary(236)
    with pytest.raises(RunError, match=r"set model.vocab_size to at least"):
        dataset.check_vocabulary(100)


def test_a_text_that_is_cut_in_two_is_refused(given):
    short = sst2_texts(**given, max_source_length=12)
    with pytest.raises(RunError, match=r"108 labels for 1\d\d segments.*dataset.max_source_length=12") as caught:
        short.check_vocabulary(236, ["train"])
    assert "\n" not in str(caught.value)


def test_missing_data_is_the_usual_sentence(given, tmp_path):
    (tmp_path / "data" / "sst2" / "train.jsonl").unlink()
    dataset = sst2_texts(**given)
    assert dataset.num_rows("train") == 108, "told without opening data"
    assert len(dataset.labels("test")) == 32
    with pytest.raises(RunError, match=r"train split of sst2 is missing.*RTX_LAB_DATA="):
        dataset.split("train")


@pytest.mark.slow
@pytest.mark.skipif(
    not (os.environ.get("RTX_LAB_DATA") and os.environ.get("RTX_LAB_TOKENIZERS")),
    reason="RTX_LAB_DATA and RTX_LAB_TOKENIZERS are not set",
)
def test_the_real_set_fits():
    dataset = sst2_texts(splits=SPLITS)
    for name, size in (("train", 60614), ("validation", 6735), ("test", 872)):
        assert len(dataset.labels(name)) == len(dataset.split(name)) == size
        assert set(np.unique(dataset.labels(name))) == {0, 1}
    tokens = np.concatenate([dataset.split(name).lengths - 2 for name in SPLITS])
    assert tokens.mean() == pytest.approx(11.3, abs=0.5)
