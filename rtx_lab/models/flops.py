"""Forward FLOPs in closed form, 2 for each multiply-add; only products count, as in torch.utils.flop_counter.

Letters: L length, D width, F inner width, V vocabulary, H heads and G hidden width of a gate.
"""

from __future__ import annotations


def block_flops(length: int, d_model: int, d_ff: int) -> int:
    """Return L (8 D^2 + 4 D F + 4 L D): self-attention over both sides and a feed-forward."""
    return length * (8 * d_model**2 + 4 * d_model * d_ff + 4 * length * d_model)


def head_flops(num_read: float, d_model: int, vocab_size: int) -> float:
    """Return 2 R D V, for R rows whose logits are read."""
    return 2 * num_read * d_model * vocab_size


def noise_flops(d_model: int, num_layers: int) -> int:
    """Return 4 D^2 + 8 n D^2: the noise embedding and the scales and shifts of n modulated blocks, once a recursion."""
    return 4 * d_model**2 + 8 * num_layers * d_model**2


def monotone_gate_flops(length: int, d_model: int, num_heads: int, d_hidden: int) -> int:
    """Return 4 L H D + 8 D^2 (pooling) + 4 D G + 4 G^2 + 2 G, for one state of one text."""
    pool = 4 * length * num_heads * d_model + 8 * d_model**2
    return pool + 4 * d_model * d_hidden + 4 * d_hidden**2 + 2 * d_hidden


def mean_gate_flops(d_model: int, d_hidden: int) -> int:
    """Return 2 D G + 2 G; a mean is no product."""
    return 2 * d_model * d_hidden + 2 * d_hidden
