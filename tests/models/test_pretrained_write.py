"""Writing: what comes back, and that the others of a batch change nothing."""

import pytest
import torch
from small_seq2seq import KINDS, LORA, batch_of, small

HOW = {"num_beams": 3, "max_new_tokens": 12, "length_penalty": 0.8, "no_repeat_ngram_size": 3}


def ready(kind, seed, **changes):
    """A model whose head is sharp enough to have opinions, in float64."""
    model = small(kind, seed, **changes).double().eval()
    with torch.no_grad():
        model.network.lm_head.weight *= 3.0
    return model


def upto_end(row, end):
    """A text with its end, or all of a row that has none."""
    return row[: row.index(end) + 1] if end in row else row


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("seed", [0, 1])
def test_a_text_in_a_batch_is_the_text_alone(kind, seed):
    model = ready(kind, seed, **LORA)
    batch = batch_of(model, seed)
    for how in (HOW, {"max_new_tokens": 12}):
        together = model.write(model.encode(batch["source"], batch["source_mask"]), **how)
        for b, own in enumerate(together.tolist()):
            length = batch["source_mask"][b].sum()
            source = batch["source"][b : b + 1, :length]
            alone = model.write(model.encode(source, torch.ones_like(source, dtype=torch.bool)), **how)[0].tolist()
            assert own[: len(alone)] == alone
            assert set(own[len(alone) :]) <= {model.pad_id}


def test_nothing_but_pad_stands_behind_an_end():
    ends = []
    for seed in range(4):
        model = ready("t5_gated", seed)
        batch = batch_of(model, seed)
        how = {"max_new_tokens": 50, "no_repeat_ngram_size": 1, "num_beams": 1 + seed % 2}
        for row in model.write(model.encode(batch["source"], batch["source_mask"]), **how).tolist():
            text = upto_end(row, model.eos_id)
            ends.append(len(text))
            assert model.pad_id not in text
            assert set(row[len(text) :]) <= {model.pad_id}
    assert len(set(ends)) > 2, "texts of several lengths"


def test_the_start_is_left_out_and_lengths_are_kept():
    model = small("bart").eval()
    batch = batch_of(model)
    with torch.no_grad():
        model.network.final_logits_bias[:, model.eos_id] = 50.0
    ids = model.write(model.encode(batch["source"], batch["source_mask"]), max_new_tokens=9)
    assert ids.tolist() == [[model.eos_id]] * len(ids)
    ids = model.write(model.encode(batch["source"], batch["source_mask"]), max_new_tokens=9, min_new_tokens=4)
    assert ids.shape[1] == 5
    assert ids[:, :4].ne(model.eos_id).all()
    assert ids[:, 4].eq(model.eos_id).all()
    with torch.no_grad():
        model.network.final_logits_bias[:, model.eos_id] = -50.0
    assert model.write(model.encode(batch["source"], batch["source_mask"]), max_new_tokens=9).shape[1] == 9


def test_rows_that_stand_for_no_id_are_never_written():
    model = small("bart", vocab_size=55).eval()
    assert model.network.config.vocab_size == 56, "a table that grows gets a multiple of eight rows"
    with torch.no_grad():
        model.network.final_logits_bias[:, 55] = 1e4
    batch = batch_of(model)
    assert model.write(model.encode(batch["source"], batch["source_mask"]), max_new_tokens=6).max() < 55


def test_writing_is_that_of_transformers():
    model = ready("mt5", 2)
    batch = batch_of(model)
    theirs = model.network.generate(
        input_ids=batch["source"], attention_mask=batch["source_mask"].long(), num_beams=3, max_new_tokens=12,
        length_penalty=0.8, no_repeat_ngram_size=3, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        suppress_tokens=[0],
    )  # fmt: skip
    ours = model.write(model.encode(batch["source"], batch["source_mask"]), **HOW)
    for own, other in zip(ours.tolist(), theirs[:, 1:].tolist(), strict=True):
        assert upto_end(own, model.eos_id) == upto_end(other, model.eos_id)
