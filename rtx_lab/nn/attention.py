"""Pre-norm transformer blocks with a key-value cache.

Shapes: B batch, S source length, T target length, M memory positions, D width, H heads, C head width, L cached length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

KeyValue = tuple[Tensor, Tensor]


@dataclass
class DecoderCache:
    """Keys and values of the tokens decoded so far and of the memory, one pair (B, H, L, C) per layer."""

    own: list[KeyValue] = field(default_factory=list)
    cross: list[KeyValue] = field(default_factory=list)

    def select(self, index: Tensor) -> DecoderCache:
        """Return the cache of the sequences at `index` (repeats allowed), as beam search reorders them."""
        return DecoderCache(_select(self.own, index), _select(self.cross, index))

    def select_own(self, index: Tensor) -> DecoderCache:
        """Reorder sequences that share their sample's memory: the memory's keys and values stay in place."""
        return DecoderCache(_select(self.own, index), self.cross)


def _select(pairs: list[KeyValue], index: Tensor) -> list[KeyValue]:
    return [(keys.index_select(0, index), values.index_select(0, index)) for keys, values in pairs]


def linear(d_in: int, d_out: int, *, gain: float = 1.0, bias: bool = False) -> nn.Linear:
    """Return a linear map that keeps unit variance (times `gain` squared), its bias zero."""
    layer = nn.Linear(d_in, d_out, bias=bias)
    nn.init.normal_(layer.weight, std=gain / math.sqrt(d_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Attention(nn.Module):
    """Multi-head attention without biases; keys and values come from `project` so that they can be kept."""

    def __init__(self, d_model: int, num_heads: int, dropout: float, *, output_gain: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query = linear(d_model, d_model)
        self.key_value = linear(d_model, 2 * d_model)
        self.output = linear(d_model, d_model, gain=output_gain)

    def project(self, x_BMD: Tensor) -> KeyValue:
        """Return keys and values (B, H, M, C) of the positions attended to."""
        b, m, _ = x_BMD.shape
        keys, values = self.key_value(x_BMD).view(b, m, 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return keys, values

    def forward(self, x_BTD: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from x to the keys; `mask` is true where attention is allowed and broadcasts to (B, H, T, M)."""
        b, t, d = x_BTD.shape
        query = self.query(x_BTD).view(b, t, self.num_heads, -1).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(query, keys, values, attn_mask=mask, dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).reshape(b, t, d))


class FeedForward(nn.Module):
    """Two linear maps around a GELU."""

    def __init__(self, d_model: int, d_ff: int, dropout: float, *, output_gain: float) -> None:
        super().__init__()
        self.inner = linear(d_model, d_ff, bias=True)
        self.outer = linear(d_ff, d_model, gain=output_gain, bias=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.outer(self.dropout(gelu(self.inner(x_BTD))))


class EncoderBlock(nn.Module):
    """Pre-norm self-attention over the source."""

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float, *, num_layers: int) -> None:
        super().__init__()
        gain = 1 / math.sqrt(2 * num_layers)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention = Attention(d_model, num_heads, dropout, output_gain=gain)
        self.feed_forward = FeedForward(d_model, d_ff, dropout, output_gain=gain)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BSD: Tensor, mask_B11S: Tensor) -> Tensor:
        normed = self.attention_norm(x_BSD)
        x_BSD = x_BSD + self.dropout(self.attention(normed, *self.attention.project(normed), mask_B11S))
        return x_BSD + self.dropout(self.feed_forward(self.feed_forward_norm(x_BSD)))


