"""Where latents come from: woven, learnt, or drawn at random with the size of woven ones; see `latent_rows.Source`.

Shapes: N rows that insert now, K latents, D width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rtx_lab.inference.latent_rows import NUM_TRACED
from rtx_lab.models.latent_reading import Reading
from rtx_lab.nn.masking import hashed_normal


def woven(model: Any, reading: Reading, kind: str, seed_N: Tensor) -> tuple[Tensor, Tensor]:
    """What the weaver makes of the text so far."""
    latents_NKD = model.weave(reading, kind)
    return latents_NKD, _not_searched(latents_NKD)


def noise(model: Any, reading: Reading, kind: str, seed_N: Tensor) -> tuple[Tensor, Tensor]:
    """Random directions, each with the norm of the latent that would have been woven in its place."""
    woven_NKD = model.weave(reading, kind)
    place_N = reading.reader.real_BL.sum(1)
    drawn = hashed_normal(seed_N * 1_000_003 + place_N, woven_NKD[0].numel()).view_as(woven_NKD)
    norm_NK1 = woven_NKD.norm(dim=-1, keepdim=True)
    return (drawn / drawn.norm(dim=-1, keepdim=True) * norm_NK1).to(woven_NKD), _not_searched(woven_NKD)


def learnt(model: Any, reading: Reading, kind: str, seed_N: Tensor) -> tuple[Tensor, Tensor]:
    """The same learnt embeddings for every text (prompt tuning): behind the prompt alone."""
    del reading, kind
    learnt_NKD = model.learnt.expand(len(seed_N), -1, -1)
    return learnt_NKD, _not_searched(learnt_NKD)


def drawn_latents(model: Any, kind: str, seed_N: Tensor) -> Tensor:
    """Random directions (N, K, D) of the size that woven latents have on average, whatever was read."""
    shape = len(seed_N), *model.queries[kind].shape
    drawn = hashed_normal(seed_N, shape[1] * shape[2]).view(shape)
    return drawn / drawn.norm(dim=-1, keepdim=True) * (model.size * model.gain.detach().norm())


def _not_searched(latents_NKD: Tensor) -> Tensor:
    return latents_NKD.new_zeros(len(latents_NKD), NUM_TRACED)
