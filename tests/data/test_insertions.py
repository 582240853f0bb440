"""Answers cut into pieces: nothing is lost, every token is predicted by the place before it, latents stand between."""

import numpy as np
import pytest
import torch
from small_latent_memory import VOCAB, every_third

from rtx_lab.data.collate import IGNORED
from rtx_lab.data.delimiters import decision_points
from rtx_lab.data.insertions import chosen_ends, empty_pieces, in_pieces, sentence_ends

LATENTS = {"prompt_len": 3, "inference_len": 2}
PROMPTS, ANSWERS = (4, 1, 6, 1), (7, 12, 1, 0)
"""Tokens, the answers' ends included; the last row is nobody."""


def batch_of():
    """Rows as `collate` makes them, all tokens different within a row."""
    generator = torch.Generator().manual_seed(0)
    source = torch.zeros(4, max(PROMPTS), dtype=torch.int64)
    labels = torch.full((4, max(ANSWERS)), IGNORED)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        ids = torch.randperm(VOCAB, generator=generator)
        source[row, :prompt], labels[row, :answer] = ids[:prompt], ids[prompt : prompt + answer]
    mask = torch.arange(max(PROMPTS)) < torch.tensor(PROMPTS)[:, None]
    return {"index": torch.tensor([5, 3, 8, -1]), "source": source, "source_mask": mask, "labels": labels}


def read_back(pieces, row, prompt_insertions):
    """What a row reads, latents as -1, and the place in it of each place of the batch."""
    places, read = {}, []
    offset, piece = 0, 0
    while f"text_{piece}" in pieces:
        latents = 0 if piece == 0 else LATENTS["prompt_len" if piece <= prompt_insertions else "inference_len"]
        inserts = piece > 0 and bool(pieces[f"inserts_{piece}"][row])
        texts, reals = pieces[f"text_{piece}"][row].tolist(), pieces[f"real_{piece}"][row].tolist()
        tokens = [-1] * latents + texts
        real = [inserts] * latents + reals
        for place, (token, counts) in enumerate(zip(tokens, real, strict=True)):
            if counts:
                places[offset + place] = len(read)
                read.append(token)
        offset += len(tokens)
        piece += 1
    return read, places


@pytest.mark.parametrize("most", [0, 1, 2, 9])
@pytest.mark.parametrize("prompt_insertions", [0, 1, 2])
def test_pieces_are_the_text_with_latents_where_they_belong(prompt_insertions, most):
    batch = batch_of()
    cuts_BT = chosen_ends(sentence_ends(batch, every_third()), most, None)
    pieces = in_pieces(batch, cuts_BT, prompt_insertions=prompt_insertions, **LATENTS)
    assert torch.equal(pieces["index"], batch["index"])
    assert torch.equal(pieces["labels"], batch["labels"])
    for row, (prompt, answer) in enumerate(zip(PROMPTS[:3], ANSWERS[:3], strict=True)):
        labels = batch["labels"][row, :answer].tolist()
        ends = decision_points(every_third(), labels[:-1]).tolist()[:most]
        wanted, predicting = batch["source"][row, :prompt].tolist() + [-1] * (3 * prompt_insertions), []
        for place, token in enumerate(labels, start=1):
            predicting.append(len(wanted) - 1)
            wanted += [token] * (place < answer) + [-1, -1] * (place in ends)
        read, places = read_back(pieces, row, prompt_insertions)
        assert read == wanted
        assert [places[int(at)] for at in pieces["at"][row, :answer]] == predicting
    assert int(pieces["at"].max()) < sum(pieces[f"text_{c}"].shape[1] for c in range(20) if f"text_{c}" in pieces) + 99
    assert any(key.startswith("inserts_") for key in pieces) == (prompt_insertions > 0 or most > 0)


def test_ends_are_those_that_writing_would_meet():
    batch = batch_of()
    found_BT = sentence_ends(batch, every_third())
    for row, answer in enumerate(ANSWERS[:3]):
        ids = batch["labels"][row, : answer - 1].tolist()  # the end itself is never read
        assert found_BT[row].nonzero()[0].tolist() == [place for place, token in enumerate(ids) if token % 3 == 0]
    assert found_BT.any()
    assert not found_BT[3].any()


def test_too_many_ends_are_thinned():
    found_BT = np.random.default_rng(0).random((200, 12)) < 0.5
    first = chosen_ends(found_BT, 3, None)
    draw_BT = np.random.default_rng(1).random((200, 12))
    drawn = chosen_ends(found_BT, 3, draw_BT)
    for chosen in (first, drawn):
        assert not (chosen & ~found_BT).any()
        assert (chosen.sum(1) == np.minimum(found_BT.sum(1), 3)).all()
    for row, found in enumerate(found_BT):
        assert first[row].nonzero()[0].tolist() == found.nonzero()[0].tolist()[:3]
        order = sorted(found.nonzero()[0].tolist(), key=lambda place: draw_BT[row, place])
        assert set(drawn[row].nonzero()[0].tolist()) == set(order[:3])
    assert not chosen_ends(found_BT, 0, draw_BT).any()


def test_empty_pieces_have_the_form_of_real_ones():
    batch = batch_of()
    cuts_BT = chosen_ends(sentence_ends(batch, every_third()), 2, None)
    real = in_pieces(batch, cuts_BT, prompt_insertions=1, **LATENTS)
    widths = [real[f"text_{piece}"].shape[1] for piece in range(4)]
    empty = empty_pieces(4, real["labels"].shape[1], widths)
    assert {k: (v.shape, v.dtype) for k, v in empty.items()} == {k: (v.shape, v.dtype) for k, v in real.items()}
