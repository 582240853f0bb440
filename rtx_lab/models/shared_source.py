"""Beams that read their source from one copy of its keys and values.

transformers keeps those of every beam apart, computes each anew at the start, and moves all of them whenever beams
change places, though the beams of a sample share one source. Here they are made once a sample and stay; the beams of a
sample stand in the attention as that many queries.

Shapes: B samples, N beams, H heads, T queries, S keys, D width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

NAME = "rtx_lab_shared_source"


def use_shared_source(network: Any) -> None:
    """Let a BART of transformers attend this way, and otherwise as it does; T5 and mT5 have `shared_bias`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    network.set_attn_implementation(NAME)


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Return (B N, T, H, .) for queries (B N, H, T, .) and keys (B, H, S, .); transformers' own where N is 1."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    num_beams = query.shape[0] // key.shape[0]
    if num_beams == 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    together, mask = gathered(query, attention_mask, num_beams)
    found, _ = sdpa_attention_forward(module, together, key, value, mask, **options)
    return spread(found.transpose(1, 2), num_beams).transpose(1, 2), None


def gathered(query: Tensor, mask: Tensor | None, num_beams: int) -> tuple[Tensor, Tensor | None]:
    """Queries (B N, H, T, .) as (B, H, N T, .), and a mask (B N, 1, T, S), alike for all queries, as (B, 1, 1, S)."""
    together = query.unflatten(0, (-1, num_beams)).transpose(1, 2).flatten(2, 3)
    return together, None if mask is None else mask[::num_beams, :, :1]


def spread(found: Tensor, num_beams: int) -> Tensor:
    """What `gathered` queries found, (B, H, N T, .), as (B N, H, T, .)."""
    return found.unflatten(2, (num_beams, -1)).transpose(1, 2).flatten(0, 1)


def read_source(network: Any, states_BSD: Tensor) -> Any:
    """The cache that a decoder begins with: its keys and values of the source, (B, H, S, .) in every layer."""
    from transformers import DynamicCache, EncoderDecoderCache

    source: Any = DynamicCache()
    for number, (heads, to_key, to_value) in enumerate(_layers(network.get_decoder())):
        pair = (layer(states_BSD).unflatten(2, (heads, -1)).transpose(1, 2) for layer in (to_key, to_value))
        source.update(*pair, number)
    source.reorder_cache = _keep
    return EncoderDecoderCache(DynamicCache(), source)


def _layers(decoder: Any) -> list[tuple[int, Any, Any]]:
    """Heads, keys and values of each layer's attention to the source."""
    if hasattr(decoder, "block"):
        found = [block.layer[1].EncDecAttention for block in decoder.block]
        return [(one.n_heads, one.k, one.v) for one in found]
    return [(one.num_heads, one.k_proj, one.v_proj) for one in (layer.encoder_attn for layer in decoder.layers)]


def _keep(beam_idx: Tensor) -> None:
    """Beams change places within their sample, which has one source."""
    del beam_idx
