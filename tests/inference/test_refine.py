"""Batched refinement gives each text the tokens and the steps that it gets alone, whatever its neighbours do."""

import itertools

import filling_by_definition as slow
import pytest
import small_denoisers
import torch

from rtx_lab.core.errors import UsageError
from rtx_lab.inference.filling import hide
from rtx_lab.inference.refine import refine

MASK_ID = 4
HALTING = {"mask_id": MASK_ID, "max_steps": 12, "threshold": 0.1}


def _spread(linear, scale, bias):
    """A gate whose estimates differ from text to text."""
    with torch.no_grad():
        linear.weight *= scale
        linear.bias.fill_(bias)


def _recursive(**changes):
    model = small_denoisers.trained(small_denoisers.recursive(**changes).double()).eval()
    _spread(model.gate.level, 2, 2)
    _spread(model.gate.fall, 8, -6)
    return model


def _seed_denoiser(**changes):
    model = small_denoisers.trained(small_denoisers.seed_denoiser(**changes).double()).eval()
    _spread(model.gate.outer, 4, -1)
    return model


MODELS = {
    "rdt": _recursive,
    "reinject": lambda: _recursive(reinject=True),
    "commit": lambda: _recursive(reinject=True, commit=True, total_steps=6),
    "seed": _seed_denoiser,
}


class Counted:
    """A model that counts the samples of every recursion."""

    def __init__(self, model):
        self.model, self.sizes = model, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def advance(self, thought, noise, fresh):
        self.sizes.append(len(thought.noise_B))
        return self.model.advance(thought, noise, fresh)


def _assert_equal_alone(model, texts, filled, **halting):
    for sample, length in enumerate(texts.lengths):
        alone = texts.tokens[sample, :length], texts.masked[sample, :length]
        tokens, steps = slow.refine_alone(model, *alone, **halting)
        assert filled.steps[sample] == steps
        assert filled.tokens[sample, :length].tolist() == tokens


@pytest.mark.parametrize("name", MODELS)
def test_every_text_equals_its_definition(texts, name):
    model = MODELS[name]()
    filled = refine(model, *texts.batch, **HALTING)
    _assert_equal_alone(model, texts, filled, **HALTING)
    assert len(filled.steps.unique()) >= 4, "texts must stop at different steps, or nothing is tested"
    assert filled.steps[1] == 0
    assert filled.steps[texts.masked.any(1)].min() >= 1
    assert torch.equal(filled.tokens[~texts.masked], texts.tokens[~texts.masked])
    assert not (filled.tokens == MASK_ID)[texts.masked].any()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fixed", [1, 5])
def test_a_fixed_number_of_steps(texts, name, fixed):
    model = MODELS[name]()
    filled = refine(model, *texts.batch, **HALTING, fixed_steps=fixed)
    _assert_equal_alone(model, texts, filled, **HALTING, fixed_steps=fixed)
    if not model.commit:
        assert torch.equal(filled.steps, fixed * texts.masked.any(1))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("check_every", [2, 5, 100])
def test_looking_less_often_changes_nothing(texts, name, check_every):
    model = Counted(MODELS[name]())
    whole = refine(model, *texts.batch, **HALTING)
    needed, model.sizes = sum(model.sizes), []
    late = refine(model, *texts.batch, **HALTING, check_every=check_every)
    assert torch.equal(late.tokens, whole.tokens)
    assert torch.equal(late.steps, whole.steps)
    assert torch.equal(late.num_read, whole.num_read)
    torch.testing.assert_close(late.hidden, whole.hidden, rtol=0, atol=1e-10)
    idle = sum(model.sizes) - needed
    assert 0 < idle <= (check_every - 1) * len(texts.tokens)


def test_samples_leave_the_batch_as_they_stop(texts):
    model = Counted(_recursive())
    filled = refine(model, *texts.batch, **HALTING)
    assert model.sizes == [int((filled.steps > step).sum()) for step in range(int(filled.steps.max()))]
    assert sum(model.sizes) == filled.steps.sum() < len(texts.tokens) * filled.steps.max()


