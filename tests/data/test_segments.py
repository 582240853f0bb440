import itertools
import json
import pickle
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data import segments, store
from rtx_lab.data.segments import MASK_RATIOS, SegmentDataset, Segments, write_segments
from rtx_lab.data.tokenizers import Tokenizer, load_tokenizer

PAD, UNKNOWN, START, END, MASK = range(5)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "datasets"


@dataclass(frozen=True)
class Listed:
    """Documents that a test writes down."""

    texts: tuple[str, ...]

    def size(self) -> tuple[int, int]:
        return len(self.texts), sum(len(text.split()) for text in self.texts)

    def digest(self) -> str:
        return repr(self.texts)

    def documents(self) -> Iterator[str]:
        return iter(self.texts)


def listed(texts, *, max_source_length=8, packing=True, **changes):
    settings = {"vocab_size": 236, "mask_ratios": MASK_RATIOS, **changes}
    return SegmentDataset(
        name="listed",
        tokenizer=load_tokenizer("stories"),
        max_source_length=max_source_length,
        packing=packing,
        sources=dict.fromkeys(("train", "validation", "test"), Listed(tuple(texts))),
        **settings,
    )


def words(number, shift=0):
    vocabulary = ["the", "red", "kite", "fox", "ben", "was", "sad", "."]
    return " ".join(itertools.islice(itertools.cycle(vocabulary[shift % 8 :] + vocabulary[: shift % 8]), number))


def all_tokens(split):
    return [split.tokens(row).tolist() for row in range(len(split))]


@pytest.mark.parametrize("max_source_length", [8, 9, 50, 128])
@pytest.mark.parametrize("chunk", [1, 40, 10**6])
def test_packed_windows_hold_every_token_once_and_in_order(max_source_length, chunk, monkeypatch):
    """Against the obvious: join all documents by an end, cut, put a start before and an end after each piece."""
    monkeypatch.setattr(segments, "CHUNK_CHARACTERS", chunk)
    monkeypatch.setattr(segments, "CHUNK_SEGMENTS", 2)
    texts = [words(number, shift=number) for number in (5, 1, 30, 6, 12, 7, 100, 2)]
    dataset = listed(texts, max_source_length=max_source_length)
    split = dataset.split("train")
    joined = []
    for text in texts:
        joined += [END] * bool(joined) + dataset.tokenizer.encode(text)
    room = max_source_length - 2
    assert all_tokens(split) == [[START, *joined[first : first + room], END] for first in range(0, len(joined), room)]
    assert len(split) == dataset.num_rows("train")
    assert split.lengths.tolist() == [len(ids) for ids in all_tokens(split)]
    assert split.lengths.dtype == np.int64
    assert split.tokens(0).dtype == np.int32
    assert (split.num_documents, split.meta["num_tokens"]) == (8, 163)


def test_a_text_that_fills_its_windows_has_no_empty_last_one():
    split = listed([words(6), words(5)]).split("train")
    assert split.lengths.tolist() == [8, 8]
    assert all_tokens(split)[1][:2] == [START, END]  # the joint falls on the border


def test_unpacked_every_document_stands_alone_and_long_ones_are_cut_evenly():
    texts = [words(3), words(13), words(6), words(7)]
    dataset = listed(texts, packing=False)
    split = dataset.split("train")
    assert (split.lengths - 2).tolist() == [3, 4, 4, 5, 6, 3, 4]
    inner = [ids[1:-1] for ids in all_tokens(split)]
    assert [list(itertools.chain(*inner[first:last])) for first, last in ((0, 1), (1, 4), (4, 5), (5, 7))] == [
        dataset.tokenizer.encode(text) for text in texts
    ]
    assert all(ids[0] == START and ids[-1] == END for ids in all_tokens(split))


def test_special_ids_and_counts_of_the_others():
    dataset = listed(["the fox was sad .", "the unheard fox", ""])
    split = dataset.split("train")
    assert (split.pad_id, split.start_id, split.eos_id, split.mask_id) == (PAD, START, END, MASK)
    assert split.special_ids == (PAD, START, END, MASK)
    counts = split.unigram()
    assert counts.shape == (236,)
    assert counts[list(split.special_ids)].sum() == 0
    assert counts[UNKNOWN] == 1
    assert counts[dataset.tokenizer.encode("fox")] == [2]
    assert counts.sum() == split.meta["num_tokens"] == 8
    assert split.max_id == np.flatnonzero(counts).max()
    assert split.num_documents == 2


