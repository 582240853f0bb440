"""When a sample stops reasoning: after a fixed number of steps, at a threshold, or by learned probabilities.

All steps are always computed, for every sample alike, and each sample's state is then taken at its own depth: no host
sync, no branch on data, and a sample halts in a batch exactly as it does alone.

Shapes: B batch, N slots, D width, K most reasoning steps, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rtx_lab.core.errors import UsageError
from rtx_lab.nn.attention import linear

HALTINGS = ("none", "threshold", "ponder")
CRITERIA = ("readout_kl", "state_change", "absolute")
EPSILON = 1e-8

Measure = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(kw_only=True)
class Trace:
    """What the reasoning steps left behind for halting to judge."""

    changes_BK: Tensor
    """How much each step changed the state, by the criterion's measure."""
    pooled_KBD: Tensor
    """(K+1, B, D) the readout's summary of the state after 0..K steps."""
    log_probs_KBV: Tensor
    """(K+1, B, V) the readout's log-probabilities of the first answer token."""
    uniform_B: Tensor
    """In [0, 1): where a random depth is drawn from."""


@dataclass(kw_only=True)
class Halt:
    """Where every sample halts."""

    steps: Tensor
    """(B,) int64 in 1..K."""
    expected_steps: Tensor | None = None
    """(B,) differentiable."""
    scores: Tensor | None = None
    """(B, K) what the threshold is compared with."""
    halting: Tensor | None = None
    """(B, K) probability to halt after step 1..K."""


class Readout(nn.Module):
    """A guess of the first answer token from the state alone, cheap enough to make after every step."""

    def __init__(self, d_model: int, num_queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_queries, d_model) / math.sqrt(d_model))
        self.summary = linear(num_queries * d_model, d_model)
        self.norm = nn.LayerNorm(d_model)

    def pool(self, h_BND: Tensor) -> Tensor:
        """Summarise the slots, each query by its own weighted mean: (B, D) of unit variance."""
        weight_BQN = torch.softmax((h_BND @ self.queries.mT).mT, dim=-1)
        return self.norm(self.summary((weight_BQN @ h_BND).flatten(1)))

    def forward(self, pooled_KBD: Tensor, weight_VD: Tensor) -> Tensor:
        """Return log-probabilities over the vocabulary, in float32 also under autocast: (K+1, B, V)."""
        return torch.log_softmax(pooled_KBD @ weight_VD.mT, dim=-1)


def build_measure(criterion: str) -> Measure:
    """Return the function (previous, update, new state) -> (B,) that the criterion needs at every step."""
    match criterion:
        case "absolute":
            return _update_size
        case "state_change":
            return _relative_change
        case "readout_kl":
            return _not_measured
        case _:
            raise UsageError(f"model.halting_criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")


def _update_size(previous_BND: Tensor, update_BND: Tensor, new_BND: Tensor) -> Tensor:
    """Largest norm of a slot's update: the original criterion, out of reach for a normalised state."""
    return _slot_norms(update_BND).amax(1)


def _relative_change(previous_BND: Tensor, update_BND: Tensor, new_BND: Tensor) -> Tensor:
    """Largest change of a slot after the norm, relative to the slot before it."""
    return (_slot_norms(new_BND - previous_BND) / (_slot_norms(previous_BND) + EPSILON)).amax(1)


def _not_measured(previous_BND: Tensor, update_BND: Tensor, new_BND: Tensor) -> Tensor:
    return new_BND.new_zeros(new_BND.shape[0])


def _slot_norms(h_BND: Tensor) -> Tensor:
    wide = torch.promote_types(h_BND.dtype, torch.float32)
    return torch.linalg.vector_norm(h_BND, dim=-1, dtype=wide)


def readout_change(log_probs_KBV: Tensor) -> Tensor:
    """KL(p_t || p_{t-1}) of the readout after step t = 1..K: (B, K), in nats."""
    new, previous = log_probs_KBV[1:], log_probs_KBV[:-1]
    return (new.exp() * (new - previous)).sum(-1).clamp_min(0).T


class FixedHalting(nn.Module):
    """Every sample takes all steps: `halting: none`, and `fixed_steps`."""

    def forward(self, trace: Trace) -> Halt:
        batch, num_steps = trace.changes_BK.shape
        return Halt(steps=torch.full((batch,), num_steps, device=trace.changes_BK.device))

    def supervision(self, halting_BK: Tensor | None, nll_KB: Tensor, readout_weight: float) -> Tensor:
        """Weighted mean over all steps of the readout's loss: (B,)."""
        return readout_weight * nll_KB.mean(0)