@pytest.mark.parametrize("name", MODELS)
def test_a_trace_changes_nothing_and_ends_with_the_result(texts, name):
    model = MODELS[name]()
    plain = refine(model, *texts.batch, **HALTING)
    assert plain.trace is None
    for check_every in (1, 3):
        filled = refine(model, *texts.batch, **HALTING, keep_trace=True, check_every=check_every)
        assert torch.equal(filled.tokens, plain.tokens)
        assert torch.equal(filled.num_read, plain.num_read)
        assert torch.equal(filled.trace[-1], filled.tokens)
        for step, tokens in enumerate(filled.trace, start=1):
            assert torch.equal(tokens[~texts.masked], texts.tokens[~texts.masked])
            done = filled.steps <= step
            assert torch.equal(tokens[done], filled.tokens[done])
    if not model.commit:
        early = refine(model, *texts.batch, **HALTING, fixed_steps=2)
        going = filled.steps >= 2
        assert torch.equal(filled.trace[1][going], early.tokens[going])


def test_the_state_is_each_samples_own_last_one(texts):
    model = _recursive()
    filled = refine(model, *texts.batch, **HALTING)
    thought = model.begin(hide(texts.tokens, texts.masked, MASK_ID), texts.real)
    states = [thought.hidden_BLD]
    for _ in range(12):
        thought = model.advance(thought)
        states.append(thought.hidden_BLD)
    for sample, steps in enumerate(filled.steps.tolist()):
        own = model.read(states[steps][sample : sample + 1], texts.real[sample : sample + 1])[0]
        real = texts.real[sample]
        torch.testing.assert_close(filled.hidden[sample, real], own[real], rtol=0, atol=1e-10)
    assert torch.equal(filled.num_read, texts.masked.sum(1))


def test_a_lower_threshold_takes_more_steps_up_to_the_most(texts):
    model = _recursive()
    steps = [refine(model, *texts.batch, **HALTING | {"threshold": at}).steps for at in (1.0, 0.3, 0.1, -1.0)]
    for fewer, more in itertools.pairwise(steps):
        assert (fewer <= more).all()
        assert (fewer < more).any()
    assert torch.equal(steps[0], texts.masked.any(1).long())
    assert torch.equal(steps[-1], 12 * texts.masked.any(1))


def test_committed_tokens_are_written_in_at_the_rate_of_training(texts):
    """ceil(n / total_steps) of the most confident before each step but the first, and they stay."""
    model, seen = Counted(_recursive(reinject=True, commit=True, total_steps=6)), []
    original = model.model.advance
    model.model.advance = lambda thought, noise, fresh: (seen.append(fresh), original(thought, noise, fresh))[1]
    one = texts.tokens[:1], texts.masked[:1], None
    filled = refine(model, *one, mask_id=MASK_ID, max_steps=12, threshold=-1.0, keep_trace=True)
    assert seen[0] is None
    left = [int((fresh == MASK_ID).sum()) for fresh in seen[1:]]
    assert left == [10, 7, 4, 1]  # 13 masked, 14 real tokens: 3 at a time, and the last one ends it
    assert filled.steps.tolist() == [5]
    assert filled.num_read.tolist() == [13 + 10 + 7 + 4 + 1]
    for before, after, shown in zip(seen[1:], seen[2:], filled.trace, strict=False):
        kept = before != MASK_ID
        assert torch.equal(after[kept], before[kept])
        assert torch.equal(shown[kept], before[kept])
        assert torch.equal(filled.tokens[kept], before[kept])


def test_nothing_masked_at_all(texts):
    for model in (_recursive(), _recursive(reinject=True, commit=True)):
        filled = refine(model, texts.tokens, torch.zeros_like(texts.masked), texts.real, **HALTING)
        assert torch.equal(filled.tokens, texts.tokens)
        assert filled.steps.sum() == filled.num_read.sum() == 0
        states = model.read(model.begin(texts.tokens, texts.real).hidden_BLD, texts.real)
        assert torch.equal(filled.hidden, states)


def test_sixteen_bits(texts):
    model = small_denoisers.trained(small_denoisers.recursive()).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        filled = refine(model, *texts.batch, **HALTING)
    assert torch.equal(filled.tokens[~texts.masked], texts.tokens[~texts.masked])
    assert filled.steps.max() > 1


@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"fixed_steps": 0}, {"check_every": 0}])
def test_counts_below_one_are_refused(texts, wrong):
    with pytest.raises(UsageError, match=r"at least one step|from 1"):
        refine(_recursive(), *texts.batch, **HALTING | wrong)