def test_names_of_special_tokens_in_a_text_are_ordinary_text():
    split = listed(["the [MASK] fox [SEP] [PAD]"], max_source_length=32).split("train")
    assert not set(split.tokens(0)[1:-1].tolist()) & set(split.special_ids)


def test_a_split_is_pickled_as_its_folder_and_knows_its_rows():
    split = listed([words(50)]).split("train")
    again = pickle.loads(pickle.dumps(split))
    assert isinstance(again, Segments)
    assert len(pickle.dumps(split)) < 500
    assert all_tokens(again) == all_tokens(split)
    assert split.record(3) == again.record(3) == {"id": "train-3"}


def test_what_was_written_is_opened_afterwards(monkeypatch, cache):
    first = listed([words(50)]).split("train")
    monkeypatch.setattr(segments, "write_segments", lambda *_: pytest.fail("written although the cache is sound"))
    assert listed([words(50)]).split("train").folder == first.folder
    files = json.loads((first.folder / store.META).read_text())["files"]
    assert set(files) == {"tokens.npy", "offsets.npy", "counts.npy"}
    assert [entry.name for entry in cache.iterdir()] == [first.folder.name]


def test_digests_tell_lengths_and_packing_apart_and_not_what_is_looked_at():
    texts = [words(50)]
    one = listed(texts)
    assert one.digest() == listed(texts, mask_ratios=(0.5,), num_validation=3, judge="gpt").digest()
    others = [listed(texts, max_source_length=9), listed(texts, packing=False), listed([words(51)])]
    assert len({one.digest(), *(other.digest() for other in others)}) == 4


@pytest.mark.parametrize("packing", [True, False])
def test_memory_does_not_grow_with_the_text(tmp_path, packing, monkeypatch):
    monkeypatch.setattr(segments, "CHUNK_CHARACTERS", 2**14)
    monkeypatch.setattr(segments, "CHUNK_SEGMENTS", 2**8)
    peaks, text = [], words(50)
    for number in (1_000, 1_000, 8_000):  # the first one pays for imports
        monkeypatch.setattr(Listed, "documents", lambda self, number=number: itertools.repeat(text, number))
        folder = tmp_path / f"{packing}-{len(peaks)}"
        folder.mkdir()
        tracemalloc.start()
        meta = write_segments(listed([], packing=packing), "train", folder)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert meta["num_tokens"] == 50 * number
    assert peaks[2] < 1.1 * peaks[1] + 20_000
    assert peaks[2] < 8 * 8_000 * 50 / 4  # a fraction of the ids themselves, at eight bytes each


@pytest.mark.parametrize("texts", [[], [""], ["", " "]])
def test_no_text_is_one_sentence_and_leaves_nothing(texts, cache):
    with pytest.raises(RunError, match="listed/train holds no text") as caught:
        listed(texts).split("train")
    assert "\n" not in str(caught.value)
    assert not list(cache.iterdir())


def test_a_special_id_in_the_text_is_named(monkeypatch, cache):
    monkeypatch.setattr(Tokenizer, "literal", lambda self: self)
    with pytest.raises(RunError, match="Document 2 of listed/train holds one of the special tokens"):
        listed(["the fox", "was [MASK]"]).split("train")
    assert not list(cache.iterdir())


def test_a_full_disk_is_one_sentence_and_leaves_nothing(monkeypatch, cache):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_write_header", full)
    with pytest.raises(RunError, match=r"No space left.*RTX_LAB_CACHE"):
        listed([words(50)]).split("train")
    assert not list(cache.iterdir())


def test_wrong_settings_are_refused_together():
    with pytest.raises(UsageError) as caught:
        listed([""], max_source_length=2, mask_ratios=(0.5, 0.1), num_test=0, vocab_size=5)
    assert len(caught.value.problems) == 4
    for ratios in ((), (0.5, 0.5), (-0.1, 1.0), (0.0, 1.5)):
        with pytest.raises(UsageError, match="mask_ratios"):
            listed([""], mask_ratios=ratios)
    with pytest.raises(UsageError, match="train"):
        listed([""]).split("dev")


def test_a_tokenizer_without_a_mask_is_refused():
    from dataclasses import replace

    with pytest.raises(UsageError, match=r"words has no mask token.*bert-base-uncased"):
        replace(listed([""]), tokenizer=load_tokenizer("words"))


def test_a_vocabulary_that_is_too_small_is_refused_with_the_row():
    dataset = listed([words(20)])
    dataset.check_vocabulary(236, ["train"])
    with pytest.raises(RunError, match=r"Segment 0 of listed/train.*model.vocab_size to at least"):
        dataset.check_vocabulary(50, ["train"])
