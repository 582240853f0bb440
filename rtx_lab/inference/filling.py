"""Filling in masked tokens: what every way to do it returns, how a token is chosen, and the way of a single pass.

Only masked positions are ever decoded: their rows are gathered before the head, and no more than a chunk of logits is
alive. The mask token itself is never chosen, and what a mask covers is never looked at.

Shapes: B samples, L length, D width, V vocabulary, M gathered rows, A samples still in work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rtx_lab.nn.cross_entropy import logit_chunks


class HasHead(Protocol):
    """What choosing tokens needs of a model: logits are hidden @ output_weight' + output_bias."""

    @property
    def output_weight(self) -> Tensor: ...

    @property
    def output_bias(self) -> Tensor | None: ...


class Encodes(Protocol):
    """What filling in by whole passes needs of a model."""

    @property
    def output_weight(self) -> Tensor: ...

    @property
    def output_bias(self) -> Tensor | None: ...

    def encode(self, tokens_BL: Tensor, real_BL: Tensor | None) -> Tensor: ...


@dataclass(kw_only=True)
class Filled:
    """Texts without masks, and what it took."""

    tokens: Tensor
    """(B, L) int64: the observed tokens as they were given, and a token for each masked one."""
    steps: Tensor
    """(B,) int64: recursions, or passes of the network, that the sample took; 0 where nothing was masked."""
    num_read: Tensor
    """(B,) int64: rows of the sample that went through the head to choose tokens (not those that a trace shows)."""
    hidden: Tensor
    """(B, L, D): what the head reads, after the sample's last step; zeros where no pass was needed."""
    trace: list[Tensor] | None = None
    """(B, L) tokens after each step, where asked for; a sample that is done keeps its tokens."""


def hide(tokens_BL: Tensor, masked_BL: Tensor, mask_id: int) -> Tensor:
    """Return the tokens with the mask token at all masked positions, whatever stood there."""
    return torch.where(masked_BL, mask_id, tokens_BL)


def choose(model: HasHead, rows_MD: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """Return the most likely token of each row but the mask token, and its log-probability: (M,) each."""
    tokens, confidences = [], []
    for _, logits_CV in logit_chunks(rows_MD, model.output_weight, model.output_bias, mask_id):
        best_C, token_C = logits_CV.max(1)
        tokens.append(token_C)
        confidences.append(best_C - logits_CV.logsumexp(1))
    return torch.cat(tokens), torch.cat(confidences)


def fill(
    model: HasHead, hidden_BLD: Tensor, tokens_BL: Tensor, masked_BL: Tensor, mask_id: int
) -> tuple[Tensor, Tensor]:
    """Return the tokens with the most likely one at each masked position, and its log-probability: (B, L) each.

    The log-probability of a position that is not masked is inf. Finding the masked rows costs one host sync.
    """
    row_M = masked_BL.flatten().nonzero()[:, 0]
    token_M, confidence_M = choose(model, hidden_BLD.flatten(0, 1)[row_M], mask_id)
    sure_N = torch.full(masked_BL.shape, torch.inf, dtype=confidence_M.dtype, device=masked_BL.device).flatten()
    filled_N = tokens_BL.flatten().index_copy(0, row_M, token_M)
    return filled_N.view_as(tokens_BL), sure_N.index_copy(0, row_M, confidence_M).view_as(tokens_BL)


def put(whole: Tensor, index_A: Tensor, part: Tensor) -> Tensor:
    """Return `whole` with the samples at `index` replaced, in the wider of both types."""
    wide = torch.promote_types(whole.dtype, part.dtype)
    return whole.to(wide).index_copy(0, index_A, part.to(wide))


def pick(values: Tensor | None, index_A: Tensor) -> Tensor | None:
    """Return the samples at `index`, of nothing nothing."""
    return None if values is None else values.index_select(0, index_A)


@torch.no_grad()
def single_pass(
    model: Encodes,
    tokens_BL: Tensor,
    masked_BL: Tensor,
    real_BL: Tensor | None,
    *,
    mask_id: int,
    keep_trace: bool = False,
) -> Filled:
    """Fill in all masked tokens at once, each on its own, from the observed ones.

    tokens (B, L) int64, masked (B, L) bool, real (B, L) bool or None where nothing is padded.
    """
    observed_BL = hide(tokens_BL, masked_BL, mask_id)
    hidden_BLD = model.encode(observed_BL, real_BL)
    filled_BL, _ = fill(model, hidden_BLD, observed_BL, masked_BL, mask_id)
    return Filled(
        tokens=filled_BL,
        steps=masked_BL.any(1).long(),
        num_read=masked_BL.sum(1),
        hidden=hidden_BLD,
        trace=[filled_BL] if keep_trace else None,
    )
