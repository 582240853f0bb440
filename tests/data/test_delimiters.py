import os
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from rtx_lab.data.corpora import gsm8k
from rtx_lab.data.delimiters import BEGIN, decision_points, find_delimiters
from rtx_lab.data.generated import arithmetic
from rtx_lab.data.prompts import prompted
from rtx_lab.data.tokenizers import STAND_IN, load_tokenizer

TOKENIZERS, DATA, MODELS = (os.environ.get(f"RTX_LAB_{name}") for name in ("TOKENIZERS", "DATA", "MODELS"))
needs_qwen = pytest.mark.skipif(not TOKENIZERS, reason="RTX_LAB_TOKENIZERS is not set")
needs_gsm8k = pytest.mark.skipif(not DATA, reason="RTX_LAB_DATA is not set")
STORIES = str(Path(MODELS) / "stories260K") if MODELS else None
needs_models = pytest.mark.skipif(not STORIES, reason="RTX_LAB_MODELS is not set")
MARKS = re.compile(r"<<[^<>]*>>")


def by_characters():
    """A tokenizer of single characters and a few joined ones."""
    from dataclasses import replace

    from tokenizers import Tokenizer, decoders, models

    pieces = [*'abcx0123456789+ .,?!\n"()$%*=#<>', ".\n", '."', "<<", ">>", ">>\n", "5.", "b.", " b"]
    merges = [(piece[0], piece[1]) for piece in pieces if len(piece) == 2] + [(">>", "\n")]
    backend = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=merges))
    backend.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    return replace(load_tokenizer("words"), backend=backend, special_ids=frozenset(), vocab_size=len(pieces))


def cut_at_places(tokenizer, ids, delimiters):
    """The pieces of an answer between its places."""
    places = [0, *decision_points(delimiters, ids).tolist(), len(ids)]
    return [tokenizer.backend.decode(list(ids[a:b])) for a, b in pairwise(places)]


@pytest.mark.parametrize(
    "pieces",
    [
        ["a b.", " c"],
        ["a, b?", "c!", " c"],
        ["a\n", "b\n", "#### 6"],
        ["a.\n", "b"],  # one token
        ["a.", ".. b"],
        ["ab.\n", "\nb"],
        ["ab?", "\n\nb"],  # the line's end is the same place as the question mark
        ['a."', "\n b"],
        ["a?", "!! b"],
        ["3.5 b 1,000 b"],
        ["a = 3.\n", "b"],
        ["a = 5.\n", "b"],  # `5.` is a token of its own
        ["a = 5. b"],  # as 3.5 until the next token, which tells too late
        ['a = 3."', " b"],
        ["a = 4*.5 + $.5 a"],
        ["a = 10x.6 a"],
        ["axb.", " a"],
        ["(3).", " a"],
        ["4%.", " a"],
        ["a <<3.5*4.=14.0>>14 b.", " a"],
        ["a <<3?\n", "a.", " b"],  # a line's end closes what was left open
        ["a < 5 > 4.\n", "a"],
        ["a <<5=5>>\n", "a"],
        ["a <<5=5>>.5 a"],
    ],
)
def test_where_an_answer_may_be_interrupted(pieces):
    tokenizer = by_characters()
    delimiters = find_delimiters(tokenizer, tokenizer.vocab_size)
    found = cut_at_places(tokenizer, tokenizer.encode("".join(pieces)), delimiters)
    assert [piece for piece in found if piece] == pieces


def test_a_full_stop_apart_by_a_space_ends_a_sentence_where_all_are():
    dataset = arithmetic(num_train=40, num_validation=5, num_test=5)
    delimiters = find_delimiters(dataset.tokenizer, dataset.vocab_size)
    split = dataset.split("train")
    for row in range(40):
        ids = split.target(row)
        pieces = [dataset.tokenizer.decode(piece) for piece in np.split(ids, decision_points(delimiters, ids))]
        assert " ".join(pieces) == dataset.tokenizer.decode(ids)
        assert pieces == re.findall(r"[^.# ][^.#]* \.|#### \d+", dataset.tokenizer.decode(ids))


