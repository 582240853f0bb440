"""The reverse process reveals at the rate of its schedule and draws from the network, cached or batched alike."""

import filling_by_definition as slow
import numpy as np
import pytest
import small_denoisers
import torch
from scipy import stats

from rtx_lab.core.errors import UsageError
from rtx_lab.inference.reverse import draw, hashed_gumbel, reveal_steps, reverse_diffusion
from rtx_lab.nn.masking import CHOICES, NOISE_SCHEDULES, REVEALS, alpha, hashed_uniform, hashed_words

MASK_ID = 4


def _model():
    model = small_denoisers.trained(small_denoisers.masked(objective="mdlm").double()).eval()
    model.token.data *= 3
    return model


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
@pytest.mark.parametrize("num_steps", [1, 4, 30])
def test_every_text_equals_its_definition(texts, num_steps, schedule):
    model = _model()
    ways = {"mask_id": MASK_ID, "num_steps": num_steps, "noise_schedule": schedule}
    filled = reverse_diffusion(model, *texts.batch, texts.seed, **ways)
    for sample, length in enumerate(texts.lengths):
        alone = texts.tokens[sample, :length], texts.masked[sample, :length], int(texts.seed[sample])
        tokens, passes = slow.reverse_alone(model, *alone, **ways, reveals=REVEALS, choices=CHOICES)
        assert filled.tokens[sample, :length].tolist() == tokens
        assert filled.steps[sample] == passes
    assert torch.equal(filled.num_read, texts.masked.sum(1))


@pytest.mark.parametrize("num_steps", [1, 5, 200])
def test_cached_equals_ancestral_token_for_token(texts, recorded, num_steps):
    model = recorded(_model())
    ways = {"mask_id": MASK_ID, "num_steps": num_steps, "keep_trace": True}
    plain = reverse_diffusion(model, *texts.batch, texts.seed, **ways)
    rows, model.passes = sum(map(len, model.passes)), []
    cached = reverse_diffusion(model, *texts.batch, texts.seed, **ways, sampler="cached")
    assert len(plain.trace) == len(cached.trace) == num_steps
    for theirs, ours in zip(plain.trace, cached.trace, strict=True):
        assert torch.equal(theirs, ours)
    assert torch.equal(cached.tokens, plain.tokens)
    torch.testing.assert_close(cached.hidden, plain.hidden, rtol=0, atol=1e-10)
    assert rows == plain.steps.sum()
    assert sum(map(len, model.passes)) == cached.steps.sum()
    assert (cached.steps <= plain.steps).all()
    assert (cached.steps <= texts.masked.sum(1)).all()
    if num_steps == 200:
        assert cached.steps.sum() < 0.2 * plain.steps.sum()


def test_given_and_revealed_tokens_never_change(texts):
    filled = reverse_diffusion(_model(), *texts.batch, texts.seed, mask_id=MASK_ID, num_steps=12, keep_trace=True)
    before = torch.where(texts.masked, MASK_ID, texts.tokens)
    for tokens in filled.trace:
        kept = before != MASK_ID
        assert torch.equal(tokens[kept], before[kept])
        assert torch.equal(tokens[~texts.masked], texts.tokens[~texts.masked])
        before = tokens
    assert torch.equal(before, filled.tokens)
    assert not (filled.tokens == MASK_ID)[texts.masked].any()


def _follows(left_T, num_masked, schedule):
    """Whether the masks left after every step lie in a binomial interval; all do with 99.9 %, or more."""
    num_steps = len(left_T)
    share = 1 - alpha(schedule, 1 - np.arange(1, num_steps + 1) / num_steps)
    low, high = stats.binom.interval(1 - 1e-3 / num_steps, num_masked, share)
    return bool(((low <= left_T) & (left_T <= high)).all())


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
@pytest.mark.parametrize("num_steps", [10, 1000])
def test_masks_left_follow_the_schedule(schedule, num_steps):
    masked = torch.ones(400, 64, dtype=torch.bool)
    turn = reveal_steps(torch.arange(400), masked, num_steps, schedule)
    left = np.array([int((turn > step).sum()) for step in range(num_steps)])
    assert left[-1] == 0
    assert _follows(left, 400 * 64, schedule)
    # what the published sampler did, and the other schedule, must not pass
    rng = np.random.default_rng(0)
    at_once, still = [], 400 * 64
    for step in range(num_steps):
        still -= rng.binomial(still, float(1 - alpha(schedule, 1 - step / num_steps)))
        at_once.append(still)
    assert at_once[0] == 0
    assert not _follows(np.array(at_once), 400 * 64, schedule)
    assert not _follows(left, 400 * 64, {"linear": "cosine", "cosine": "linear"}[schedule])
    if num_steps == 10:
        assert not _follows(np.append(left[1:], 0), 400 * 64, schedule), "one step too early"


