"""Group relative policy optimisation (arXiv 2402.03300) of yes-or-no decisions: their credit and their objective.

Every writing of a prompt is judged against the others of its prompt (Dr. GRPO, arXiv 2503.20783: without dividing by
their deviation), or every decision of one writing against the same writing with that decision turned round.

Shapes: R distinct writings of a prompt, J decisions of a writing; `(...)` any.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

CREDITS = ("group", "flip")
NORMALISE = ("std", "none")
STD_FLOOR = 1e-4
"""Added to the deviation of a group's rewards."""
SAME = 1e-9
"""Rewards that differ by no more are equal: the rest is rounding of sums."""


def is_flat(reward_R: Tensor) -> bool:
    """Whether all writings of a prompt have the same reward, so that nothing can be learnt from them."""
    return bool(reward_R.max() - reward_R.min() <= SAME)


def group_advantages(reward_R: Tensor, weight_R: Tensor, normalise: str) -> Tensor:
    """Reward less the mean of the group (R,), 0 where all are equal; row r stands for `weight_R` equal writings.

    `normalise`: `std` divides by the deviation of a sample (over n - 1) plus STD_FLOOR, `none` by nothing.
    """
    if is_flat(reward_R):
        return torch.zeros_like(reward_R)
    count = weight_R.sum()
    away_R = reward_R - (weight_R * reward_R).sum() / count
    if normalise == "none":
        return away_R
    deviation = ((weight_R * away_R.square()).sum() / (count - 1)).sqrt()
    return away_R / (deviation + STD_FLOOR)


def flip_credit(reward_R: Tensor, action_RJ: Tensor, base: int) -> tuple[Tensor, Tensor]:
    """What each decision of row `base` is worth, and which are known: (J,) float and (J,) bool.

    The worth of decision j is the reward of the row less that of the row which decided alike before j and otherwise at
    j, and followed the policy from there.
    """
    worth_J = reward_R.new_zeros(action_RJ.shape[1])
    known_J = torch.zeros_like(worth_J, dtype=torch.bool)
    for row in range(len(reward_R)):
        if row == base:
            continue
        first = int((action_RJ[row] != action_RJ[base]).long().argmax())
        worth_J[first], known_J[first] = reward_R[base] - reward_R[row], True
    return worth_J, known_J


def log_probability(logit: Tensor, action: Tensor) -> Tensor:
    """Log-probability (...) of actions 0 and 1 whose log odds of 1 are `logit` (...)."""
    return F.logsigmoid(torch.where(action > 0, logit, -logit))


def entropy(logit: Tensor) -> Tensor:
    """Entropy (...) in nats of decisions with these log odds."""
    return F.softplus(logit) - logit * logit.sigmoid()


def even_kl(log_p: Tensor) -> Tensor:
    """An estimate (...), never below 0, of the divergence from even odds, from the action that was taken (k3)."""
    ratio = -math.log(2.0) - log_p
    return ratio.exp() - ratio - 1


def surrogate(log_p: Tensor, old_log_p: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The clipped objective (...), to be made large, and where clipping takes its gradient away (...) bool."""
    ratio = (log_p - old_log_p).exp()
    free, bound = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    return torch.minimum(free, bound), bound < free
