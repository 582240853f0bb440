"""The dataset over dialogues: what a source and a target become, held against transformers where it can be had."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from tokenizers_of_transformers import their_kobart, their_t5

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data.collate import IGNORED, collate
from rtx_lab.data.dialogues import ROUGE_TOKENIZERS, SPECIAL_TOKENS, Dialogue, DialogueDataset, over
from rtx_lab.scoring.rouge import TOKENISERS

ROOT = Path(os.environ.get("RTX_LAB_TOKENIZERS", "/nowhere"))
ROWS = [
    Dialogue(
        id="a_0",
        dialogue="#Person1#: Could you wash the car?\n#Person2#: Sure, my number is #PhoneNumber#.",
        references=("#Person2# washes the car.", "The car is washed."),
        topic="car",
        language="english",
    ),
    Dialogue(id="a_1", dialogue="#Person2#: 안녕하세요?\n" * 30, references=("#Person2#는 인사한다. " * 20,)),
]


class Given:
    """Rows that are given."""

    def __init__(self, rows):
        self.rows = rows
        self.num_items = len(rows)

    def digest(self):
        return str(self.rows)

    def dialogues(self):
        return self.rows


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path / "cache"))


def dataset(rows=ROWS, more=(), **changes):
    settings = {
        "tokenizer": "dialogues", "vocab_size": None, "special_tokens": SPECIAL_TOKENS, "prefix": "",
        "max_source_length": 64, "max_target_length": 32, "rouge_tokenizer": "whitespace",
    }  # fmt: skip
    sources = {name: Given(rows) for name in ("train", "validation", "test", *more)}
    return over("given", sources, **{**settings, **changes})


def test_a_source_is_framed_and_a_target_is_not():
    data = dataset(prefix="요약: ")
    split, tokenizer = data.split("train"), data.tokenizer
    assert list(split.source(0)) == [2, *tokenizer.encode("요약: " + ROWS[0].dialogue), 1]
    assert list(split.target(0)) == tokenizer.encode(ROWS[0].references[0])
    assert split.options(0) == []
    assert list(data.encode_source(ROWS[0].dialogue)) == list(split.source(0))
    newline = tokenizer.encode("\n")[0]
    assert list(split.source(0)).count(newline) == 1


def test_a_long_dialogue_loses_its_last_turns_and_keeps_its_end():
    data = dataset(prefix="요약: ", max_source_length=32, max_target_length=9)
    split, tokenizer = data.split("train"), data.tokenizer
    whole = tokenizer.encode("요약: " + ROWS[1].dialogue)
    assert list(split.source(1)) == [2, *whole[:30], 1]
    assert list(split.target(1)) == tokenizer.encode(ROWS[1].references[0])[:8]
    assert (split.num_cut_sources, split.num_cut_targets) == (1, 1)
    assert list(data.encode_source(ROWS[1].dialogue)) == list(split.source(1))
    assert split.source_lengths.max() == 32
    assert split.target_lengths.max() == 8


def test_a_batch_starts_and_ends_as_every_batch_does():
    data = dataset()
    split = data.split("train")
    batch = collate(split, [0, 1])
    target = list(split.target(0))
    labels = batch["labels"][0].tolist()
    assert labels[: len(target) + 1] == [*target, 1]
    assert set(labels[len(target) + 1 :]) == {IGNORED}
    assert batch["decoder_input"][0, 0] == split.start_id
    assert batch["source_mask"].sum(1).tolist() == split.source_lengths.tolist()


def test_a_record_knows_its_row():
    record = dataset(prefix="p ").split("test").record(0)
    assert record == {
        "id": "a_0",
        "dialogue": ROWS[0].dialogue,
        "source": "p " + ROWS[0].dialogue,
        "gold": "#Person2# washes the car.",
        "references": ["#Person2# washes the car.", "The car is washed."],
        "topic": "car",
        "language": "english",
    }


def test_a_written_summary_keeps_speakers_and_ends_at_its_end():
    data = dataset()
    ids = data.tokenizer.encode("#Person2# washes the car.")
    assert data.decode([2, *ids, 1, *ids, 0, 0]) == "#Person2# washes the car."
    assert data.decode(np.array([*ids, 0, 0])) == "#Person2# washes the car."
    assert data.decode([]) == ""


def test_rows_without_summaries_are_a_split_of_their_own():
    rows = [Dialogue(id="t_0", dialogue="#Person1#: Hi.")]
    data = dataset()
    assert data.final_splits == ("validation", "test")
    data = over_with_submission(rows)
    assert data.final_splits == ("validation", "test", "submission")
    split = data.split("submission")
    assert (split.record(0)["gold"], split.record(0)["references"]) == ("", [])
    assert list(split.target(0)) == []
    assert collate(split, [0])["labels"].tolist() == [[1]]


def over_with_submission(rows):
    sources = {"train": Given(ROWS), "validation": Given(ROWS), "test": Given(ROWS), "submission": Given(rows)}
    return over(
        "given", sources, tokenizer="dialogues", vocab_size=None, special_tokens=SPECIAL_TOKENS, prefix="",
        max_source_length=64, max_target_length=32, rouge_tokenizer="whitespace",
    )  # fmt: skip


def test_the_cache_is_named_by_everything_that_matters():
    changes = [
        {}, {"prefix": "x "}, {"max_source_length": 63}, {"max_target_length": 31}, {"special_tokens": ["#Person1#"]},
        {"tokenizer": "words"}, {"rows": ROWS[:1]},
    ]  # fmt: skip
    digests = [dataset(**change).digest() for change in changes]
    assert len(set(digests)) == len(digests)
    folders = {dataset(**change).split("train").folder for change in changes}
    assert len(folders) == len(changes)
    assert dataset(rouge_tokenizer="characters").digest() == digests[0]
    split = dataset().split("train")
    copy = pickle.loads(pickle.dumps(split))
    assert copy.folder == split.folder
    assert list(copy.source(1)) == list(split.source(1))


def test_ids_beyond_a_model_are_refused_with_their_row():
    data = dataset()
    data.check_vocabulary(data.vocab_size)
    with pytest.raises(RunError, match=r"Row 0 \(a_0\) of given/train holds the token id"):
        data.check_vocabulary(data.vocab_size - 11)


def test_the_vocabulary_is_what_is_needed_or_more():
    needed = dataset().vocab_size
    assert dataset(vocab_size=needed + 5).vocab_size == needed + 5
    with pytest.raises(UsageError, match=f"set dataset.vocab_size={needed}"):
        dataset(vocab_size=needed - 1)


def test_wrong_settings_come_together():
    with pytest.raises(UsageError) as caught:
        dataset(tokenizer=None, max_source_length=3, max_target_length=1, rouge_tokenizer="eojeol")
    assert len(caught.value.problems) == 4
    with pytest.raises(UsageError, match="no split 'dev'"):
        dataset().split("dev")
    with pytest.raises(RunError, match="given has no rows"):
        dataset(rows=[]).split("train")


def test_an_end_in_a_summary_names_its_row():
    rows = [*ROWS, Dialogue(id="a_2", dialogue="#Person1#: Hi.", references=("an </s> inside",))]
    with pytest.raises(RunError, match="summary a_2 of given holds the end token"):
        dataset(rows=rows).split("train")


def test_the_names_of_rouge_tokens_are_those_that_are_there():
    assert tuple(TOKENISERS) == ROUGE_TOKENIZERS
    assert DialogueDataset.holds == "dialogues with summaries"


@pytest.mark.skipif(not (ROOT / "t5").is_dir(), reason="RTX_LAB_TOKENIZERS holds no t5")
@pytest.mark.parametrize("limit", [24, 40, 512])
def test_sources_and_targets_of_t5_are_those_of_transformers(limit):
    theirs = their_t5()
    split = dataset(tokenizer="google-t5/t5-base", prefix="summarize: ", max_source_length=limit).split("train")
    for row, one in enumerate(ROWS):
        expected = theirs("summarize: " + one.dialogue, truncation=True, max_length=limit)["input_ids"]
        assert list(split.source(row)) == expected
        labels = theirs(text_target=one.references[0], truncation=True, max_length=32)["input_ids"]
        assert [*split.target(row), split.eos_id] == labels


@pytest.mark.skipif(not (ROOT / "kobart").is_dir(), reason="RTX_LAB_TOKENIZERS holds no kobart")
@pytest.mark.parametrize("limit", [24, 512])
def test_sources_of_kobart_are_those_of_transformers_between_start_and_end(limit):
    theirs = their_kobart()
    split = dataset(tokenizer="digit82/kobart-summarization", max_source_length=limit).split("train")
    for row, one in enumerate(ROWS):
        inner = theirs(one.dialogue, truncation=True, max_length=limit - 2)["input_ids"]
        assert list(split.source(row)) == [0, *inner, 1]
        assert list(split.target(row)) == theirs(one.references[0])["input_ids"][:31]
