"""When samples stop: alone as in a batch, by every rule, with a gradient, at every depth in training."""

import halting_one_by_one as slow
import pytest
import torch
from small_connection_transformer import B, batch_of, model_of

from rtx_lab.nn.connections import CONNECTIONS


def _median_threshold(model, source, mask):
    """A threshold between two scores that half of all scores pass, so that samples halt at many depths."""
    scores = model.eval().encode(source, mask).scores.detach().flatten().sort().values
    return scores[len(scores) // 2 - 1 :][:2].mean().item()


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_batched_halting_equals_solo_halting(connection):
    model = model_of(connection=connection).double()
    source, mask, _, _ = batch_of()
    model.halting.threshold = _median_threshold(model, source, mask)
    memory = model.encode(source, mask)
    assert len(memory.steps.unique()) >= 3
    for sample in range(B):
        one = slice(sample, sample + 1)
        steps, state = slow.reason_alone(model, source[one], mask[one])
        assert memory.steps[sample] == steps
        torch.testing.assert_close(memory.states[sample], state, rtol=0, atol=1e-12)


def test_larger_thresholds_take_fewer_steps():
    model = model_of()
    source, mask, _, _ = batch_of()
    scores = model.eval().encode(source, mask).scores
    means = []
    for threshold in (0.99 * scores.flatten().quantile(torch.tensor([0.0, 0.2, 0.5, 0.8, 1.0]))).tolist():
        model.halting.threshold = threshold
        means.append(model.encode(source, mask).steps.double().mean().item())
    assert means == sorted(means, reverse=True)
    assert means[0] == 5
    assert means[-1] < 2
    assert len(set(means)) == 5


def test_criteria_measure_what_they_say():
    source, mask, _, _ = batch_of()
    sizes, changes = (
        model_of(halting_criterion=name).eval().encode(source, mask) for name in ("absolute", "state_change")
    )
    # The update of a normalised state never comes near the thresholds of the original sweep.
    assert sizes.scores.min() > 0.5
    assert (sizes.steps == 5).all()
    assert changes.scores.max() < sizes.scores.max()
    # A state that has become a fixed point has no readout change.
    still = model_of()
    still.connection = type(still.connection)(6, 16, 4)
    still.connection.scale = 0.0
    quiet = still.eval().encode(source, mask)
    assert (quiet.scores[:, 1:] < 1e-5).all()


def test_expected_steps_have_a_gradient():
    for halting in ("threshold", "ponder"):
        model = model_of(halting=halting, readout_weight=0, ponder_weight=0, reasoning_cost_weight=1.0)
        source, mask, _, labels = batch_of()
        memory = model.encode(source, mask)
        assert ((memory.expected_steps > 1) & (memory.expected_steps < 5)).all()
        expected = (memory.expected_steps - 4).square()
        cost = model.auxiliary(memory, labels)
        torch.testing.assert_close(cost, expected)
        cost.sum().backward()
        assert model.connection.pair.grad.norm() > 1e-6
        assert model.readout.summary.weight.grad.norm() > 1e-6


def test_training_visits_every_depth_and_every_cut_is_the_same():
    model = model_of()
    batches = [batch_of(seed)[:2] for seed in range(6)]
    torch.manual_seed(5)
    whole = [model.encode(*batch).steps for batch in batches]
    assert set(torch.cat(whole).tolist()) == {1, 2, 3, 4, 5}
    source, mask = batches[0]
    pieces = [model.encode(source[i : i + 1], mask[i : i + 1]).steps for i in range(B)]
    assert torch.equal(torch.cat(pieces), whole[0])


def test_fixed_steps_and_none():
    source, mask, _, _ = batch_of()
    assert (model_of(fixed_steps=3).encode(source, mask).steps == 3).all()
    assert (model_of(fixed_steps=3).eval().encode(source, mask).steps == 3).all()
    assert (model_of(halting="none").encode(source, mask).steps == 5).all()
    assert model_of(fixed_steps=3).max_steps == 3


def test_ponder_is_a_distribution_that_decides():
    model = model_of(halting="ponder", target_steps=3)
    source, mask, _, _ = batch_of()
    torch.testing.assert_close(model.halting.prior.sum(), torch.tensor(1.0))
    mean = (model.halting.prior * torch.arange(1, 6)).sum()
    torch.testing.assert_close(mean, torch.tensor(3.0), atol=1e-4, rtol=0)
    memory = model.encode(source, mask)
    torch.testing.assert_close(memory.halting.sum(1), torch.ones(B))
    expected = (memory.halting * torch.arange(1, 6)).sum(1)
    torch.testing.assert_close(memory.expected_steps, expected)
    evaluated = model.eval().encode(source, mask)
    halted = evaluated.halting.cumsum(1).gather(1, evaluated.steps[:, None] - 1)
    assert ((halted > 0.5) | (evaluated.steps[:, None] == 5)).all()
    before = halted - evaluated.halting.gather(1, evaluated.steps[:, None] - 1)
    assert (before <= 0.5).all(), "not a step later than that"


@pytest.mark.parametrize("halting", ["none", "threshold"])
def test_a_readout_is_supervised_after_every_step(halting):
    model = model_of(halting=halting, readout_weight=0.5, reasoning_cost_weight=0).double()
    source, mask, _, labels = batch_of()
    memory = model.encode(source, mask)
    nll = [-memory.log_probs[step, torch.arange(B), labels[:, 0]] for step in range(6)]
    torch.testing.assert_close(model.auxiliary(memory, labels), 0.5 * torch.stack(nll).mean(0))


def test_ponder_pays_for_its_readouts_and_for_leaving_the_prior():
    model = model_of(halting="ponder", readout_weight=0.5, ponder_weight=0.25, reasoning_cost_weight=0).double()
    source, mask, _, labels = batch_of()
    memory = model.encode(source, mask)
    prior = model.halting.prior
    nll_BK = -torch.stack([memory.log_probs[step, torch.arange(B), labels[:, 0]] for step in range(1, 6)], dim=1)
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Categorical(memory.halting), torch.distributions.Categorical(prior.expand(B, -1))
    )
    expected = 0.5 * (memory.halting * nll_BK).sum(1) + 0.25 * divergence
    torch.testing.assert_close(model.auxiliary(memory, labels), expected, rtol=1e-6, atol=0)
    assert (divergence > 1e-6).all()


def test_auxiliary_supervises_only_real_samples_and_only_training():
    model = model_of(reasoning_cost_weight=0)
    source, mask, _, labels = batch_of()
    labels[2] = -100
    extra = model.auxiliary(model.encode(source, mask), labels)
    assert extra.shape == (B,)
    assert extra[2] == 0
    assert (extra[3:] > 0).all()
    assert (model.eval().auxiliary(model.encode(source, mask), labels) == 0).all()
