"""Pre-norm transformer blocks that see both sides, with rotary positions.

Shapes: B batch, L length, D width, H heads, C head width. A rotation is (2, L, C/2): cosines, then sines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from rtx_lab.nn.attention import FeedForward, linear

PERIOD = 10_000.0


def angles(position_N: Tensor, num_angles: int) -> Tensor:
    """Return (N, num_angles): positions times frequencies that fall from 1 towards 1/10000, at least in float32."""
    wide = torch.promote_types(position_N.dtype, torch.float32)
    exponent = torch.arange(num_angles, device=position_N.device, dtype=wide) / num_angles
    return position_N.to(wide)[:, None] * torch.exp(-math.log(PERIOD) * exponent)


def sinusoid(position_N: Tensor, d_model: int) -> Tensor:
    """Return (N, D): sines, then cosines of `angles` (Vaswani et al. 2017, 3.5, halves instead of turns)."""
    angle = angles(position_N, d_model // 2)
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Table(nn.Module):
    """A constant of positions 0 .. length - 1, computed where and in the type that the model is in, and never saved.

    `make` is called with (length,) positions and returns a tensor whose last dimension but one is the position. It runs
    when the module is built, moved or cast, so that a cast to float64 is exact and one to 16 bits keeps float32.
    """

    table: Tensor

    def __init__(self, length: int, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.length, self.make = length, make
        self.register_buffer("table", make(torch.arange(length, dtype=torch.float32)), persistent=False)

    def forward(self, length: int) -> Tensor:
        """Return the part of the first `length` positions."""
        return self.table[..., :length, :]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        wide = torch.promote_types(self.table.dtype, torch.float32)
        self.table = self.make(torch.arange(self.length, device=self.table.device, dtype=wide))
        return self


def rotary_table(length: int, d_head: int) -> Table:
    """Return the cosines and sines of rotary positions (Su et al. 2104.09864, base 10000): (2, L, C/2)."""
    return Table(length, partial(_turns, num_angles=d_head // 2))


def sinusoid_table(length: int, d_model: int) -> Table:
    """Return the sinusoidal positions of the original transformer: (L, D)."""
    return Table(length, partial(sinusoid, d_model=d_model))


def _turns(position_L: Tensor, num_angles: int) -> Tensor:
    angle = angles(position_L, num_angles)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x_BLHC: Tensor, rotation: Tensor) -> Tensor:
    """Turn the pairs (c, c + C/2) of each head by the angle of their position; computed in float32, returned as x."""
    cosine, sine = rotation[:, :, None].unbind(0)
    first, second = x_BLHC.chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return turned.to(x_BLHC.dtype)


def attention_mask(real_BL: Tensor | None) -> Tensor | None:
    """Return (B, 1, 1, L) bool, true where attention is allowed; None where all is real, so that no mask is built.

    A row without real tokens attends everywhere: softmax over nothing is not a number.
    """
    if real_BL is None:
        return None
    return (real_BL | ~real_BL.any(1, keepdim=True))[:, None, None, :]


class RotaryAttention(nn.Module):
    """Multi-head self-attention without biases, one projection for query, key and value."""

    def __init__(self, d_model: int, num_heads: int, *, output_gain: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = linear(d_model, 3 * d_model)
        self.output = linear(d_model, d_model, gain=output_gain)

    def forward(self, x_BLD: Tensor, rotation: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each sample; `mask` is true where attention is allowed and broadcasts to (B, H, L, L)."""
        b, length, d = x_BLD.shape
        projected = self.query_key_value(x_BLD).view(b, length, 3, self.num_heads, -1)
        turned = rotate(projected[:, :, :2].flatten(2, 3), rotation).view(b, length, 2, self.num_heads, -1)
        query, key = turned.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = scaled_dot_product_attention(query, key, projected[:, :, 2].transpose(1, 2), attn_mask=mask)
        return self.output(mixed.transpose(1, 2).reshape(b, length, d))


class RotaryBlock(nn.Module):
    """Pre-norm self-attention and a GELU feed-forward; dropout on both branches."""

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float, *, num_layers: int) -> None:
        super().__init__()
        gain = 1 / math.sqrt(2 * num_layers)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention = RotaryAttention(d_model, num_heads, output_gain=gain)
        self.feed_forward = FeedForward(d_model, d_ff, dropout, output_gain=gain)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, rotation: Tensor, mask: Tensor | None) -> Tensor:
        x_BLD = x_BLD + self.dropout(self.attention(self.attention_norm(x_BLD), rotation, mask))
        return x_BLD + self.dropout(self.feed_forward(self.feed_forward_norm(x_BLD)))


class RotaryStack(nn.Module):
    """Blocks and a last norm; zero blocks leave the norm. Padding never reaches a real token."""

    def __init__(self, d_model: int, num_layers: int, num_heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            RotaryBlock(d_model, num_heads, d_ff, dropout, num_layers=num_layers) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.gradient_checkpointing = False

    def forward(self, x_BLD: Tensor, rotation: Tensor, mask: Tensor | None) -> Tensor:
        """Return normed states (B, L, D); `mask` as `attention_mask` makes it."""
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x_BLD = checkpoint(block, x_BLD, rotation, mask, use_reentrant=False)
            else:
                x_BLD = block(x_BLD, rotation, mask)
        return self.norm(x_BLD)
