"""A growing text as a network has read it: keys and values of every place, and which places are real.

Rows of a batch may stand at different lengths; places that are no text (padding) are seen by nobody. A stream is never
changed in place by a look ahead: `fork` shares what was read so far.

Shapes: B rows, L places read, T places that are read now, D width.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(slots=True)
class Stream:
    """What has been read: the cache of transformers, and which of its places are real (B, L)."""

    cache: Any
    real_BL: Tensor

    def fork(self) -> Stream:
        """A stream that goes on from here on its own; keys and values read so far are shared."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        return Stream(cache, self.real_BL)

    def select(self, index: Tensor) -> Stream:
        """The rows `index`, in that order; rows may be repeated."""
        chosen = self.fork()
        for layer in chosen.cache.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys[index], layer.values[index]
        chosen.real_BL = self.real_BL[index]
        return chosen

    def lengthen(self, places: int) -> None:
        """Stand as if so many more places had been read; for prices, since nothing was."""
        for layer in self.cache.layers:
            layer.keys, layer.values = (F.pad(read, (0, 0, 0, places)) for read in (layer.keys, layer.values))
        self.real_BL = F.pad(self.real_BL, (0, places), value=True)


def begin(num_rows: int, device: torch.device) -> Stream:
    """A stream of which nothing has been read."""
    return Stream(_cache_class()(), torch.zeros(num_rows, 0, dtype=torch.bool, device=device))


@functools.cache
def _cache_class() -> type:
    from transformers import DynamicCache

    class NarrowCache(DynamicCache):
        """Keeps keys in the type of the values: under autocast, rotation makes float32 keys, and attention would round
        all of them to bfloat16 again in every step."""

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            return super().update(key_states.to(value_states.dtype), value_states, *args, **kwargs)

    return NarrowCache


def read(body: Any, stream: Stream, x_BTD: Tensor, real_BT: Tensor) -> Tensor:
    """Read T more places and return their last hidden states (B, T, D), behind the final norm.

    `body` is a transformers model without its head. Positions count real places. No step waits for the device.
    """
    before = stream.real_BL.sum(1)
    past = stream.real_BL.shape[1]
    stream.real_BL = torch.cat([stream.real_BL, real_BT], dim=1)
    position_BT = (before[:, None] + real_BT.long().cumsum(1) - 1).clamp_min(0)
    place_L = torch.arange(stream.real_BL.shape[1], device=x_BTD.device)
    own_T = place_L[past:]
    # padding sees itself, so that no row of the attention is empty
    seen_BTL = (stream.real_BL[:, None] & (place_L <= own_T[:, None])) | (place_L == own_T[:, None])
    found = body(
        inputs_embeds=x_BTD, attention_mask=seen_BTL[:, None], position_ids=position_BT,
        past_key_values=stream.cache, use_cache=True,
    )  # fmt: skip
    return found.last_hidden_state
