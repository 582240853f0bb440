"""A head for classes beside a denoiser's own: what a second loss needs of a model.

A denoiser with `num_classes` above 0 owns a `ClassHead` as its `class_head`, so that checkpoints, exports and the
optimizer know it as any other part; without, it is None and the model is what it was.

Shapes: B batch, L length, D width, C classes.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rtx_lab.nn.attention import linear
from rtx_lab.nn.gates import masked_mean


class ClassHead(nn.Module):
    """The mean over the real positions of a text, then one linear map with a bias."""

    def __init__(self, d_model: int, num_classes: int) -> None:
        super().__init__()
        self.output = linear(d_model, num_classes, bias=True)

    def forward(self, states_BLD: Tensor, real_BL: Tensor | None) -> Tensor:
        """Return logits (B, C)."""
        return self.output(masked_mean(states_BLD, real_BL))


def class_head(d_model: int, num_classes: int) -> ClassHead | None:
    """Return a head for so many classes, None for 0."""
    return ClassHead(d_model, num_classes) if num_classes else None


def class_logits(model: Any, tokens_BL: Tensor, real_BL: Tensor | None) -> Tensor:
    """Return logits (B, C) of whole texts, of which nothing is hidden.

    A recursive denoiser recurs `max_chain_length` times, at the noise that its own gate sees, the same in training and
    in evaluation; a single-pass model passes once. real (B, L) is true at real tokens, None where nothing is padded.
    """
    if model.objective != "chain":
        return model.class_head(model.encode(tokens_BL, real_BL), real_BL)
    thought = model.begin(tokens_BL, real_BL)
    for _ in range(model.max_chain_length):
        thought = model.advance(thought, None, None)
    return model.class_head(model.read(thought.hidden_BLD, real_BL), real_BL)
