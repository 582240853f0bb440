"""Slots, and the compression of a source into them.

Shapes: B batch, S source length, N slots, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rtx_lab.core.errors import UsageError

SLOTS = ("fixed", "learned")
EPSILON = 1e-8


def orthonormal_slots(num_slots: int, d_model: int) -> Tensor:
    """Draw N vectors of norm sqrt(D): orthogonal, or in stacked blocks of at most D orthogonal ones. (N, D)."""
    num_blocks = -(-num_slots // d_model)
    rows = min(num_slots, d_model)
    q, _ = torch.linalg.qr(torch.randn(num_blocks, d_model, rows))
    return q.transpose(-2, -1).reshape(-1, d_model)[:num_slots].clone() * math.sqrt(d_model)


def _rotation(d_model: int) -> nn.Parameter:
    weight = nn.Parameter(torch.empty(d_model, d_model))
    nn.init.orthogonal_(weight)
    return weight


class Compression(nn.Module):
    """Tokens choose slots (softmax over slots), each slot then takes the weighted mean of its tokens.

    A = softmax_N(X Wq (H Wk)' / sqrt(D)), H0 = H + LN(A' X Wv / sum_S A). Both products are reassociated, X (Wq Wk' H')
    and (A' X) Wv, so that no projection runs over the tokens; padding is taken out of A before pooling, and the mean
    after it. Deviation: the pooled content is normalised (the mean of S tokens would have 1/sqrt(S) of a slot's size).
    """

    slots: Tensor

    def __init__(self, num_slots: int, d_model: int, slots: str) -> None:
        super().__init__()
        drawn = orthonormal_slots(num_slots, d_model)
        match slots:
            case "learned":
                self.slots = nn.Parameter(drawn)
            case "fixed":
                self.register_buffer("slots", drawn)
            case _:
                raise UsageError(f"model.slots must be one of {', '.join(SLOTS)}, got {slots!r}")
        self.query, self.key, self.value = (_rotation(d_model) for _ in range(3))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x_BSD: Tensor, mask_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slots (B, N, D) and the attention of tokens to slots (B, S, N); mask is true at real tokens."""
        reading_ND = self.slots @ self.key @ self.query.mT / math.sqrt(x_BSD.shape[-1])
        attention_BSN = torch.softmax(x_BSD @ reading_ND.mT, dim=-1)
        weight_BSN = attention_BSN * mask_BS[..., None]
        pooled_BND = weight_BSN.mT @ x_BSD
        mean_BND = pooled_BND / (weight_BSN.sum(1)[..., None] + EPSILON)
        return self.slots + self.norm(mean_BND @ self.value), attention_BSN
