"""The first Recursive Denoising Transformer (RDT-0): one post-norm encoder applied again and again.

    x = sqrt(D) E[tokens] + sinusoid(position)   once
    h = encoder(h)                               post-norm blocks, weights shared by all recursions
    noise = gate(h)                              in [0, 1], the smallest so far
    logits = decoder(h) @ W' + b                 untied

Shapes: B batch, L length, D width, H heads, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from rtx_lab.models import chain, flops, ranges
from rtx_lab.models.class_head import class_head
from rtx_lab.nn.attention import linear
from rtx_lab.nn.gates import MeanGate
from rtx_lab.nn.rotary import attention_mask, sinusoid_table
from rtx_lab.nn.thought import Thought


class PostNormBlock(nn.Module):
    """Self-attention and a ReLU feed-forward, a norm after each, biases everywhere: nn.TransformerEncoderLayer."""

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = linear(d_model, 3 * d_model, bias=True)
        self.output = linear(d_model, d_model, bias=True)
        self.inner, self.outer = linear(d_model, d_ff, bias=True), linear(d_ff, d_model, bias=True)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, mask: Tensor | None) -> Tensor:
        """`mask` is true where attention is allowed and broadcasts to (B, H, L, L)."""
        b, length, d = x_BLD.shape
        projected = self.query_key_value(x_BLD).view(b, length, 3, self.num_heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).reshape(b, length, d)
        x_BLD = self.attention_norm(x_BLD + self.dropout(self.output(mixed)))
        inner = self.dropout(self.inner(x_BLD).relu())
        return self.feed_forward_norm(x_BLD + self.dropout(self.outer(inner)))


class SeedDenoiser(nn.Module, PyTorchModelHubMixin, library_name="rtx_lab", license="apache-2.0"):
    """The recursive denoiser of the seed's base.yaml, with its faults repaired.

    Repaired: padding is masked in attention and pooling, the gate never rises, and halting is per sample (as the
    caller's). `backprop_steps=k` cuts the state from its gradient after every k recursions. The core hears nothing of
    the noise and nothing is re-injected, so the noise given to `advance` is not used.
    Raises UsageError, naming every wrong parameter at once.
    """

    task = "rtx_lab.tasks.denoise.DenoiseTask"
    objective = "chain"
    max_steps: int
    total_steps: int
    min_chain_length: int
    max_chain_length: int
    threshold: float
    masking: str
    supervision: str
    gate_target: str
    backprop_steps: int | None
    loss_weight_recon: float
    loss_weight_gate: float
    num_classes: int

    def __init__(
        self,
        *,
        vocab_size: int | None = None,
        max_seq_len: int = 512,
        d_model: int,
        n_heads: int,
        d_ff: int,
        n_encoder_layers: int,
        decoder_type: str = "linear",
        n_decoder_layers: int | None = None,
        gate_hidden_dim: int = 256,
        dropout: float = 0.1,
        max_chain_length: int = 5,
        min_chain_length: int = 5,
        total_steps: int = 10,
        max_steps: int = 20,
        threshold: float = 0.1,
        masking: str = "linear",
        supervision: str = "newly_revealed",
        gate_target: str = "counter",
        backprop_steps: int | None = None,
        loss_weight_recon: float = 1.0,
        loss_weight_gate: float = 1.0,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        _check(given)
        chain.keep_settings(self, given)
        self.commit, self.noise_mixing_steps, self.gradient_checkpointing = False, 0, False
        self._build(given)

    def _build(self, given: dict[str, Any]) -> None:
        vocab_size, d_model, n_heads, d_ff = (given[key] for key in ("vocab_size", "d_model", "n_heads", "d_ff"))
        num_decoder_layers = chain.count_decoder_layers(given["decoder_type"], given["n_decoder_layers"])
        self.sizes = d_model, d_ff, given["gate_hidden_dim"]
        shape = d_model, n_heads, d_ff, given["dropout"]
        self.token = nn.Parameter(torch.randn(vocab_size, d_model) / math.sqrt(d_model))
        self.positions = sinusoid_table(given["max_seq_len"], d_model)
        self.dropout = nn.Dropout(given["dropout"])
        self.encoder = nn.ModuleList(PostNormBlock(*shape) for _ in range(given["n_encoder_layers"]))
        self.gate = MeanGate(d_model, given["gate_hidden_dim"])
        self.decoder = nn.ModuleList(PostNormBlock(*shape) for _ in range(num_decoder_layers))
        self.head = linear(d_model, vocab_size, bias=True)
        self.class_head = class_head(d_model, given["num_classes"])

    @property
    def output_weight(self) -> Tensor:
        """(V, D): logits are hidden @ output_weight' + output_bias."""
        return self.head.weight

    @property
    def output_bias(self) -> Tensor:
        """(V,)."""
        return self.head.bias

    def begin(self, tokens_BL: Tensor, real_BL: Tensor | None) -> Thought:
        """Embed the input and read the gate once; real is true at real tokens, None where nothing is padded."""
        x_BLD = nn.functional.embedding(tokens_BL, self.token) * math.sqrt(self.sizes[0])
        x_BLD = self.dropout(x_BLD + self.positions(tokens_BL.shape[1]))
        noise_B, pooled_BD = self.gate.start(x_BLD, real_BL)
        return Thought(x_BLD, noise_B, pooled_BD, x_BLD, real_BL)

    def advance(self, thought: Thought, noise_B: Tensor | None = None, fresh_BL: Tensor | None = None) -> Thought:
        """Recur once; the noise level is not used. Raises ValueError for fresh tokens, which nothing re-injects."""
        del noise_B
        if fresh_BL is not None:
            raise ValueError("fresh tokens have no way into a model that re-injects nothing")
        hidden_BLD, num_linked = thought.hidden_BLD, thought.num_linked
        if num_linked == self.backprop_steps:
            hidden_BLD, num_linked = hidden_BLD.detach(), 0
        hidden_BLD = self._run(self.encoder, hidden_BLD, thought.real_BL)
        noise_B, pooled_BD = self.gate.step(hidden_BLD, thought.real_BL, thought.noise_B, thought.pooled_BD)
        return Thought(hidden_BLD, noise_B, pooled_BD, thought.input_BLD, thought.real_BL, num_linked + 1)

    def read(self, hidden_BLD: Tensor, real_BL: Tensor | None) -> Tensor:
        """Return what the head reads, (B, L, D)."""
        return self._run(self.decoder, hidden_BLD, real_BL)

    def _run(self, blocks: nn.ModuleList, x_BLD: Tensor, real_BL: Tensor | None) -> Tensor:
        mask = attention_mask(real_BL)
        for block in blocks:
            if self.gradient_checkpointing and self.training:
                x_BLD = checkpoint(block, x_BLD, mask, use_reentrant=False)
            else:
                x_BLD = block(x_BLD, mask)
        return x_BLD

    def flops(self, length: int, steps: float, num_read: float) -> float:
        """Return the forward FLOPs of one text: `steps` recursions, one decoder pass, `num_read` rows at the head."""
        d_model, d_ff, gate_hidden = self.sizes
        block = flops.block_flops(length, d_model, d_ff)
        gate = flops.mean_gate_flops(d_model, gate_hidden)
        step = len(self.encoder) * block + gate
        head = flops.head_flops(num_read, d_model, self.token.shape[0])
        return gate + steps * step + len(self.decoder) * block + head


def _check(given: dict[str, Any]) -> None:
    """Refuse every parameter out of range, all at once."""
    problems: list[str] = []
    for key in ("vocab_size", "max_seq_len", "n_encoder_layers", "gate_hidden_dim"):
        problems += ranges.positive_integer(key, given[key])
    problems += ranges.integer("num_classes", given["num_classes"], least=0)
    problems += ranges.block(given["d_model"], given["n_heads"], given["d_ff"])
    problems += chain.check_decoder(given["decoder_type"], given["n_decoder_layers"])
    problems += chain.check_chain(given)
    ranges.refuse(problems)
