"""Ranking given options by the likelihood of their content.

Shapes: B samples, O options, U tokens of an option, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtx_lab.inference.generate import Decodes
from rtx_lab.nn.cross_entropy import IGNORED, token_nll
from rtx_lab.nn.memory import Memory


@torch.no_grad()
def option_log_likelihood(model: Decodes, memory: Memory, option_input: Tensor, option_labels: Tensor) -> Tensor:
    """Return log p(option | source) in nats, summed over the option's tokens: (B, O).

    option_input and option_labels (B, O, U) int64, labels -100 at padding. The memory is not encoded again: its keys
    and values are computed once a sample and repeated by index. No more than a chunk of logits is alive.
    """
    batch, num_options, length = option_labels.shape
    sample = torch.arange(batch, device=option_labels.device).repeat_interleave(num_options)
    cache = model.decoder.open_cache(memory.states).select(sample)
    hidden = model.decode(memory.select(sample), option_input.reshape(-1, length), cache, 0)
    nll = token_nll(hidden, model.output_weight, option_labels.reshape(-1, length))
    return -nll.sum(1).view(batch, num_options)


def rank_options(
    model: Decodes, memory: Memory, option_input: Tensor, option_labels: Tensor, option_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Return every option's log-likelihood and the same per token, -inf where `option_mask` is false: (B, O) each."""
    total_BO = option_log_likelihood(model, memory, option_input, option_labels)
    mean_BO = total_BO / (option_labels != IGNORED).sum(2).clamp_min(1)
    return total_BO.masked_fill(~option_mask, -torch.inf), mean_BO.masked_fill(~option_mask, -torch.inf)
