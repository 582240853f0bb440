"""Which tokens are masked: one uniform number per token orders them, so that all masks of a sample are nested.

The order is drawn on the device from a hash of the sample's seed; how many tokens of it are visible is the caller's
count. The schedules (how much is masked when) are plain numpy for the host, where counts are drawn.

Shapes: B samples, L segment length, l chain steps, R targets of a chain step.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rtx_lab.core.errors import UsageError
from rtx_lab.nn.hashing import GOLDEN, scramble, to_uniform

SCHEDULES = ("linear", "exponential", "cosine", "random", "scheduled")
NOISE_SCHEDULES = ("linear", "cosine")
EXPONENTIAL_RATE = 3.0
"""The exponential schedule hides the same share of what is still visible at each step; e^-3 is 5 %."""
MASKS, NORMAL_RADIUS, NORMAL_ANGLE, REVEALS, CHOICES = range(5)
"""Independent streams of numbers of one seed: a sampler given the seed of the masks must not repeat their numbers."""


def hashed_words(seed_B: Tensor, length: int, stream: int = MASKS) -> Tensor:
    """Return (B, length) int64, 64 random bits for each (seed, stream, position), whatever the length."""
    position_L = torch.arange(1, length + 1, device=seed_B.device)
    start_B = scramble(scramble(seed_B + GOLDEN) + stream)
    return scramble(start_B[:, None] + position_L * GOLDEN)


def hashed_uniform(seed_B: Tensor, length: int, stream: int = MASKS) -> Tensor:
    """Return (B, length) float32 in [0, 1), the same on every device and however a batch is cut; seed_B int64."""
    return to_uniform(hashed_words(seed_B, length, stream))


def hashed_normal(seed_B: Tensor, length: int) -> Tensor:
    """Return (B, length) float32 of mean 0 and variance 1 (Box and Muller), independent of `hashed_uniform`."""
    radius_BL = (-2 * torch.log1p(-hashed_uniform(seed_B, length, NORMAL_RADIUS))).sqrt()
    return radius_BL * torch.cos(2 * math.pi * hashed_uniform(seed_B, length, NORMAL_ANGLE))


def reveal_order(uniform_BL: Tensor, maskable_BL: Tensor) -> Tensor:
    """Return (B, L) int64: positions in the order in which they become visible, those never masked last."""
    return torch.where(maskable_BL, uniform_BL, torch.inf).argsort(dim=1, stable=True)


def masked_positions(order_BL: Tensor, maskable_BL: Tensor, visible_B: Tensor) -> Tensor:
    """Return (B, L) bool: maskable and not among the first `visible` of the order. More visible, a subset of it."""
    place_L = torch.arange(order_BL.shape[1], device=order_BL.device)
    rank_BL = torch.empty_like(order_BL).scatter_(1, order_BL, place_L.expand_as(order_BL))
    return maskable_BL & (rank_BL >= visible_B[:, None])


def target_positions(order_BL: Tensor, target_rank_BlR: Tensor) -> Tensor:
    """Return (B, l, R) int64: the positions of the given ranks in the order, 0 where the rank is -1."""
    order_BlL = order_BL[:, None].expand(-1, target_rank_BlR.shape[1], -1)
    return order_BlL.gather(2, target_rank_BlR.clamp_min(0)).masked_fill(target_rank_BlR < 0, 0)


def alpha(schedule: str, time: ArrayLike) -> np.ndarray:
    """Return the share of tokens that are still visible at `time` in [0, 1] of the diffusion, from 1 to 0.

    linear: 1 - t. cosine: cos^2(pi t / 2). Raises UsageError on an unknown name.
    """
    time = np.asarray(time, np.float64)
    match schedule:
        case "linear":
            return 1 - time
        case "cosine":
            return np.cos(np.pi / 2 * time) ** 2
        case _:
            raise UsageError(f"the noise schedule must be one of {', '.join(NOISE_SCHEDULES)}, got {schedule!r}")


def alpha_slope(schedule: str, time: ArrayLike) -> np.ndarray:
    """Return the derivative of `alpha` by the time, never above 0. Raises UsageError on an unknown name."""
    time = np.asarray(time, np.float64)
    match schedule:
        case "linear":
            return np.full_like(time, -1)
        case "cosine":
            return -np.pi / 2 * np.sin(np.pi * time)
        case _:
            raise UsageError(f"the noise schedule must be one of {', '.join(NOISE_SCHEDULES)}, got {schedule!r}")


def masked_share(schedule: str, progress: ArrayLike) -> np.ndarray:
    """Return the share of maskable tokens that are masked at `progress` = k / S of the noise, from 0 to 1.

    linear: progress. cosine: sin^2(pi progress / 2), as 1 - alpha. exponential: each step hides the same share of what
    is visible. random (a binomial count) and scheduled (the start limited by how far training is) are linear: what they
    draw is the caller's. Raises UsageError on an unknown name.
    """
    progress = np.asarray(progress, np.float64)
    match schedule:
        case "linear" | "random" | "scheduled":
            return progress
        case "cosine":
            return 1 - alpha("cosine", progress)
        case "exponential":
            return np.expm1(-EXPONENTIAL_RATE * progress) / np.expm1(-EXPONENTIAL_RATE)
        case _:
            raise UsageError(f"model.masking must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
