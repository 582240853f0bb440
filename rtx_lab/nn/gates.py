"""Gates: how much noise is left in a state, estimated after each recursion, never more than after the one before.

Shapes: B batch, L length, D width, H heads, C head width, G hidden width of the gate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, softplus

from rtx_lab.nn.attention import linear

SCALE = 20.0
"""Units of the original's estimate: 20 is all noise, 0 none. Ours is that estimate divided by 20."""

GateReading = tuple[Tensor, Tensor]
"""noise (B,) in [0, 1] and pooled (B, D), the summary of the state that it was read from."""


class AttentionPool(nn.Module):
    """Multi-head attention with one learned query over the real positions of a state.

    Equal to nn.MultiheadAttention with biases. The key map is folded into the query and the value map is applied after
    the sum, so that the cost is 4 L H D instead of 4 L D^2.
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.token = nn.Parameter(torch.randn(1, d_model))
        self.query, self.key, self.value, self.output = (linear(d_model, d_model, bias=True) for _ in range(4))

    def forward(self, h_BLD: Tensor, real_BL: Tensor | None) -> Tensor:
        """Return (B, D); a row without real positions is pooled as a whole."""
        b, _, d = h_BLD.shape
        query_HC = self.query(self.token).view(self.num_heads, -1) * (d // self.num_heads) ** -0.5
        folded_HD = torch.einsum("hc,hcd->hd", query_HC, self.key.weight.view(self.num_heads, -1, d))
        offset_H = (query_HC * self.key.bias.view(self.num_heads, -1)).sum(-1)
        score_BHL = torch.einsum("bld,hd->bhl", h_BLD, folded_HD) + offset_H[:, None]
        if real_BL is not None:
            allowed_BL = real_BL | ~real_BL.any(1, keepdim=True)
            score_BHL = score_BHL.masked_fill(~allowed_BL[:, None], float("-inf"))
        mixed_BHD = torch.einsum("bhl,bld->bhd", score_BHL.softmax(-1), h_BLD)
        value_HCD = self.value.weight.view(self.num_heads, -1, d)
        value_BD = torch.einsum("bhd,hcd->bhc", mixed_BHD, value_HCD).reshape(b, d) + self.value.bias
        return self.output(value_BD)


class GateBlock(nn.Module):
    """GELU(LN(W z)), then dropout."""

    def __init__(self, d_hidden: int, dropout: float) -> None:
        super().__init__()
        self.inner, self.norm, self.dropout = linear(d_hidden, d_hidden, bias=True), nn.LayerNorm(d_hidden), dropout

    def forward(self, z_BG: Tensor) -> Tensor:
        return nn.functional.dropout(gelu(self.norm(self.inner(z_BG))), self.dropout, self.training)


class MonotoneGate(nn.Module):
    """The first state sets a level, each later one subtracts a positive amount from it.

        tau_0 = max(0, 20 - softplus(level))        tau_t = max(0, tau_{t-1} - softplus(fall))        noise = tau / 20

    max(0, .) is straight-through: its value is exact and its gradient is that of the identity, so that an estimate that
    reached 0 too early can still be corrected (the original's is dead there). The state is detached: no gradient of the
    gate reaches the encoder; it flows through earlier estimates. All in float32, also under autocast.
    """

    def __init__(self, d_model: int, num_heads: int, d_hidden: int, dropout: float) -> None:
        super().__init__()
        self.pool = AttentionPool(d_model, num_heads)
        self.fuse = linear(2 * d_model, d_hidden, bias=True)
        self.first, self.second = GateBlock(d_hidden, dropout), GateBlock(d_hidden, dropout)
        self.level, self.fall = linear(d_hidden, 1, bias=True), linear(d_hidden, 1, bias=True)
        nn.init.constant_(self.level.bias, 10.0)
        nn.init.constant_(self.fall.bias, 1.0)

    def start(self, h_BLD: Tensor, real_BL: Tensor | None) -> GateReading:
        """Read a state that no recursion has touched."""
        with torch.autocast(h_BLD.device.type, enabled=False):
            pooled_BD = self._pool(h_BLD, real_BL)
            level_B = self.level(self._features(pooled_BD, torch.zeros_like(pooled_BD))).squeeze(1)
        return _not_below_zero(1 - softplus(level_B) / SCALE), pooled_BD.detach()

    def step(self, h_BLD: Tensor, real_BL: Tensor | None, noise_B: Tensor, pooled_BD: Tensor) -> GateReading:
        """Read the state after one more recursion, given the reading of the state before."""
        with torch.autocast(h_BLD.device.type, enabled=False):
            after_BD = self._pool(h_BLD, real_BL)
            fall_B = self.fall(self._features(after_BD, pooled_BD)).squeeze(1)
        return _not_below_zero(noise_B - softplus(fall_B) / SCALE), after_BD.detach()

    def _pool(self, h_BLD: Tensor, real_BL: Tensor | None) -> Tensor:
        return self.pool(h_BLD.detach().to(self.fuse.weight.dtype), real_BL)

    def _features(self, pooled_BD: Tensor, before_BD: Tensor) -> Tensor:
        z_BG = self.first(gelu(self.fuse(torch.cat([pooled_BD, before_BD], dim=1))))
        return z_BG + self.second(z_BG)


def _not_below_zero(value_B: Tensor) -> Tensor:
    return value_B + (value_B.clamp_min(0) - value_B).detach()


class MeanGate(nn.Module):
    """The first RDT's gate: mean over positions, one ReLU layer, a sigmoid.

    Deviations: only real positions are averaged, and the estimate is the smallest so far. As in the original, its
    gradient reaches the encoder. The two maps run in float32, also under autocast.
    """

    def __init__(self, d_model: int, d_hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = linear(d_model, d_hidden, bias=True), linear(d_hidden, 1, bias=True)

    def start(self, h_BLD: Tensor, real_BL: Tensor | None) -> GateReading:
        """Read a state that no recursion has touched."""
        pooled_BD = masked_mean(h_BLD, real_BL)
        with torch.autocast(h_BLD.device.type, enabled=False):
            inner_BG = self.inner(pooled_BD.to(self.inner.weight.dtype)).relu()
            noise_B = self.outer(inner_BG).squeeze(1).sigmoid()
        return noise_B, pooled_BD.detach()

    def step(self, h_BLD: Tensor, real_BL: Tensor | None, noise_B: Tensor, pooled_BD: Tensor) -> GateReading:
        """Read the state after one more recursion, given the reading of the state before."""
        now_B, after_BD = self.start(h_BLD, real_BL)
        return torch.minimum(noise_B, now_B), after_BD


def masked_mean(h_BLD: Tensor, real_BL: Tensor | None) -> Tensor:
    """Return the mean over real positions, (B, D); zero for a row without any."""
    if real_BL is None:
        return h_BLD.mean(1)
    weight_BL1 = real_BL[:, :, None].to(h_BLD.dtype)
    return (h_BLD * weight_BL1).sum(1) / weight_BL1.sum(1).clamp_min(1)
