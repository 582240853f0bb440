import gzip
import itertools
import json
import tracemalloc

import pytest

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data import plain_text, segments
from rtx_lab.data.plain_text import documents_of, paragraphs, text
from rtx_lab.data.segments import write_segments

OWN = {"tokenizer": "stories", "vocab_size": 236}  # most words are unknown to it, and the network is not needed


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "texts").mkdir()
    return tmp_path / "texts"


def documents(path, split, **changes):
    return list(text(path=str(path), **OWN, **changes).sources[split].documents())


def refused(path, split="train"):
    with pytest.raises(RunError) as caught:
        text(path=str(path), **OWN).split(split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rows(texts):
    return "".join(json.dumps({"text": one}) + "\n" for one in texts).encode()


def test_paragraphs_stand_between_empty_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf one\r\n two  three\r\n\r\n \t\r\nfour\n\n\n\nf\xc3\xbcnf")
    assert list(documents_of(path)) == ["one two three", "four", "f\xfcnf"]
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert list(documents_of(tmp_path / "a.txt.gz")) == list(documents_of(path))


@pytest.mark.parametrize("longest", [1, 2, 3, 7, 64])
def test_a_paragraph_without_end_is_cut_and_loses_nothing(tmp_path, monkeypatch, longest):
    monkeypatch.setattr(plain_text, "LONGEST", longest)
    path = tmp_path / "a.txt"
    for whole in ("the fox and the b\xe4r sat by the l\xe4ke", "\u6771\u4eac" * 50, "a\nb\nc " * 20):
        path.write_text(whole, encoding="utf-8")
        pieces = [piece for piece in paragraphs(path) if piece]
        assert "".join("".join(pieces).split()) == "".join(whole.split())
        assert all(len(piece) <= 2 * longest for piece in pieces)


def test_rows_of_jsonl_keep_their_text(tmp_path):
    texts = [" two\n\nparts ", "", "\ud800 half", "caf\xe9"]
    (tmp_path / "a.jsonl").write_bytes(rows(texts))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(rows(texts)))
    for name in ("a.jsonl", "b.jsonl.gz"):
        assert list(documents_of(tmp_path / name)) == ["two\n\nparts", "? half", "caf\xe9"]


def test_the_content_of_a_document_tells_its_split(folder):
    texts = [f"story number {number}" for number in range(600)]
    (folder / "a.txt").write_text("\n\n".join(texts))
    before = {split: documents(folder, split) for split in ("train", "validation", "test")}
    assert sorted(itertools.chain(*before.values())) == sorted(texts)
    assert 500 < len(before["train"]) < 580
    (folder / "more").mkdir()
    (folder / "more" / "b.jsonl").write_bytes(rows([*texts[:300], "new"]))
    after = {split: documents(folder, split) for split in ("train", "validation", "test")}
    assert sum(map(len, after.values())) == 901
    for split, found in after.items():
        assert set(found) - {"new"} == set(before[split])


def test_files_named_after_splits_are_the_splits(folder):
    (folder / "train.txt").write_text("one\n\ntwo")
    (folder / "train-2.jsonl").write_bytes(rows(["three"]))
    (folder / "validation.txt").write_text("two")
    (folder / "test.jsonl.gz").write_bytes(gzip.compress(rows(["four"])))
    (folder / "trainers.txt").write_text("of no split")
    (folder / ".train.txt").write_text("hidden")
    assert documents(folder, "train") == ["three", "one", "two"]
    assert documents(folder, "validation") == ["two"]
    assert documents(folder, "test") == ["four"]
    (folder / "validation.txt").unlink()
    assert "files for train, test but none named validation" in refused(folder, "validation")


def test_a_single_file_is_split_by_content_whatever_its_name(folder):
    (folder / "train.txt").write_text("\n\n".join(f"story number {number}" for number in range(100)))
    found = [documents(folder / "train.txt", split) for split in ("train", "validation", "test")]
    assert all(found)
    assert sum(map(len, found)) == 100


def test_every_token_of_a_file_is_in_some_segment(folder):
    (folder / "a.txt").write_text("\n\n".join(f"the fox met ben the dog {number}" for number in range(200)))
    dataset = text(path=str(folder), **OWN, max_source_length=16)
    held = [dataset.split(split) for split in ("train", "validation", "test")]
    assert sum(split.num_documents for split in held) == 200
    assert sum(split.meta["num_tokens"] for split in held) == 200 * 7
    assert (dataset.num_validation, dataset.num_test) == (256, 1024)


def test_the_size_is_estimated_from_bytes_and_never_fails(folder):
    (folder / "a.txt").write_text("word " * 9400)
    dataset = text(path=str(folder), **OWN, max_source_length=102)
    assert dataset.num_rows("train") == pytest.approx(90, abs=2)
    assert dataset.num_rows("validation") == pytest.approx(5, abs=1)
    assert text(path="/nowhere/at/all", **OWN).num_rows("train") == 1


def test_memory_does_not_grow_with_the_file(folder, monkeypatch):
    monkeypatch.setattr(segments, "CHUNK_CHARACTERS", 2**14)
    path, peaks = folder / "train.txt.gz", []
    (folder / "test.txt").write_text("x")
    for number in (20, 20, 160):
        path.write_bytes(gzip.compress(("the fox was sad and the dog came .\n" * 400 + "\n\n").encode() * number))
        out = folder / f"out-{len(peaks)}"
        out.mkdir()
        tracemalloc.start()
        write_segments(text(path=str(folder), **OWN), "train", out)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1] + 20_000


def test_what_is_missing_empty_or_broken_is_one_sentence(folder):
    assert "There is no file or folder" in refused(folder / "nothing.txt")
    assert "holds no .txt" in refused(folder)
    (folder / "a.pdf").write_text("x")
    assert "none of .txt" in refused(folder / "a.pdf")
    (folder / "a.txt").write_text(" \n\n ")
    assert "no document for the train split" in refused(folder / "a.txt")
    (folder / "b.txt").write_bytes(b"fine\nnot \xff fine\n")
    assert "b.txt:2 is not UTF-8" in refused(folder / "b.txt")
    (folder / "c.txt").write_bytes("caf\xe9".encode()[:-1])
    assert "is not UTF-8" in refused(folder / "c.txt")
    (folder / "d.jsonl").write_bytes(b'{"text": "a"}\n{"body": "b"}\n')
    assert "d.jsonl:2 lacks the field 'text'" in refused(folder / "d.jsonl")
    (folder / "e.jsonl").write_bytes(b"")
    assert "e.jsonl holds no rows" in refused(folder / "e.jsonl")
    (folder / "f.txt.gz").write_bytes(gzip.compress(b"some text " * 100)[:-9])
    assert "no whole gzip file" in refused(folder / "f.txt.gz")
    with pytest.raises(UsageError, match=r"set dataset\.path="):
        text(**OWN)


def test_changed_bytes_change_the_digest(folder):
    (folder / "a.txt").write_text("one")
    before = text(path=str(folder), **OWN).digest()
    (folder / "a.txt").write_text("two!")
    assert text(path=str(folder), **OWN).digest() != before
