"""Mask-predict (Ghazvininejad et al. 2019, arXiv 1904.09324): guess all, mask the least sure again, guess those again.

Only tokens that were masked to begin with are ever masked again. The original baseline started the given tokens at
confidence 0, so that its first iteration threw the context away.

Shapes: B samples, L length, D width, A samples still in work.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rtx_lab.core.errors import UsageError
from rtx_lab.inference.filling import Encodes, Filled, fill, hide, pick, put


@torch.no_grad()
def mask_predict(
    model: Encodes,
    tokens_BL: Tensor,
    masked_BL: Tensor,
    real_BL: Tensor | None,
    *,
    mask_id: int,
    num_iterations: int,
    keep_trace: bool = False,
) -> Filled:
    """Fill in the masked tokens in T = `num_iterations` passes, of which pass t = 0 .. T - 1 guesses n (T - t) // T.

    n is how many tokens of a sample were masked. From the second pass on the least sure of them are masked again; a
    token's confidence is that of its own latest guess. A sample leaves the batch when it has none left to guess again,
    so `steps` may be less than T. tokens (B, L) int64, masked (B, L) bool, real (B, L) bool or None where nothing is
    padded. Two host syncs at first, one a pass afterwards. Raises UsageError on fewer than one iteration.
    """
    if num_iterations < 1:
        raise UsageError(f"mask-predict needs at least one iteration, got {num_iterations}")
    observed_BL = hide(tokens_BL, masked_BL, mask_id)
    hidden_BLD = model.encode(observed_BL, real_BL)
    filled_BL, sure_BL = fill(model, hidden_BLD, observed_BL, masked_BL, mask_id)
    count_B = masked_BL.sum(1)
    state = Filled(tokens=filled_BL, steps=masked_BL.any(1).long(), num_read=count_B, hidden=hidden_BLD)
    trace, counts = [filled_BL], count_B.tolist()
    for iteration in range(1, num_iterations):
        quotas = {place: count * (num_iterations - iteration) // num_iterations for place, count in enumerate(counts)}
        quotas = {place: quota for place, quota in quotas.items() if quota}
        if not quotas:
            break
        index_A, quota_A = torch.tensor([[*quotas], [*quotas.values()]], device=tokens_BL.device)
        sure_BL = _guess_again(model, state, sure_BL, real_BL, index_A, quota_A, mask_id)
        trace.append(state.tokens)
    state.trace = trace if keep_trace else None
    return state


def _guess_again(
    model: Encodes,
    state: Filled,
    sure_BL: Tensor,
    real_BL: Tensor | None,
    index_A: Tensor,
    quota_A: Tensor,
    mask_id: int,
) -> Tensor:
    """Guess the least sure tokens of some samples once more; return all confidences (B, L)."""
    sure_AL = sure_BL[index_A]
    again_AL = least_sure(sure_AL, quota_A)
    tokens_AL = hide(state.tokens[index_A], again_AL, mask_id)
    hidden_ALD = model.encode(tokens_AL, pick(real_BL, index_A))
    tokens_AL, new_AL = fill(model, hidden_ALD, tokens_AL, again_AL, mask_id)
    state.tokens = put(state.tokens, index_A, tokens_AL)
    state.hidden = put(state.hidden, index_A, hidden_ALD)
    state.steps = state.steps.index_add(0, index_A, torch.ones_like(index_A))
    state.num_read = state.num_read.index_add(0, index_A, quota_A)
    return put(sure_BL, index_A, torch.where(again_AL, new_AL, sure_AL))


def least_sure(sure_AL: Tensor, quota_A: Tensor) -> Tensor:
    """Return (A, L) bool: the `quota` positions of each sample with the lowest confidence, earlier ones on a tie."""
    return sure_AL.argsort(dim=1, stable=True).argsort(dim=1) < quota_A[:, None]