class ThresholdHalting(nn.Module):
    """Stop after the first step whose score is at most `threshold`, or after the last.

    In training the depth is drawn uniformly from 1..K, so that every depth becomes a usable exit; the expected number
    of steps uses sigmoid(log score - log threshold) as the probability to go on, which has a gradient.
    """

    def __init__(self, criterion: str, threshold: float) -> None:
        super().__init__()
        self.criterion, self.threshold = criterion, threshold

    def forward(self, trace: Trace) -> Halt:
        match self.criterion:
            case "readout_kl":
                scores_BK = readout_change(trace.log_probs_KBV)
            case _:
                scores_BK = trace.changes_BK
        going_on = torch.sigmoid((scores_BK + EPSILON).log() - math.log(self.threshold))
        expected_B = 1 + going_on[:, :-1].cumprod(1).sum(1)
        if self.training:
            steps_B = 1 + (trace.uniform_B * scores_BK.shape[1]).long()
        else:
            steps_B = 1 + (scores_BK[:, :-1] > self.threshold).long().cumprod(1).sum(1)
        return Halt(steps=steps_B, expected_steps=expected_B, scores=scores_BK)

    def supervision(self, halting_BK: Tensor | None, nll_KB: Tensor, readout_weight: float) -> Tensor:
        """Weighted mean over all steps of the readout's loss: (B,)."""
        return readout_weight * nll_KB.mean(0)


class PonderHalting(nn.Module):
    """Learned halting probabilities (PonderNet, arXiv 2107.05407).

    lambda_t is read from the summary of the state; p_t = lambda_t prod over s < t of (1 - lambda_s), and whoever has
    not halted before step K halts there. Training draws the depth from p; evaluation halts where the sum of p passes
    one half. The regulariser is KL(p || geometric prior cut at K in the same way, of mean `target_steps`).
    """

    prior: Tensor

    def __init__(self, d_model: int, max_steps: int, target_steps: float, weight: float) -> None:
        super().__init__()
        self.weight = weight
        rate = geometric_rate(max_steps, target_steps)
        self.rate = linear(d_model, 1, gain=0.1, bias=True)
        nn.init.constant_(self.rate.bias, math.log(rate) - math.log1p(-rate))
        steps = torch.arange(max_steps)
        prior = rate * (1 - rate) ** steps
        prior[-1] = (1 - rate) ** (max_steps - 1)
        self.register_buffer("prior", prior, persistent=False)

    def forward(self, trace: Trace) -> Halt:
        logits_KB = self.rate(trace.pooled_KBD[1:]).squeeze(-1)
        rate_BK = torch.sigmoid(logits_KB.to(torch.promote_types(logits_KB.dtype, torch.float32))).T
        going_on = (1 - rate_BK[:, :-1]).cumprod(1)
        reached = torch.cat([torch.ones_like(rate_BK[:, :1]), going_on], dim=1)
        halting_BK = torch.cat([reached[:, :-1] * rate_BK[:, :-1], reached[:, -1:]], dim=1)
        bar_B1 = trace.uniform_B[:, None] if self.training else torch.full_like(rate_BK[:, :1], 0.5)
        steps_B = 1 + (halting_BK.detach().cumsum(1)[:, :-1] <= bar_B1).sum(1)
        return Halt(steps=steps_B, expected_steps=reached.sum(1), halting=halting_BK)

    def supervision(self, halting_BK: Tensor | None, nll_KB: Tensor, readout_weight: float) -> Tensor:
        """Weighted expected loss of the readout where the sample halts, and divergence from the prior: (B,)."""
        assert halting_BK is not None
        log_ratio_BK = (halting_BK + EPSILON).log() - (self.prior + EPSILON).log()
        expected_B = (halting_BK * nll_KB[1:].T).sum(1)
        return readout_weight * expected_B + self.weight * (halting_BK * log_ratio_BK).sum(1)


def build_halting(
    halting: str,
    *,
    criterion: str,
    threshold: float,
    d_model: int,
    max_steps: int,
    target_steps: float,
    ponder_weight: float,
) -> FixedHalting | ThresholdHalting | PonderHalting:
    """Return the named way to halt; raises UsageError on an unknown name."""
    match halting:
        case "none":
            return FixedHalting()
        case "threshold":
            return ThresholdHalting(criterion, threshold)
        case "ponder":
            return PonderHalting(d_model, max_steps, target_steps, ponder_weight)
        case _:
            raise UsageError(f"model.halting must be one of {', '.join(HALTINGS)}, got {halting!r}")


def geometric_rate(max_steps: int, target_steps: float) -> float:
    """The rate at which a geometric distribution that ends at `max_steps` has mean `target_steps` (bisection)."""
    target = min(max(target_steps, 1.0), max_steps)
    low, high = 1e-6, 1 - 1e-6
    for _ in range(60):
        middle = (low + high) / 2
        mean = (1 - (1 - middle) ** max_steps) / middle
        low, high = (middle, high) if mean > target else (low, middle)
    return low


def take_at_depth(states: list[Tensor], steps_B: Tensor) -> Tensor:
    """Return the state of every sample b after its own steps_b steps, at least one; `states` start with step 0."""
    states_BKND = torch.stack(states[1:], dim=1)
    batch, num_steps = states_BKND.shape[:2]
    rows_B = torch.arange(batch, device=steps_B.device) * num_steps + steps_B - 1
    return states_BKND.flatten(0, 1).index_select(0, rows_B)
