"""Mask-predict masks only what was masked, the least sure first; given tokens never change."""

import filling_by_definition as slow
import pytest
import small_denoisers
import torch

from rtx_lab.core.errors import UsageError
from rtx_lab.inference.filling import single_pass
from rtx_lab.inference.mask_predict import least_sure, mask_predict

MASK_ID = 4


def _model():
    model = small_denoisers.trained(small_denoisers.masked(objective="cmlm").double()).eval()
    # an untrained model guesses from the position; tokens must matter for later passes to change anything
    model.token.data *= 3
    return model


@pytest.mark.parametrize("num_iterations", [1, 3, 10])
def test_every_text_equals_its_definition(texts, num_iterations):
    model = _model()
    filled = mask_predict(model, *texts.batch, mask_id=MASK_ID, num_iterations=num_iterations)
    for sample, length in enumerate(texts.lengths):
        alone = texts.tokens[sample, :length], texts.masked[sample, :length]
        expected, passes = slow.mask_predict_alone(model, *alone, mask_id=MASK_ID, num_iterations=num_iterations)
        assert filled.tokens[sample, :length].tolist() == expected
        assert filled.steps[sample] == passes
    assert filled.steps.max() == num_iterations
    if num_iterations == 10:
        assert len(filled.steps.unique()) > 3
        assert not torch.equal(filled.tokens, single_pass(model, *texts.batch, mask_id=MASK_ID).tokens)


def test_given_tokens_are_bit_identical_in_and_after_every_pass(texts, recorded):
    model = recorded(_model())
    filled = mask_predict(model, *texts.batch, mask_id=MASK_ID, num_iterations=10, keep_trace=True)
    assert len(filled.trace) == len(model.passes) == 10
    given = ~texts.masked
    for tokens in filled.trace:
        assert torch.equal(tokens[given], texts.tokens[given])
        assert not (tokens == MASK_ID)[texts.masked].any()
    assert torch.equal(filled.trace[-1], filled.tokens)
    # no pass ever sees a mask where a token was given
    for number, seen in enumerate(model.passes):
        quota = texts.masked.sum(1) * (10 - number) // 10
        index = torch.arange(len(texts.tokens)) if not number else quota.nonzero()[:, 0]
        masks = seen == MASK_ID
        assert not (masks & given[index]).any()
        assert torch.equal(masks.sum(1), quota[index])


def test_confidence_is_kept_for_tokens_that_were_not_guessed_again(texts, recorded):
    """The passes of one text, replayed: the second pass masks the least sure of the first, the third of both."""
    model = recorded(_model())
    one = texts.tokens[:1], texts.masked[:1], None
    filled = mask_predict(model, *one, mask_id=MASK_ID, num_iterations=3, keep_trace=True)
    sure = torch.full((14,), torch.inf, dtype=torch.float64)
    for number, seen in enumerate(model.passes):
        again = (seen[0] == MASK_ID).nonzero()[:, 0].tolist()
        if number:
            assert set(again) == set(sure.argsort()[: len(again)].tolist())
        scores = slow.log_probs(model, model.model.encode(seen, None)[0], MASK_ID)
        sure[again] = scores[again].max(1).values
    assert filled.num_read.item() == 13 + 8 + 4


def test_rows_read_and_last_state(texts):
    model = _model()
    filled = mask_predict(model, *texts.batch, mask_id=MASK_ID, num_iterations=4)
    count = texts.masked.sum(1)
    assert torch.equal(filled.num_read, sum(count * (4 - t) // 4 for t in range(4)))
    assert filled.steps[1] == 0
    assert torch.equal(filled.tokens[1], texts.tokens[1])


def test_least_sure():
    sure = torch.tensor([[0.5, -1.0, torch.inf, 0.5], [-3.0, -2.0, -1.0, torch.inf]])
    assert least_sure(sure, torch.tensor([2, 0])).tolist() == [[True, True, False, False], [False] * 4]


def test_no_iteration_is_refused(texts):
    with pytest.raises(UsageError, match="at least one iteration"):
        mask_predict(_model(), *texts.batch, mask_id=MASK_ID, num_iterations=0)
