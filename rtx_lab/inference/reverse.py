"""The reverse process of masked diffusion (MDLM, Sahoo et al. 2024, arXiv 2406.07524), given the observed tokens.

From t = 1, where everything that is to be filled in is masked, to t = 0 in T uniform steps. A step from t to s reveals
each token that is still masked with probability (alpha_s - alpha_t) / (1 - alpha_t); a revealed token is drawn from the
network's distribution without the mask token and is kept from then on (SUBS). The published baseline's sampler revealed
with probability 1 - alpha_t, which at t = 1 is everything at once.

Which step reveals a token does not depend on the network: a token with one uniform number u is masked at time t while
u < 1 - alpha_t, which reveals it with just that probability, independently of the others. So the whole plan is known at
the start and costs the only host sync. Choices are drawn by hashed Gumbel noise of (seed, position, token), a token
being drawn once: a sample in a batch gets what it gets alone.

Shapes: B samples, L length, D width, V vocabulary, T steps, A samples that a step runs, M tokens that it reveals.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rtx_lab.core.errors import UsageError
from rtx_lab.inference.filling import Encodes, Filled, hide, pick, put
from rtx_lab.models.masked_lm import SAMPLERS
from rtx_lab.nn.cross_entropy import logit_chunks
from rtx_lab.nn.hashing import GOLDEN, scramble, shift_right
from rtx_lab.nn.masking import CHOICES, REVEALS, alpha, hashed_uniform, hashed_words


@torch.no_grad()
def reverse_diffusion(
    model: Encodes,
    tokens_BL: Tensor,
    masked_BL: Tensor,
    real_BL: Tensor | None,
    seed_B: Tensor,
    *,
    mask_id: int,
    num_steps: int,
    sampler: str = "ancestral",
    noise_schedule: str = "linear",
    keep_trace: bool = False,
) -> Filled:
    """Fill in the masked tokens by `num_steps` reverse steps.

    tokens (B, L) int64, masked (B, L) bool, real (B, L) bool or None where nothing is padded, seed (B,) int64.
    `sampler`: ancestral runs the network at every step for every sample that still has a mask; cached runs it only
    where the step reveals something, which gives the same tokens, since the network is not told the time. `steps` are
    the passes that each sample took, `hidden` is what its last one gave. Raises UsageError on unknown names.
    """
    if num_steps < 1:
        raise UsageError(f"the reverse process needs at least one step, got {num_steps}")
    turn_BL = reveal_steps(seed_B, masked_BL, num_steps, noise_schedule).cpu().numpy()
    runs_TB = _runs(sampler, turn_BL, num_steps)
    word_BL = hashed_words(seed_B, tokens_BL.shape[1], CHOICES)
    written_BL, trace = hide(tokens_BL, masked_BL, mask_id), []
    hidden_BLD = model.output_weight.new_zeros(*tokens_BL.shape, model.output_weight.shape[1])
    for step, runs_B in enumerate(runs_TB):
        if runs_B.any():
            hidden_BLD = _look(model, written_BL, real_BL, hidden_BLD, runs_B)
            written_BL = _reveal(model, written_BL, hidden_BLD, word_BL, turn_BL == step, mask_id)
        if keep_trace:
            trace.append(written_BL)
    return Filled(
        tokens=written_BL,
        steps=torch.from_numpy(runs_TB.sum(0)).to(tokens_BL.device),
        num_read=masked_BL.sum(1),
        hidden=hidden_BLD,
        trace=trace if keep_trace else None,
    )


def _look(model: Encodes, written_BL: Tensor, real_BL: Tensor | None, hidden_BLD: Tensor, runs_B: np.ndarray) -> Tensor:
    """Run the network for some samples; return what it gave last for each, (B, L, D)."""
    index_A = torch.from_numpy(np.flatnonzero(runs_B)).to(written_BL.device)
    return put(hidden_BLD, index_A, model.encode(written_BL[index_A], pick(real_BL, index_A)))


def _reveal(
    model: Encodes, written_BL: Tensor, hidden_BLD: Tensor, word_BL: Tensor, revealed_BL: np.ndarray, mask_id: int
) -> Tensor:
    """Draw the tokens of one step; return the texts with them."""
    row_M = torch.from_numpy(np.flatnonzero(revealed_BL)).to(written_BL.device)
    token_M = draw(model, hidden_BLD.flatten(0, 1)[row_M], word_BL.flatten()[row_M], mask_id)
    return written_BL.flatten().index_copy(0, row_M, token_M).view_as(written_BL)


def reveal_steps(seed_B: Tensor, masked_BL: Tensor, num_steps: int, noise_schedule: str) -> Tensor:
    """Return (B, L) int64: the step 0 .. T - 1 that reveals each masked token, -1 where it is not masked."""
    share_T = 1 - alpha(noise_schedule, 1 - np.arange(1, num_steps + 1) / num_steps)
    share_T[-1] = 0  # the last step leaves no mask
    rising_T = torch.from_numpy(share_T[::-1].astype(np.float32)).to(seed_B.device)
    uniform_BL = hashed_uniform(seed_B, masked_BL.shape[1], REVEALS)
    step_BL = num_steps - torch.searchsorted(rising_T, uniform_BL, right=True)
    return torch.where(masked_BL, step_BL, -1)


def _runs(sampler: str, turn_BL: np.ndarray, num_steps: int) -> np.ndarray:
    """Which samples the network is run for at each step: (T, B) bool."""
    match sampler:
        case "ancestral":
            return np.arange(num_steps)[:, None] <= turn_BL.max(1, initial=-1)
        case "cached":
            runs_TB = np.zeros((num_steps, len(turn_BL)), dtype=bool)
            sample_N, position_N = np.nonzero(turn_BL >= 0)
            runs_TB[turn_BL[sample_N, position_N], sample_N] = True
            return runs_TB
        case _:
            raise UsageError(f"model.sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")


def draw(model: Encodes, rows_MD: Tensor, word_M: Tensor, mask_id: int) -> Tensor:
    """Draw a token for each row from softmax of its logits without the mask token: (M,) int64.

    word_M int64: the random bits of each row.
    """
    tokens = []
    for chunk, logits_CV in logit_chunks(rows_MD, model.output_weight, model.output_bias, mask_id):
        tokens.append((logits_CV + hashed_gumbel(word_M[chunk], logits_CV.shape[1])).argmax(1))
    return torch.cat(tokens)


def hashed_gumbel(word_M: Tensor, vocab_size: int) -> Tensor:
    """Return (M, V) float32 of the Gumbel distribution, a hash of the row's word and the id.

    -log(-log(1 - u)) with u of 53 bits: large values come from u near 0, where a float32 is dense. From 24 bits near 1
    the tail ends at 16.6, which lowers the temperature of what is drawn (Zheng et al. 2024, arXiv 2409.02908).
    """
    id_V = torch.arange(1, vocab_size + 1, device=word_M.device)
    bits_MV = shift_right(scramble(word_M[:, None] + id_V * GOLDEN), 11)
    uniform_MV = ((bits_MV.float() + 0.5) / (1 << 53)).clamp_max(1 - 2**-24)
    return -torch.log(-torch.log1p(-uniform_MV))
