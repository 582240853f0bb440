"""Token and position embeddings of unit variance, tied to the output.

Shapes: B batch, T length, V vocabulary, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Embedding(nn.Module):
    """One token table for source, target and output, and a position table for each side.

    The tables start with variance 1/D, so that logits start with unit variance; what is read from them is scaled so
    that token plus position has unit variance per component, the size of a normalised state.
    """

    def __init__(self, vocab_size: int, max_seq_len: int, d_model: int, dropout: float) -> None:
        super().__init__()
        std = 1 / math.sqrt(d_model)
        self.token = nn.Parameter(torch.randn(vocab_size, d_model) * std)
        self.source_position = nn.Parameter(torch.randn(max_seq_len, d_model) * std)
        self.target_position = nn.Parameter(torch.randn(max_seq_len, d_model) * std)
        self.scale = math.sqrt(d_model / 2)
        self.dropout = nn.Dropout(dropout)

    def source(self, tokens_BS: Tensor) -> Tensor:
        """Embed a source from position 0: (B, S, D)."""
        position_SD = self.source_position[: tokens_BS.shape[1]]
        return self.dropout((nn.functional.embedding(tokens_BS, self.token) + position_SD) * self.scale)

    def target(self, tokens_BT: Tensor, start: int) -> Tensor:
        """Embed target tokens that stand at positions `start`, `start` + 1, ...: (B, T, D)."""
        position_TD = self.target_position[start : start + tokens_BT.shape[1]]
        return self.dropout((nn.functional.embedding(tokens_BT, self.token) + position_TD) * self.scale)
