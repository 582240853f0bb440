"""Free generation: greedy and beam search, batched over samples, with a key-value cache.

Shapes: B samples, W beams, T generated tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtx_lab.nn.attention import DecoderCache
from rtx_lab.nn.memory import Memory


@torch.no_grad()
def generate_greedy(model, memory: Memory, *, start_id: int, eos_id: int, pad_id: int, max_tokens: int) -> Tensor:
    """Return the most likely token at every position, up to and including eos, then pad: (B, T) int64, T <= max_tokens.

    Ends early when every sample has ended, which costs one host sync a token.
    """
    batch = memory.steps.shape[0]
    tokens_B1 = torch.full((batch, 1), start_id, device=memory.steps.device)
    ended_B = torch.zeros(batch, dtype=torch.bool, device=memory.steps.device)
    cache, produced = DecoderCache(), []
    for position in range(max_tokens):
        hidden_B1D = model.decode(memory, tokens_B1, cache, position)
        chosen_B = (hidden_B1D[:, -1] @ model.output_weight.mT).argmax(-1)
        chosen_B = torch.where(ended_B, pad_id, chosen_B)
        produced.append(chosen_B)
        ended_B = ended_B | (chosen_B == eos_id)
        if ended_B.all():
            break
        tokens_B1 = chosen_B[:, None]
    return torch.stack(produced, dim=1)
