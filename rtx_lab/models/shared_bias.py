"""Attention for T5 and mT5 whose relative positions meet the mask once a stack, not once a layer.

All layers of a stack share one position bias (1, H, T, S) and one mask; transformers adds the two in every layer, and
each sum (B, H, T, S) stays in memory until the backward pass. Here the first layer's sum serves all. Attention to the
source has no positions (transformers adds zeros): there the mask (B, 1, 1, S) is enough.

Shapes: B batch, H heads, T queries, S keys.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rtx_lab.models.shared_source import gathered, spread

NAME = "rtx_lab_shared_bias"


def use_shared_bias(network: Any) -> None:
    """Let a T5 or mT5 of transformers attend this way; its masks stay those of its usual attention."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    network.set_attn_implementation(NAME)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Return (B, T, H, .) for (B, H, T, .) as transformers asks for it; the mask is true where a key is seen."""
    assert position_bias is not None
    to_source = module.is_decoder and not module.is_causal
    causal = module.is_causal and query.shape[2] > 1
    bias = attention_mask if to_source else _summed(position_bias, attention_mask, causal, query.dtype)
    num_beams = query.shape[0] // key.shape[0]  # more than one only where beams share their source
    if num_beams > 1:
        query, bias = gathered(query, bias, num_beams)
    found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scaling)
    if num_beams > 1:
        found = spread(found, num_beams)
    return found.transpose(1, 2).contiguous(), None


def _summed(bias: Tensor, mask: Tensor | None, causal: bool, dtype: torch.dtype) -> Tensor:
    """The bias, and the least number of `dtype` where nothing is seen; kept with the bias for the layers behind."""
    kept = getattr(bias, "_with_mask", None)
    if kept is not None and kept[0] is mask and kept[1].dtype is dtype:
        return kept[1]
    seen = mask
    if seen is None and causal:
        seen = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).tril()
    if seen is None:
        return bias
    total = torch.where(seen, bias.to(dtype), torch.finfo(dtype).min)
    bias._with_mask = (mask, total)  # type: ignore[attr-defined]
    return total
