"""Latents that are improved while an answer is written: steps towards latents behind which the reader is surer.

LTPO (arXiv 2510.04182) on woven latents M0. The reward is read off the reader's own predictions behind each latent. In
every step candidates are scored in one batch over rows and candidates, on the keys and values of what was read before:
a step reads K places of each and nothing else. In units of the size of token embeddings, where M is where the search
stands and u is a standard normal draw, a candidate is A = M + sigma u, and M moves by lr times

    reinforce     mean of R(A) u / sigma                  the original; with one candidate almost a random walk
    baseline      the same with the rewards' mean subtracted
    antithetic    the same with pairs of +u and -u
    autograd      the reward's own gradient, through Adam; the first candidate is M itself, others are noisy

Deviations from the original: every row has a reward, a best and an end of its own; what is kept is a candidate that was
scored, M0 among them, so the reward never falls (the original keeps the point behind the update, which nobody scored);
lr and sigma count sizes of an embedding (the original's are absolute, for latents of size 1 to 2);
the latents' places alone are scored (the original takes one more); no gradient is needed around the call.

Shapes: N rows that insert, S candidates of a row, K latents, D width, V vocabulary, R candidates in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtx_lab.core.repeats import repeated
from rtx_lab.core.sections import Ltpo
from rtx_lab.inference.confidence import Objective, objective_of
from rtx_lab.inference.latent_rows import Source
from rtx_lab.inference.latents import woven
from rtx_lab.models import latent_stream
from rtx_lab.models.latent_reading import Reading
from rtx_lab.models.latent_stream import Stream
from rtx_lab.nn.masking import hashed_normal

MOST_LOGITS = 1 << 26
"""Logits of one pass; more candidates are scored in several."""
ADAM_MEAN, ADAM_SQUARE, ADAM_LEAST = 0.9, 0.999, 1e-8
LEAST_NORM = 1e-30


def score(model: Any, stream: Stream, x_RKD: Tensor, objective: Objective) -> Tensor:
    """Rewards (R,) of latents behind the rows of `stream`, which stays as it is."""
    real_RK = torch.ones(x_RKD.shape[:2], dtype=torch.bool, device=x_RKD.device)
    with model.role.play(model.reader_role):
        hidden_RKD = latent_stream.read(model.network.model, stream.fork(), x_RKD, real_RK)
    return objective(model.logits(hidden_RKD))


def climb(model: Any, stream: Stream, x_RKD: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """Rewards (R,) as `score` gives them, and their gradients (R, K, D), also where gradients are off."""
    with torch.enable_grad():
        x_RKD = x_RKD.detach().requires_grad_()
        reward_R = score(model, stream, x_RKD, objective)
        (slope_RKD,) = torch.autograd.grad(reward_R.sum(), x_RKD)
    return reward_R.detach(), slope_RKD


def improved(settings: Ltpo) -> Source:
    """Woven latents that are then improved, and per row: reward of the woven ones, best reward, how far the best is
    from the woven ones as a share of their norm, steps taken, and 1 for this search. Behind sentences they stay as
    woven, with zeros, where only those behind the prompt are to be improved."""

    @torch.no_grad()
    def source(model: Any, reading: Reading, kind: str, seed_N: Tensor) -> tuple[Tensor, Tensor]:
        latents_NKD, nothing_N5 = woven(model, reading, kind, seed_N)
        if settings.where == "prompt" and kind != "prompt":
            return latents_NKD, nothing_N5
        return search(settings, model, reading.reader, latents_NKD, seed_N)

    return source


def rehearse(settings: Ltpo, model: Any, stream: Stream, start_NKD: Tensor) -> None:
    """Read what `search` reads in its steps, once for all of them, without a choice that depends on what is read."""
    row_N = torch.arange(len(start_NKD), device=start_NKD.device)
    x_NSKD = start_NKD[:, None].repeat(1, settings.num_candidates, 1, 1)
    read = _climbed if _has_slope(settings) and settings.max_steps else _scored
    with repeated(max(1, settings.max_steps)):
        read(model, stream, row_N, x_NSKD, objective_of(settings))


@dataclass(slots=True)
class _Search:
    """Where the search of every row stands."""

    unit: Tensor
    """Size of a token's embedding, in which lr and sigma are given."""
    origin_N: Tensor
    start_NKD: Tensor
    center_NKD: Tensor
    mean_NKD: Tensor
    square_NKD: Tensor
    best_NKD: Tensor
    reward_N: Tensor
    """The best so far."""
    waited_N: Tensor
    """Steps since it was found."""
    steps_N: Tensor