def test_masks_left_in_the_texts_follow_the_plan(texts):
    filled = reverse_diffusion(_model(), *texts.batch, texts.seed, mask_id=MASK_ID, num_steps=7, keep_trace=True)
    turn = reveal_steps(texts.seed, texts.masked, 7, "linear")
    for step, tokens in enumerate(filled.trace):
        assert torch.equal(tokens == MASK_ID, turn > step)
    assert torch.equal(turn >= 0, texts.masked)


def test_the_seed_of_the_masks_may_be_the_seed_of_the_sampler():
    """Masks are the largest numbers of a seed; the steps that reveal them must not be told by the same numbers."""
    seed, maskable = torch.arange(2000), torch.ones(2000, 16, dtype=torch.bool)
    masked = hashed_uniform(seed, 16) > 0.8
    turn = reveal_steps(seed, maskable, 10, "linear")
    late = (turn[masked] >= 5).float().mean()
    assert (late - 0.5).abs() < 5 * 0.5 / masked.sum() ** 0.5


def test_tokens_are_drawn_from_the_distribution_without_the_mask():
    model, rows = _model(), 40_000
    state = torch.randn(1, 16, generator=torch.Generator().manual_seed(1)).double() / 2
    tokens = draw(model, state.expand(rows, -1), hashed_words(torch.arange(rows // 8), 8, CHOICES).flatten(), MASK_ID)
    p = slow.log_probs(model, state, MASK_ID)[0].exp().detach().numpy()
    counts = np.bincount(tokens, minlength=31)
    assert counts[MASK_ID] == 0
    kept = np.arange(31) != MASK_ID
    assert stats.chisquare(counts[kept], rows * p[kept]).pvalue > 1e-3
    flatter = p[kept] ** 0.9 / (p[kept] ** 0.9).sum()
    assert stats.chisquare(counts[kept], rows * flatter).pvalue < 1e-6


def test_gumbel_noise_is_finite_and_has_its_tail():
    noise = hashed_gumbel(hashed_words(torch.arange(100), 10, CHOICES).flatten(), 1000).flatten()
    assert noise.isfinite().all()
    assert stats.kstest(noise[::50].numpy(), "gumbel_r").pvalue > 1e-3
    expected = len(noise) * -np.expm1(-np.exp(-10.0))
    assert abs(int((noise > 10).sum()) - expected) < 5 * expected**0.5


def test_other_seeds_give_other_texts(texts):
    ways = {"mask_id": MASK_ID, "num_steps": 5}
    first = reverse_diffusion(_model(), *texts.batch, texts.seed, **ways)
    again = reverse_diffusion(_model(), *texts.batch, texts.seed, **ways)
    other = reverse_diffusion(_model(), *texts.batch, texts.seed + 1, **ways)
    assert torch.equal(first.tokens, again.tokens)
    assert (first.tokens != other.tokens)[texts.masked].float().mean() > 0.3


def test_nothing_masked_at_all(texts):
    nothing = torch.zeros_like(texts.masked)
    filled = reverse_diffusion(_model(), texts.tokens, nothing, None, texts.seed, mask_id=MASK_ID, num_steps=3)
    assert torch.equal(filled.tokens, texts.tokens)
    assert filled.steps.sum() == 0
    assert filled.hidden.shape == (24, 14, 16)


@pytest.mark.parametrize(
    "wrong", [{"num_steps": 0}, {"num_steps": 3, "sampler": "euler"}, {"num_steps": 3, "noise_schedule": "square"}]
)
def test_bad_settings_are_refused(texts, wrong):
    with pytest.raises(UsageError, match=r"at least one step|ancestral|linear"):
        reverse_diffusion(_model(), *texts.batch, texts.seed, mask_id=MASK_ID, **wrong)
