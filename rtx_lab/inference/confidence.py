"""How sure a model is of what comes behind latents: the objectives of a search over latents (`ltpo`).

Shapes: K latents, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rtx_lab.core.sections import Ltpo

LEAST_PROBABILITY = 1e-10
"""What `top_k_surprise` adds to a probability before its logarithm, as the original does."""

Objective = Callable[[Tensor], Tensor]
"""From logits (..., K, V) behind latents to rewards (...): the mean over the latents of how sure a prediction is."""


def negative_entropy(logits: Tensor) -> Tensor:
    """From -log V, where all tokens are as likely, to 0, where one is certain."""
    return _NegativeEntropy.apply(logits).mean(-1)


class _NegativeEntropy(torch.autograd.Function):
    """Sum of p log p over the last dimension, with its gradient in few passes over what is the largest tensor here.

    With c the mean of the logits under p, it is c less their logsumexp, and its gradient is p (logits - c). The logits
    are shifted to a maximum of 0, or large ones would cancel.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        logits = logits - logits.amax(-1, keepdim=True)
        p = logits.exp()
        total = p.sum(-1, keepdim=True)
        p.div_(total)
        mean = torch.linalg.vecdot(p, logits)
        ctx.save_for_backward(logits, p, mean)
        return mean - total.log().squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, p, mean = ctx.saved_tensors
        return (logits - mean[..., None]).mul_(p).mul_(slope[..., None])


def top_k_surprise(logits: Tensor, top_k: int) -> Tensor:
    """The original's: the mean of -log p over the likeliest tokens. No measure of how sure: flat over all is more than
    flat over `top_k`."""
    likeliest = logits.softmax(-1).topk(min(top_k, logits.shape[-1])).values
    return -(likeliest + LEAST_PROBABILITY).log().mean(-1).mean(-1)


def highest_probability(logits: Tensor) -> Tensor:
    """The probability of the likeliest token."""
    return logits.softmax(-1).amax(-1).mean(-1)


def margin(logits: Tensor) -> Tensor:
    """By how much the likeliest token's probability is above the next one's."""
    two = logits.softmax(-1).topk(2).values
    return (two[..., 0] - two[..., 1]).mean(-1)


def self_certainty(logits: Tensor) -> Tensor:
    """The divergence of the uniform distribution from the predicted one: 0 where all tokens are as likely."""
    return -logits.log_softmax(-1).mean(-1).mean(-1) - math.log(logits.shape[-1])


def objective_of(settings: Ltpo) -> Objective:
    """The objective that the settings name."""
    match settings.objective:
        case "topk_neglogp":
            return partial(top_k_surprise, top_k=settings.top_k)
        case "max_prob":
            return highest_probability
        case "margin":
            return margin
        case "self_certainty":
            return self_certainty
        case _:
            return negative_entropy
