"""A number in [0, 1) for every sample, that depends on its tokens and on the seed of the step only.

Training draws the depth of each sample from it. A draw from the generator would depend on how a batch is cut into
micro-batches and on the other samples; this one does not, so that accumulation and data parallelism stay exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtx_lab.nn.hashing import GOLDEN, scramble, to_uniform

_MASK_31 = (1 << 31) - 1


@torch.library.custom_op("rtx_lab::step_seed", mutates_args=())
def step_seed(like: Tensor) -> Tensor:
    """The seed that torch.manual_seed was given last, as an int64 without dimensions on the device of `like`.

    An operator, since a compiled graph would otherwise break here, or keep the seed of its first call.
    """
    return torch.tensor(torch.initial_seed() & _MASK_31, device=like.device)


@step_seed.register_fake
def _(like: Tensor) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=like.device)


def sample_uniform(tokens_BS: Tensor, mask_BS: Tensor) -> Tensor:
    """Return (B,) float32 in [0, 1), a hash of each sample's real tokens and of the step's seed (splitmix64)."""
    position = torch.arange(1, tokens_BS.shape[1] + 1, device=tokens_BS.device)
    words = scramble(tokens_BS + position * GOLDEN)
    digest = (words * mask_BS).sum(1) + (step_seed(tokens_BS) + 1) * GOLDEN
    return to_uniform(scramble(digest))
