"""The recursive core: transformer blocks whose norms are scaled and shifted by how much noise is left.

Shapes: B batch, L length, D width, N norms (two a block).
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu
from torch.utils.checkpoint import checkpoint

from rtx_lab.nn.attention import FeedForward, linear
from rtx_lab.nn.rotary import RotaryAttention, sinusoid


class NoiseEmbedding(nn.Module):
    """A sinusoid of the noise level, two linear maps around a SiLU."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.inner, self.outer = linear(d_model, d_model, bias=True), linear(d_model, d_model, bias=True)

    def forward(self, level_B: Tensor) -> Tensor:
        """Embed levels (B,) of any scale, usually 0 to the number of denoising steps: (B, D)."""
        wave_BD = sinusoid(level_B, self.d_model).to(self.inner.weight.dtype)
        return self.outer(silu(self.inner(wave_BD)))


def normalise(x_BLD: Tensor) -> Tensor:
    """Return the layer norm without parameters of each position."""
    return layer_norm(x_BLD, x_BLD.shape[-1:])


def modulate(x_BLD: Tensor, scale_BD: Tensor, shift_BD: Tensor) -> Tensor:
    """Return LN(x) (1 + scale) + shift, the norm without weights of its own (AdaLN)."""
    return normalise(x_BLD) * (1 + scale_BD[:, None]) + shift_BD[:, None]


class ModulatedBlock(nn.Module):
    """A pre-norm block whose norms are modulated from outside."""

    def __init__(self, d_model: int, num_heads: int, d_ff: int, dropout: float, *, num_layers: int) -> None:
        super().__init__()
        gain = 1 / math.sqrt(2 * num_layers)
        self.attention = RotaryAttention(d_model, num_heads, output_gain=gain)
        self.feed_forward = FeedForward(d_model, d_ff, dropout, output_gain=gain)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, modulation_B4D: Tensor, rotation: Tensor, mask: Tensor | None) -> Tensor:
        """`modulation_B4D`: scale and shift of the attention's norm, then of the feed-forward's."""
        scale_1, shift_1, scale_2, shift_2 = modulation_B4D.unbind(1)
        x_BLD = x_BLD + self.dropout(self.attention(modulate(x_BLD, scale_1, shift_1), rotation, mask))
        return x_BLD + self.dropout(self.feed_forward(modulate(x_BLD, scale_2, shift_2)))


class RecursiveCore(nn.Module):
    """The blocks that a recursive denoiser applies again and again.

    Scales and shifts of all norms come from one linear map of the noise embedding, computed once a recursion for each
    sample. It has as many parameters as a Linear(D, 2 D) for each norm and starts at zero, and nothing else reads the
    noise: an untrained core gives the same output at every noise level (DiT, 2212.09748; without its residual gates).
    """

    def __init__(self, d_model: int, num_layers: int, num_heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.noise_embedding = NoiseEmbedding(d_model)
        self.modulation = nn.Linear(d_model, num_layers * 4 * d_model)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.blocks = nn.ModuleList(
            ModulatedBlock(d_model, num_heads, d_ff, dropout, num_layers=num_layers) for _ in range(num_layers)
        )
        self.gradient_checkpointing = False

    def forward(self, x_BLD: Tensor, level_B: Tensor, rotation: Tensor, mask: Tensor | None) -> Tensor:
        """Apply all blocks once, at noise level (B,); no norm follows the last."""
        modulation = self.modulation(self.noise_embedding(level_B)).view(x_BLD.shape[0], -1, 4, x_BLD.shape[-1])
        for block, modulation_B4D in zip(self.blocks, modulation.unbind(1), strict=True):
            if self.gradient_checkpointing and self.training:
                x_BLD = checkpoint(block, x_BLD, modulation_B4D, rotation, mask, use_reentrant=False)
            else:
                x_BLD = block(x_BLD, modulation_B4D, rotation, mask)
        return x_BLD