class Encoder(nn.Module):
    """A stack of pre-norm self-attention blocks and a last norm; padding never reaches a real token."""

    def __init__(self, d_model: int, num_layers: int, num_heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            EncoderBlock(d_model, num_heads, d_ff, dropout, num_layers=num_layers) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.gradient_checkpointing = False

    def forward(self, x_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """Encode x (B, S, D); mask (B, S) bool is true at real tokens."""
        # A row without tokens (a sample of weight zero) attends everywhere: softmax over nothing is not a number.
        mask_B11S = (mask_BS | ~mask_BS.any(1, keepdim=True))[:, None, None, :]
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x_BSD = checkpoint(block, x_BSD, mask_B11S, use_reentrant=False)
            else:
                x_BSD = block(x_BSD, mask_B11S)
        return self.norm(x_BSD)


class DecoderBlock(nn.Module):
    """Pre-norm causal self-attention, attention to the memory, feed-forward."""

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float, *, num_layers: int) -> None:
        super().__init__()
        gain = 1 / math.sqrt(3 * num_layers)
        self.own_norm, self.cross_norm, self.feed_forward_norm = (nn.LayerNorm(d_model) for _ in range(3))
        self.own = Attention(d_model, num_heads, dropout, output_gain=gain)
        self.cross = Attention(d_model, num_heads, dropout, output_gain=gain)
        self.feed_forward = FeedForward(d_model, d_ff, dropout, output_gain=gain)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, own: KeyValue, cross: KeyValue, causal: Tensor, mask: Tensor | None) -> Tensor:
        """Decode x given the keys and values of all tokens so far and of the memory.

        `own` is projected from `own_norm(x)` by the caller, who may have put a cache in front of it.
        """
        x_BTD = x_BTD + self.dropout(self.own(self.own_norm(x_BTD), *own, causal))
        x_BTD = x_BTD + self.dropout(self.cross(self.cross_norm(x_BTD), *cross, mask))
        return x_BTD + self.dropout(self.feed_forward(self.feed_forward_norm(x_BTD)))

    def run(self, x_BTD: Tensor, memory_BMD: Tensor, causal: Tensor, mask: Tensor | None) -> Tensor:
        """Decode a whole target at once, nothing cached."""
        own = self.own.project(self.own_norm(x_BTD))
        return self.forward(x_BTD, own, self.cross.project(memory_BMD), causal, mask)


class Decoder(nn.Module):
    """A small causal decoder that attends to a memory; the head is the caller's."""

    def __init__(self, d_model: int, num_layers: int, num_heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            DecoderBlock(d_model, num_heads, d_ff, dropout, num_layers=num_layers) for _ in range(num_layers)
        )
        self.memory_norm, self.norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.gradient_checkpointing = False

    def forward(self, x_BTD: Tensor, memory_BMD: Tensor, mask_BM: Tensor | None, cache: DecoderCache | None) -> Tensor:
        """Return hidden states (B, T, D). With a cache, x continues the tokens already in it, and it grows by T."""
        mask = None if mask_BM is None else (mask_BM | ~mask_BM.any(1, keepdim=True))[:, None, None, :]
        if cache is None:
            x_BTD = self._whole(x_BTD, memory_BMD, mask)
        else:
            x_BTD = self._continued(x_BTD, memory_BMD, mask, cache)
        return self.norm(x_BTD)

    def open_cache(self, memory_BMD: Tensor) -> DecoderCache:
        """Return a cache without tokens that holds the memory's keys and values."""
        normed_BMD = self.memory_norm(memory_BMD)
        return DecoderCache(cross=[block.cross.project(normed_BMD) for block in self._layers()])

    def _layers(self) -> list[DecoderBlock]:
        return cast(list[DecoderBlock], list(self.blocks))

    def _whole(self, x_BTD: Tensor, memory_BMD: Tensor, mask: Tensor | None) -> Tensor:
        memory_BMD = self.memory_norm(memory_BMD)
        causal = _causal(x_BTD.shape[1], 0, x_BTD.device)
        for block in self._layers():
            if self.gradient_checkpointing and self.training:
                x_BTD = checkpoint(block.run, x_BTD, memory_BMD, causal, mask, use_reentrant=False)
            else:
                x_BTD = block.run(x_BTD, memory_BMD, causal, mask)
        return x_BTD

    def _continued(self, x_BTD: Tensor, memory_BMD: Tensor, mask: Tensor | None, cache: DecoderCache) -> Tensor:
        past = cache.own[0][0].shape[2] if cache.own else 0
        causal = _causal(x_BTD.shape[1], past, x_BTD.device)
        if not cache.cross:
            cache.cross = self.open_cache(memory_BMD).cross
        grown = []
        for layer, block in enumerate(self._layers()):
            keys, values = block.own.project(block.own_norm(x_BTD))
            if cache.own:
                keys = torch.cat([cache.own[layer][0], keys], dim=2)
                values = torch.cat([cache.own[layer][1], values], dim=2)
            grown.append((keys, values))
            x_BTD = block(x_BTD, (keys, values), cache.cross[layer], causal, mask)
        cache.own = grown
        return x_BTD


def _causal(length: int, past: int, device: torch.device) -> Tensor:
    """Token t sees the `past` cached tokens and the new ones up to itself: (T, past + T) bool."""
    target = torch.arange(past, past + length, device=device)
    return torch.arange(past + length, device=device)[None, :] <= target[:, None]
