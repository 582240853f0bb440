"""Credit and objective of yes-or-no decisions, against sums written out by hand."""

import math

import pytest
import torch

from rtx_lab.nn import grpo

HALF = torch.float64


def test_advantages_are_those_of_all_writings_written_out():
    reward, weight = torch.tensor([1.0, 0.0, 0.5], dtype=HALF), torch.tensor([3, 4, 1], dtype=HALF)
    every = [1.0] * 3 + [0.0] * 4 + [0.5]
    mean = sum(every) / 8
    deviation = math.sqrt(sum((one - mean) ** 2 for one in every) / 7)
    wanted = [(one - mean) / (deviation + 1e-4) for one in (1.0, 0.0, 0.5)]
    assert grpo.group_advantages(reward, weight, "std").tolist() == pytest.approx(wanted, abs=1e-12)
    plain = [one - mean for one in (1.0, 0.0, 0.5)]
    assert grpo.group_advantages(reward, weight, "none").tolist() == pytest.approx(plain, abs=1e-12)


def test_a_group_of_equal_rewards_teaches_nothing():
    reward = 1 - 0.1 * torch.tensor([3.0, 3.0, 3.0], dtype=HALF)
    reward[1] += 1e-16  # rounding
    assert grpo.is_flat(reward)
    assert not grpo.is_flat(reward + torch.tensor([0.0, 0.1, 0.0]))
    assert grpo.group_advantages(reward, torch.tensor([1.0, 2.0, 5.0], dtype=HALF), "std").tolist() == [0, 0, 0]


def test_a_decision_is_worth_what_its_flip_loses():
    action = torch.tensor([[1, 0, 1, -1], [0, 1, 1, 0], [1, 0, 0, -1]])
    worth, known = grpo.flip_credit(torch.tensor([1.0, 0.25, 1.5], dtype=HALF), action, base=0)
    assert known.tolist() == [True, False, True, False]
    assert worth.tolist() == [0.75, 0.0, -0.5, 0.0]


def test_probability_entropy_and_divergence_are_those_of_a_coin():
    logit = torch.tensor([-30.0, -1.5, 0.0, 2.0], dtype=HALF)
    p = logit.sigmoid()
    ones = torch.ones_like(logit)
    torch.testing.assert_close(grpo.log_probability(logit, ones).exp(), p)
    torch.testing.assert_close(grpo.log_probability(logit, 0 * ones).exp(), 1 - p)
    torch.testing.assert_close(grpo.entropy(logit), torch.distributions.Bernoulli(p).entropy(), atol=1e-10, rtol=1e-6)
    mean = sum(chance * grpo.even_kl(chance.log()) for chance in (p, 1 - p))
    exact = sum(chance * (chance / 0.5).log() for chance in (p, 1 - p))
    torch.testing.assert_close(mean[1:], exact[1:])  # unbiased where both actions occur


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    [(1.0, 2.0, 2.0), (1.5, 2.0, 0.0), (0.5, 2.0, 1.0), (0.5, -2.0, 0.0), (1.5, -2.0, -3.0)],
)
def test_clipping_stops_what_has_gone_far_enough(ratio, advantage, gradient):
    log_p = torch.tensor(-0.7, dtype=HALF, requires_grad=True)
    old = log_p.detach() - math.log(ratio)
    value, clipped = grpo.surrogate(log_p, old, torch.tensor(advantage, dtype=HALF), 0.2)
    value.backward()
    assert log_p.grad is not None
    assert float(log_p.grad) == pytest.approx(gradient, abs=1e-12)
    assert bool(clipped) == (gradient == 0)
