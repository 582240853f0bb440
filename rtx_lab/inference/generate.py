"""Free generation: greedy and beam search, batched over samples, no token computed twice.

Shapes: B samples, W beams, T generated tokens, V vocabulary, D width.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from rtx_lab.nn.attention import Decoder, DecoderCache
from rtx_lab.nn.memory import Memory


class Decodes(Protocol):
    """What generation and ranking need of a model."""

    decoder: Decoder

    @property
    def output_weight(self) -> Tensor: ...

    def decode(self, memory: Memory, tokens_BT: Tensor, cache: DecoderCache | None, position: int) -> Tensor: ...


def generate(
    model: Decodes,
    memory: Memory,
    *,
    start_id: int,
    eos_id: int,
    pad_id: int,
    max_tokens: int,
    num_beams: int = 1,
    length_penalty: float = 1.0,
) -> Tensor:
    """Write an answer for every sample: (B, T) int64, up to and including eos, then pad; T is at most `max_tokens`.

    One beam is greedy search. Ends early when every sample has ended, which costs one host sync a token.
    """
    if num_beams == 1:
        return generate_greedy(model, memory, start_id=start_id, eos_id=eos_id, pad_id=pad_id, max_tokens=max_tokens)
    return generate_beam(
        model,
        memory,
        start_id=start_id,
        eos_id=eos_id,
        pad_id=pad_id,
        max_tokens=max_tokens,
        num_beams=num_beams,
        length_penalty=length_penalty,
    )


@torch.no_grad()
def generate_greedy(
    model: Decodes, memory: Memory, *, start_id: int, eos_id: int, pad_id: int, max_tokens: int
) -> Tensor:
    """Return the most likely token at every position: (B, T) int64, pad after eos."""
    batch, device = memory.steps.shape[0], memory.steps.device
    tokens_B1 = torch.full((batch, 1), start_id, device=device)
    ended_B = torch.zeros(batch, dtype=torch.bool, device=device)
    cache, written = DecoderCache(), []
    for position in range(max_tokens):
        hidden_B1D = model.decode(memory, tokens_B1, cache, position)
        chosen_B = (hidden_B1D[:, -1] @ model.output_weight.mT).argmax(-1)
        chosen_B = torch.where(ended_B, pad_id, chosen_B)
        written.append(chosen_B)
        ended_B = ended_B | (chosen_B == eos_id)
        if ended_B.all():
            break
        tokens_B1 = chosen_B[:, None]
    return torch.stack(written, dim=1)


@torch.no_grad()
def generate_beam(
    model: Decodes,
    memory: Memory,
    *,
    start_id: int,
    eos_id: int,
    pad_id: int,
    max_tokens: int,
    num_beams: int,
    length_penalty: float,
) -> Tensor:
    """Return the best of `num_beams` hypotheses by log-likelihood / length ** length_penalty: (B, T) int64.

    An ended hypothesis keeps its place, score and length, and competes with those still growing; so one beam is
    greedy search. Length counts the eos.
    """
    batch, width, device = memory.steps.shape[0], num_beams, memory.steps.device
    cache, first_B1 = DecoderCache(), torch.full((batch, 1), start_id, device=device)
    log_probs_BWV = _next_log_probs(model, memory, first_B1, cache, 0)[:, None].expand(-1, width, -1)
    every_sample = torch.arange(batch, device=device).repeat_interleave(width)
    memory, cache = memory.select(every_sample), cache.select(every_sample)
    # All beams start equal, so that only the first may propose; -inf keeps the copies out.
    total_BW = torch.full((batch, width), -torch.inf, device=device)
    total_BW[:, 0] = 0
    length_BW = torch.zeros_like(total_BW)
    ended_BW = torch.zeros(batch, width, dtype=torch.bool, device=device)
    written_BWT = torch.empty(batch, width, 0, dtype=torch.int64, device=device)
    for position in range(1, max_tokens + 1):
        beam_BW, token_BW, total_BW, length_BW = _extend(
            log_probs_BWV, total_BW, length_BW, ended_BW, pad_id, length_penalty
        )
        written_BWT = torch.cat([_take(written_BWT, beam_BW), token_BW[..., None]], dim=2)
        ended_BW = _take(ended_BW, beam_BW) | (token_BW == eos_id)
        if position == max_tokens or ended_BW.all():
            break
        cache = cache.select_own((beam_BW + torch.arange(batch, device=device)[:, None] * width).flatten())
        log_probs = _next_log_probs(model, memory, token_BW.flatten()[:, None], cache, position)
        log_probs_BWV = log_probs.view(batch, width, -1)
    return _best(written_BWT, total_BW / length_BW.clamp_min(1) ** length_penalty, pad_id)


def _next_log_probs(model: Decodes, memory: Memory, tokens: Tensor, cache: DecoderCache, position: int) -> Tensor:
    hidden = model.decode(memory, tokens, cache, position)[:, -1]
    return torch.log_softmax((hidden @ model.output_weight.mT).float(), dim=-1)


def _extend(
    log_probs_BWV: Tensor, total_BW: Tensor, length_BW: Tensor, ended_BW: Tensor, pad_id: int, length_penalty: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose the best continuations: (beam continued, token, log-likelihood, length), each (B, W)."""
    vocab_size = log_probs_BWV.shape[2]
    is_pad_V = torch.arange(vocab_size, device=total_BW.device) == pad_id
    kept_V = torch.where(is_pad_V, 0.0, -torch.inf)
    growth_BWV = torch.where(ended_BW[..., None], kept_V, log_probs_BWV)
    candidate_BWV = total_BW[..., None] + growth_BWV
    new_length_BW = length_BW + ~ended_BW
    value_BWV = candidate_BWV / new_length_BW[..., None] ** length_penalty
    index_BW = value_BWV.flatten(1).topk(total_BW.shape[1], dim=1).indices
    beam_BW, token_BW = index_BW // vocab_size, index_BW % vocab_size
    return beam_BW, token_BW, candidate_BWV.flatten(1).gather(1, index_BW), _take(new_length_BW, beam_BW)


def _take(values: Tensor, beam_BW: Tensor) -> Tensor:
    """Reorder the beams of (B, W, ...) values."""
    index = beam_BW.view(*beam_BW.shape, *([1] * (values.dim() - 2))).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)


def _best(written_BWT: Tensor, value_BW: Tensor, pad_id: int) -> Tensor:
    """Return each sample's best hypothesis without the columns that only worse ones needed: (B, T)."""
    best_B1 = value_BW.argmax(1, keepdim=True)
    written_BT = _take(written_BWT, best_B1).squeeze(1)
    used_T = (written_BT != pad_id).any(0).int().flip(0).cummax(0).values
    return written_BT[:, : max(1, int(used_T.sum()))]