def test_special_and_unknown_ids_change_nothing():
    tokenizer = load_tokenizer("words")
    delimiters = find_delimiters(tokenizer, tokenizer.vocab_size + 3)
    ids = tokenizer.encode("7 + 5 = 12 . 9 .")
    places = decision_points(delimiters, ids).tolist()
    padded = [i for index in ids for i in (index, tokenizer.pad_id, tokenizer.vocab_size + 2)]
    assert decision_points(delimiters, padded).tolist() == [3 * place - 2 for place in places]
    assert decision_points(find_delimiters(load_tokenizer(STAND_IN), 9), [1, 2, 3]).tolist() == []


def test_a_decoder_finds_row_by_row_what_the_collator_finds():
    tokenizer = by_characters()
    delimiters = find_delimiters(tokenizer, tokenizer.vocab_size)
    ids = np.random.Generator(np.random.PCG64(1)).integers(0, tokenizer.vocab_size, (60, 80))
    on_device = delimiters.to(torch.device("cpu"))
    states, host = torch.full((60,), BEGIN), np.full(60, BEGIN)
    decided = torch.zeros(60, 80, dtype=torch.bool)
    for place in range(80):
        states = on_device.advance(states, torch.as_tensor(ids[:, place]))
        host = delimiters.advance(host, ids[:, place])
        decided[:, place] = on_device.decides(states)
        assert (delimiters.decides(host) == decided[:, place].numpy()).all()
    assert decided.sum() > 300
    for row in range(60):
        assert decision_points(delimiters, ids[row]).tolist() == (1 + decided[row].nonzero().flatten()).tolist()


def worked(tokenizer, vocab_size, calculator):
    """Real solutions as ids, and the tables of their tokenizer."""
    dataset = gsm8k(
        splits={"train": "train", "test": "test"}, tokenizer=tokenizer, vocab_size=vocab_size, max_source_length=640,
        max_target_length=1024, target="rationale",
    )  # fmt: skip
    dataset = prompted(dataset, "auto", calculator)
    split = dataset.split("test")
    answers = [split.target(row) for row in range(0, len(split), 4)]
    return dataset.tokenizer, find_delimiters(dataset.tokenizer, vocab_size), answers


def kind_of(text, place):
    """Where a mark at a place of a text really stands, by what comes after it too."""
    if any(match.start() <= place < match.end() for match in MARKS.finditer(text)):
        return "calculator"
    inside = text[place] in ",." and text[place + 1 : place + 2].isdigit()
    return "number" if inside else "end"


def count_kinds(tokenizer, delimiters, answers):
    """(marks of the seed, our places), each counted by where they stand."""
    seed = dict.fromkeys(("end", "number", "calculator"), 0)
    own = dict(seed)
    for ids in answers:
        text = tokenizer.backend.decode(ids.tolist())
        for match in re.finditer(r"[,.\n]", text):
            seed[kind_of(text, match.start())] += 1
        for place in decision_points(delimiters, ids):
            written = tokenizer.backend.decode(ids[:place].tolist())
            ended = re.search(r"([.?!]|\n)[\s\"')]*$", written)
            assert ended
            own[kind_of(text, ended.start())] += 1
    return seed, own


def check_real_solutions(tokenizer, vocab_size):
    tokenizer, delimiters, answers = worked(tokenizer, vocab_size, "keep")
    seed, own = count_kinds(tokenizer, delimiters, answers)
    assert len(answers) == 330
    assert seed["number"] > 0.07 * sum(seed.values())
    assert seed["calculator"] > 0.03 * sum(seed.values())
    assert own["number"] == own["calculator"] == 0
    assert own["end"] > 3 * len(answers)
    num_lines = sum(tokenizer.backend.decode(ids.tolist()).count("\n") for ids in answers)
    assert own["end"] >= num_lines  # nearly all places are ends of lines, none of which is missed


@needs_qwen
@needs_gsm8k
def test_no_place_in_real_solutions_lies_in_a_number_or_a_mark():
    check_real_solutions("qwen2", 151936)


@needs_models
@needs_gsm8k
def test_the_same_of_a_tokenizer_of_512_entries():
    check_real_solutions(STORIES, 512)
