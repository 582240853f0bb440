"""A token is chosen from masked rows alone, never the mask token; a single pass fills in each on its own."""

import filling_by_definition as slow
import pytest
import small_denoisers
import torch

from rtx_lab.inference.filling import choose, fill, hide, single_pass
from rtx_lab.nn import cross_entropy

MASK_ID = 4


def _model():
    return small_denoisers.trained(small_denoisers.masked().double()).eval()


def test_a_single_pass_equals_its_definition(texts):
    model = _model()
    filled = single_pass(model, *texts.batch, mask_id=MASK_ID, keep_trace=True)
    for sample, length in enumerate(texts.lengths):
        alone = texts.tokens[sample, :length], texts.masked[sample, :length]
        expected, passes = slow.mask_predict_alone(model, *alone, mask_id=MASK_ID, num_iterations=1)
        assert filled.tokens[sample, :length].tolist() == expected
        assert filled.steps[sample] == passes == int(texts.masked[sample].any())
    assert torch.equal(filled.num_read, texts.masked.sum(1))
    assert torch.equal(filled.trace[0], filled.tokens)
    assert torch.equal(filled.hidden, model.encode(hide(texts.tokens, texts.masked, MASK_ID), texts.real))


def test_given_tokens_stay_and_the_mask_token_is_never_written(texts):
    model = _model()
    model.output_bias = torch.zeros(31).index_fill(0, torch.tensor(MASK_ID), 1e9).double()
    filled = single_pass(model, *texts.batch, mask_id=MASK_ID)
    assert torch.equal(filled.tokens[~texts.masked], texts.tokens[~texts.masked])
    assert not (filled.tokens == MASK_ID)[texts.masked].any()


def test_what_a_mask_covers_is_never_looked_at(texts):
    model, other = _model(), texts.tokens.clone()
    other[texts.masked] = other[texts.masked].flip(0)
    assert not torch.equal(other, texts.tokens)
    for tokens in (other, hide(texts.tokens, texts.masked, MASK_ID)):
        filled = single_pass(model, tokens, texts.masked, texts.real, mask_id=MASK_ID)
        assert torch.equal(filled.tokens, single_pass(model, *texts.batch, mask_id=MASK_ID).tokens)


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_chunks_do_not_matter(texts, rows, monkeypatch):
    model = _model()
    whole = choose(model, torch.randn(10, 16, generator=torch.Generator().manual_seed(0)).double(), MASK_ID)
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", rows * 31)
    cut = choose(model, torch.randn(10, 16, generator=torch.Generator().manual_seed(0)).double(), MASK_ID)
    assert torch.equal(cut[0], whole[0])
    torch.testing.assert_close(cut[1], whole[1])


def test_confidence_is_the_log_probability_of_the_choice(texts):
    model = _model()
    hidden = model.encode(texts.tokens, texts.real)
    filled, sure = fill(model, hidden, texts.tokens, texts.masked, MASK_ID)
    for sample in range(len(texts.tokens)):
        best, token = slow.log_probs(model, hidden[sample], MASK_ID).max(1)
        masked = texts.masked[sample]
        assert torch.equal(filled[sample, masked], token[masked])
        torch.testing.assert_close(sure[sample, masked], best[masked])
    assert (sure[~texts.masked] == torch.inf).all()


def test_nothing_masked_at_all(texts):
    filled = single_pass(_model(), texts.tokens, torch.zeros_like(texts.masked), texts.real, mask_id=MASK_ID)
    assert torch.equal(filled.tokens, texts.tokens)
    assert filled.steps.sum() == filled.num_read.sum() == 0
