import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data import wikitext
from rtx_lab.data.reading import Row
from rtx_lab.data.wikitext import articles

real = pytest.mark.skipif(
    not (os.environ.get("RTX_LAB_DATA") and os.environ.get("RTX_LAB_TOKENIZERS")),
    reason="RTX_LAB_DATA and RTX_LAB_TOKENIZERS are not set",
)
LINES = [
    "", " = The Fox = \n", "", " The fox was sad . \n", " = 3 m / s and = \n", "", " = = Home = = \n", "",
    " In a den lived ben . \n", "", " = Q = \n", "", " It is a letter . \n", "", " = = = Empty = = = \n", "",
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "wikitext_cache"))


def make(name, **changes):
    node = yaml.safe_load((Path(__file__).parents[2] / "conf" / "dataset" / f"{name}.yaml").read_text())
    del node["_partial_"], node["_target_"]
    return getattr(wikitext, name)(**{**node, **changes})


@pytest.fixture
def small(tmp_path):
    (tmp_path / "wikitext2").mkdir()
    for split in ("train", "validation", "test"):
        path = tmp_path / "wikitext2" / f"{split}.raw.jsonl"
        path.write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))
    rows = dict.fromkeys(("train", "validation", "test"), len(LINES))
    return {"path": str(tmp_path), "rows": rows, "tokenizer": "stories", "vocab_size": 236}


def test_an_article_is_a_document_without_headings():
    rows = (Row("f:1", {"text": line}) for line in LINES)
    assert list(articles(rows)) == [
        "The fox was sad .\n= 3 m / s and =\nIn a den lived ben .",
        "It is a letter .",
    ]
    assert list(articles(iter(()))) == []


def test_a_small_local_folder(small):
    dataset = make("wikitext2", **small)
    split = dataset.split("train")
    assert split.num_documents == 2
    assert (split.tokens(0) == split.eos_id).sum() == 2
    assert (dataset.num_validation, dataset.num_test, dataset.max_source_length) == (256, 1024, 128)
    assert make("wikitext103", **small, folder="wikitext2").max_source_length == 256


def test_a_missing_split_names_both_ways_out(small, tmp_path):
    (tmp_path / "wikitext2" / "train.raw.jsonl").unlink()
    dataset = make("wikitext2", **small)
    assert dataset.split("test").num_documents == 2
    with pytest.raises(RunError, match=r"train split of wikitext2 is missing.*RTX_LAB_DATA=.*network") as caught:
        dataset.split("train")
    assert "\n" not in str(caught.value)


def test_a_wrong_count_is_refused_and_leaves_nothing(small, tmp_path, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path / "own"))
    with pytest.raises(RunError, match=r"has 16 rows where 3760 are expected.*dataset.rows=\{validation: 16\}"):
        make("wikitext2", **{**small, "rows": None}).split("validation")
    assert not list((tmp_path / "own" / "datasets").iterdir())


@pytest.mark.parametrize(("name", "parts"), [("wikitext2", 1), ("wikitext103", 2)])
def test_the_hub_is_asked_for_pinned_parquet(monkeypatch, tmp_path, name, parts):
    import pyarrow
    import pyarrow.parquet

    asked = []

    def give(repo, file, repo_type, revision, local_files_only):
        asked.append((repo, file, repo_type, revision))
        table = pyarrow.Table.from_pylist([{"text": line} for line in LINES])
        pyarrow.parquet.write_table(table, tmp_path / "file.parquet")
        return str(tmp_path / "file.parquet")

    monkeypatch.delenv("RTX_LAB_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", give)
    own = {"rows": {"train": parts * len(LINES)}, "tokenizer": "stories", "vocab_size": 236}
    assert make(name, **own).split("train").num_documents == 2 * parts
    kind = {1: "wikitext-2", 2: "wikitext-103"}[parts]
    files = [f"{kind}-raw-v1/train-{part:05d}-of-{parts:05d}.parquet" for part in range(parts)]
    revision = "b08601e04326c79dfdd32d625aee71d232d685c3"
    assert asked[:parts] == [("Salesforce/wikitext", file, "dataset", revision) for file in files]


def test_sizes_are_told_without_data(monkeypatch):
    monkeypatch.delenv("RTX_LAB_DATA", raising=False)
    own = {"tokenizer": "stories", "vocab_size": 30522}
    assert make("wikitext2", **own).num_rows("train") == pytest.approx(2_088_628 * 1.082 / 126, rel=0.01)
    assert make("wikitext103", **own).num_rows("train") == pytest.approx(103_227_021 * 1.082 / 254, rel=0.01)
    half = make("wikitext2", **own, rows={"train": 18_359})
    assert half.num_rows("train") == pytest.approx(2_088_628 * 1.082 / 252, rel=0.01)


def test_splits_that_are_not_three_are_refused(small):
    with pytest.raises(UsageError, match="each of train, validation, test"):
        make("wikitext2", **small, splits={"train": "a", "test": "b"})


@real
@pytest.mark.parametrize(("split", "articles_and_tokens"), [("validation", (60, 233_853)), ("test", (60, 267_434))])
def test_counts_of_the_real_set(split, articles_and_tokens):
    dataset = make("wikitext2")
    held = dataset.split(split)
    assert (held.num_documents, held.meta["num_tokens"]) == articles_and_tokens
    assert dataset.vocab_size == 30522
    assert held.special_ids == (0, 101, 102, 103)
    assert held.unigram().shape == (30522,)
    assert len(held) == pytest.approx(dataset.num_rows(split), rel=0.01)
    assert held.lengths[:-1].tolist() == [128] * (len(held) - 1)


@real
def test_real_windows_hold_the_text_once_and_in_order():
    dataset = make("wikitext2")
    held, plain = dataset.split("validation"), dataset.tokenizer.literal()
    inner = np.concatenate([held.tokens(row)[1:-1] for row in range(len(held))])
    expected = []
    for document in dataset.sources["validation"].documents():
        expected += [held.eos_id] * bool(expected) + plain.encode(document)
    assert inner.tolist() == expected
