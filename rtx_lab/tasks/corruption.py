"""What training hides from a denoiser: drawn on the host as a few numbers per sample, a pure function of (seed, step).

Only counts are drawn here. Which tokens they mean is decided on the device by one uniform number per token
(`rtx_lab.nn.masking`), so that all masks of a sample are nested and no mask is ever copied from the host.

Shapes: B samples, l chain steps, R rows that the loss reads per chain step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtx_lab.nn.masking import alpha, alpha_slope, masked_share

EARLIEST_TIME = 1e-5
"""The least time of a diffusion sample: the weight 1 / t stays finite, and the NELBO errs by less than that share."""


@dataclass(frozen=True, slots=True)
class Corruption:
    """How the samples of a step are corrupted, and what their losses count.

    visible (B, l+1) int64: maskable tokens that are visible in the input and after each chain step. noise (B, l+1):
    share of the noise that is left there, in [0, 1]. first (B, l) int64 and last (B, l) int64: the targets of a chain
    step are the tokens of rank first to last - 1 in the order of revealing. weight (B,): factor of each target's loss.
    size (B,): what the summed loss is divided by.
    """

    visible: np.ndarray
    noise: np.ndarray
    first: np.ndarray
    last: np.ndarray
    weight: np.ndarray
    size: np.ndarray

    def rows(self, index: np.ndarray) -> Corruption:
        """The corruption of some samples."""
        fields = (self.visible, self.noise, self.first, self.last, self.weight, self.size)
        return Corruption(*(field[index] for field in fields))

    def target_rank(self) -> np.ndarray:
        """(B, l, R) int64: the ranks of the targets, -1 where a sample has fewer than R."""
        most = max(1, int((self.last - self.first).max(initial=0)))
        rank = self.first[:, :, None] + np.arange(most)
        return np.where(rank < self.last[:, :, None], rank, -1)


def draw(model: Any, counts: np.ndarray, rng: np.random.Generator, progress: float) -> Corruption:
    """Draw the corruption of one optimizer step for the objective of `model`.

    counts (B,): maskable tokens per sample, all samples of the step, so that no draw depends on how it is cut.
    `progress` in [0, 1] tells how much of the model's warm-up of masks has passed (masking `scheduled`).
    """
    return OBJECTIVES[model.objective](model, np.asarray(counts, np.int64), rng, progress)


def most_targets(model: Any, num_maskable: int) -> tuple[int, int]:
    """The most chain steps, and the most targets of a chain step, that `draw` can give a sample of so many tokens."""
    if model.objective != "chain":
        return 1, num_maskable if model.objective != "mlm" else max(1, round(model.mask_ratio * num_maskable))
    if model.supervision == "all_masked" or model.masking == "random":
        return model.max_chain_length, num_maskable
    level = np.arange(model.total_steps + 1) / model.total_steps
    name = "linear" if model.masking == "scheduled" else model.masking
    visible = np.floor((1 - masked_share(name, level)) * num_maskable + 1e-9)
    return model.max_chain_length, max(1, int(-np.diff(visible).min()))


def _chain(model: Any, counts: np.ndarray, rng: np.random.Generator, progress: float) -> Corruption:
    """A chain of denoising steps: start s in {l..S}, then s-1, ..., s-l; l is one for the whole step.

    One length for all samples means that nobody computes recursions for others; over steps it is uniform.
    """
    total = model.total_steps
    length = int(rng.integers(model.min_chain_length, model.max_chain_length + 1))
    latest = total if model.masking != "scheduled" else max(length, round(progress * total))
    start = rng.integers(length, latest + 1, size=len(counts))
    level = start[:, None] - np.arange(length + 1)  # (B, l+1)
    share = masked_share("linear" if model.masking in ("random", "scheduled") else model.masking, level / total)
    if model.masking == "random":
        visible = _thinned(counts, share, rng)
    else:
        visible = np.floor((1 - share) * counts[:, None] + 1e-9).astype(np.int64)
    revealed = model.supervision == "newly_revealed"
    seen = visible[:, :-1] if revealed or model.commit else np.repeat(visible[:, :1], length, axis=1)
    last = visible[:, 1:] if revealed else np.repeat(counts[:, None], length, axis=1)
    return _finish(visible, level / total, seen, last)


def _thinned(counts: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Visible tokens when each token is masked on its own with probability `share`, nested from step to step."""
    masked = [rng.binomial(counts, share[:, 0])]
    for step in range(1, share.shape[1]):
        kept = np.divide(share[:, step], share[:, step - 1], out=np.zeros(len(counts)), where=share[:, step - 1] > 0)
        masked.append(rng.binomial(masked[-1], np.clip(kept, 0, 1)))
    return counts[:, None] - np.stack(masked, axis=1)


def _fixed_ratio(model: Any, counts: np.ndarray, rng: np.random.Generator, progress: float) -> Corruption:
    """MLM: the same share of every sample."""
    del rng, progress
    return _once(counts, np.maximum(np.round(model.mask_ratio * counts).astype(np.int64), counts > 0))


def _any_ratio(model: Any, counts: np.ndarray, rng: np.random.Generator, progress: float) -> Corruption:
    """CMLM: any number of masked tokens from one to all, equally often (Ghazvininejad et al. 2019)."""
    del model, progress
    return _once(counts, np.where(counts > 0, rng.integers(1, np.maximum(counts, 1) + 1), 0))


def _diffusion(model: Any, counts: np.ndarray, rng: np.random.Generator, progress: float) -> Corruption:
    """MDLM: times spread evenly over a step, each token masked with 1 - alpha(t), weight |alpha'| / (1 - alpha).

    The loss divided by all maskable tokens is the NELBO in nats per token (Sahoo et al. 2024, eq. 10): the sum over
    masked tokens is weighted, never their mean.
    """
    del progress
    place = rng.permutation(len(counts))
    time = EARLIEST_TIME + (1 - EARLIEST_TIME) * (place + rng.random()) / max(1, len(counts))
    masked = rng.binomial(counts, 1 - alpha(model.noise_schedule, time))
    weight = -alpha_slope(model.noise_schedule, time) / (1 - alpha(model.noise_schedule, time))
    found = _once(counts, masked)
    return Corruption(found.visible, found.noise, found.first, found.last, weight, counts.astype(np.float64))


def _once(counts: np.ndarray, masked: np.ndarray) -> Corruption:
    """One pass over `masked` tokens of each sample, all of them targets."""
    visible = np.stack([counts - masked, counts], axis=1)
    share = np.divide(masked, counts, out=np.zeros(len(counts)), where=counts > 0)
    return _finish(visible, np.stack([share, 0 * share], axis=1), visible[:, :1], visible[:, 1:])


def _finish(visible: np.ndarray, noise: np.ndarray, first: np.ndarray, last: np.ndarray) -> Corruption:
    size = (last - first).sum(1).astype(np.float64)
    return Corruption(visible, noise.astype(np.float64), first, last, np.ones(len(visible)), size)


OBJECTIVES: dict[str, Callable[[Any, np.ndarray, np.random.Generator, float], Corruption]] = {
    "chain": _chain,
    "mlm": _fixed_ratio,
    "cmlm": _any_ratio,
    "mdlm": _diffusion,
}