def _begun(unit: Tensor, stream: Stream, start_NKD: Tensor, seed_N: Tensor) -> _Search:
    zero_NKD, none_N = torch.zeros_like(start_NKD), torch.zeros_like(seed_N)
    return _Search(
        unit.to(start_NKD), seed_N * 1_000_003 + stream.real_BL.sum(1), start_NKD, start_NKD.clone(), zero_NKD,
        zero_NKD.clone(), start_NKD.clone(), start_NKD.new_full((len(seed_N),), -torch.inf), none_N, none_N.clone(),
    )  # fmt: skip


@torch.no_grad()
def search(
    settings: Ltpo, model: Any, stream: Stream, start_NKD: Tensor, seed_N: Tensor
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The best latents (N, K, D) that were scored, `start_NKD` first of all, and what `improved` tells of them (N, 5).

    A row that has reached the threshold, or waited `patience` steps for a better reward, is read no more. Draws depend
    on a row's seed, on how many places it has read and on the step: a row in a batch gets what it gets alone.
    """
    objective, now = objective_of(settings), _begun(model.size, stream, start_NKD, seed_N)
    first_N, live_N = now.reward_N, torch.arange(len(seed_N), device=seed_N.device)
    for step in range(settings.max_steps + 1):  # step 0 scores what was woven
        noise_NSKD = drawn(settings, now.origin_N[live_N], step, start_NKD) * now.unit
        x_NSKD = _within(settings, now.center_NKD[live_N, None] + noise_NSKD, start_NKD[live_N, None])
        if _has_slope(settings) and step < settings.max_steps:
            reward_NS, uphill_NKD = _climbed(model, stream, live_N, x_NSKD, objective)
        else:
            reward_NS = _scored(model, stream, live_N, x_NSKD, objective)
            uphill_NKD = estimated(settings, reward_NS, noise_NSKD, step)
        _keep(now, live_N, x_NSKD, reward_NS, step)
        first_N = now.reward_N.clone() if step == 0 else first_N
        goes_N = _goes_on(settings, now, live_N)
        live_N, uphill_NKD = live_N[goes_N], uphill_NKD[goes_N]
        if not len(live_N) or step == settings.max_steps:
            break
        if settings.control != "best_of":
            _move(settings, now, live_N, uphill_NKD, step)
    far_N = (_norm(now.best_NKD - start_NKD) / _norm(start_NKD).clamp_min(LEAST_NORM))[:, 0, 0]
    told = first_N, now.reward_N, far_N, now.steps_N.to(far_N), torch.ones_like(far_N)
    return now.best_NKD, torch.stack(told, dim=1)


def drawn(settings: Ltpo, origin_N: Tensor, step: int, like_NKD: Tensor) -> Tensor:
    """What is added to where the search stands: (N, S, K, D); step 0 has one candidate and adds nothing to it."""
    num_rows, shape = len(origin_N), like_NKD.shape[1:]
    nothing_N1KD = like_NKD.new_zeros(num_rows, 1, *shape)
    if step == 0:
        return nothing_N1KD

    def normal(count: int) -> Tensor:
        unit = hashed_normal(origin_N * 1_000_003 + 2 * step, count * shape.numel())
        return unit.view(num_rows, count, *shape).to(like_NKD) * sigma_at(settings, step)

    match settings.control, settings.estimator:
        case ("best_of", _):
            return normal(settings.num_candidates)
        case (_, "antithetic"):
            half_NSKD = normal(settings.num_candidates // 2)
            return torch.cat([half_NSKD, -half_NSKD], dim=1)
        case (_, "autograd"):
            return torch.cat([nothing_N1KD, normal(settings.num_candidates - 1)], dim=1)
        case _:
            return normal(settings.num_candidates)


def _has_slope(settings: Ltpo) -> bool:
    return settings.estimator == "autograd" and settings.control != "best_of"


def sigma_at(settings: Ltpo, step: int) -> float:
    """The size of the noise in a step; it decays from step 1 on."""
    return settings.sigma * settings.decay ** max(0, step - 1)


def estimated(settings: Ltpo, reward_NS: Tensor, noise_NSKD: Tensor, step: int) -> Tensor:
    """The reward's gradient (N, K, D) as far as rewards of noisy candidates tell; zero without noise.

    Pairs of opposite noise cancel the rewards' mean by themselves, and so need no baseline.
    """
    num_candidates = reward_NS.shape[1]
    if settings.estimator == "baseline" and num_candidates > 1:
        # a candidate's own reward is in the mean: without the factor the gradient would be too small
        centered_NS = reward_NS - reward_NS.mean(1, keepdim=True)
        reward_NS = centered_NS * (num_candidates / (num_candidates - 1))
    total_NKD = torch.einsum("ns,nskd->nkd", reward_NS.to(noise_NSKD), noise_NSKD)
    return total_NKD / (num_candidates * sigma_at(settings, step) ** 2)


def _pieces(model: Any, stream: Stream, row_N: Tensor, x_NSKD: Tensor) -> Iterator[tuple[Stream, Tensor]]:
    """The candidates in passes of a size that memory has room for, each with what its rows have read."""
    row_R, x_RKD = row_N.repeat_interleave(x_NSKD.shape[1]), x_NSKD.flatten(0, 1)
    size = max(1, MOST_LOGITS // (x_RKD.shape[1] * len(model.output_weight)))
    if len(row_R) <= size and x_NSKD.shape[1] == 1 and len(row_N) == len(stream.real_BL):
        yield stream, x_RKD  # all rows, once each: no copy of keys and values
        return
    for part_R, part_RKD in zip(row_R.split(size), x_RKD.split(size), strict=True):
        yield stream.select(part_R), part_RKD


def _scored(model: Any, stream: Stream, row_N: Tensor, x_NSKD: Tensor, objective: Objective) -> Tensor:
    """Rewards (N, S) of candidates of the rows `row_N` of the stream."""
    rewards = [score(model, part, x_RKD, objective) for part, x_RKD in _pieces(model, stream, row_N, x_NSKD)]
    return torch.cat(rewards).view(x_NSKD.shape[:2])


def _climbed(
    model: Any, stream: Stream, row_N: Tensor, x_NSKD: Tensor, objective: Objective
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Rewards (N, S) and the mean over candidates of their gradients (N, K, D)."""
    found = [climb(model, part, x_RKD, objective) for part, x_RKD in _pieces(model, stream, row_N, x_NSKD)]
    rewards, slopes = zip(*found, strict=True)
    return torch.cat(rewards).view(x_NSKD.shape[:2]), torch.cat(slopes).view(x_NSKD.shape).mean(1)


def _keep(now: _Search, live_N: Tensor, x_NSKD: Tensor, reward_NS: Tensor, step: int) -> None:
    """Keep a row's best candidate where it is better than all before."""
    top = reward_NS.max(1)
    every_N = torch.arange(len(live_N), device=live_N.device)
    better_N = top.values > now.reward_N[live_N]
    now.best_NKD[live_N[better_N]] = x_NSKD[every_N, top.indices][better_N]
    now.reward_N[live_N[better_N]] = top.values[better_N].to(now.reward_N)
    now.waited_N[live_N] = torch.where(better_N, 0, now.waited_N[live_N] + 1)
    now.steps_N[live_N] = step


def _goes_on(settings: Ltpo, now: _Search, live_N: Tensor) -> Tensor:
    """Which of the rows are not done yet: (N,) bool."""
    goes_N = torch.ones_like(live_N, dtype=torch.bool)
    if settings.threshold is not None:
        goes_N = goes_N & (now.reward_N[live_N] < settings.threshold)
    if settings.patience is not None:
        goes_N = goes_N & (now.waited_N[live_N] < settings.patience)
    return goes_N


def _move(settings: Ltpo, now: _Search, live_N: Tensor, uphill_NKD: Tensor, step: int) -> None:
    """Let the search go on uphill from where it stands; the control goes as far, anywhere."""
    if settings.estimator == "autograd":
        now.mean_NKD[live_N] = now.mean_NKD[live_N].lerp(uphill_NKD, 1 - ADAM_MEAN)
        now.square_NKD[live_N] = now.square_NKD[live_N].lerp(uphill_NKD.square(), 1 - ADAM_SQUARE)
        mean_NKD = now.mean_NKD[live_N] / (1 - ADAM_MEAN ** (step + 1))
        uphill_NKD = (
            mean_NKD / ((now.square_NKD[live_N] / (1 - ADAM_SQUARE ** (step + 1))).sqrt() + ADAM_LEAST) * now.unit
        )
    move_NKD = settings.lr * uphill_NKD
    if settings.control == "random_direction":
        other_NL = hashed_normal(now.origin_N[live_N] * 1_000_003 + 2 * step + 1, move_NKD[0].numel())
        other_NKD = other_NL.view_as(move_NKD).to(move_NKD)
        move_NKD = other_NKD * (_norm(move_NKD) / _norm(other_NKD))
    moved_NKD = now.center_NKD[live_N] + move_NKD
    now.center_NKD[live_N] = _within(settings, moved_NKD[:, None], now.start_NKD[live_N, None])[:, 0]


def _within(settings: Ltpo, x_NSKD: Tensor, start_N1KD: Tensor) -> Tensor:
    """Bring back, straight towards the woven latents, what is farther from them than the radius allows."""
    if settings.radius is None:
        return x_NSKD
    away_NSKD = x_NSKD - start_N1KD
    share = settings.radius * _norm(start_N1KD) / _norm(away_NSKD).clamp_min(LEAST_NORM)
    return torch.where(share < 1, start_N1KD + away_NSKD * share, x_NSKD)


def _norm(x: Tensor) -> Tensor:
    """The norm of all latents of a row together: (..., 1, 1) for (..., K, D)."""
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
