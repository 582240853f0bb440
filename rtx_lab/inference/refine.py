"""Adaptive recursion: every sample stops at its own step, and the batch shrinks as samples stop.

The gate is looked at before each step but the first. Tokens are read once, at the end, from each sample's own last
state, so that a sample in a batch gets the tokens and the steps that it gets alone.

With model.commit, the ceil(n / total_steps) most confident guesses (n: real tokens of the sample) are written into the
text before each step but the first, the rate at which training reveals tokens; a sample that has committed all of them
stops.

Shapes: B samples, L length, D width, A samples still in work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from rtx_lab.core.errors import UsageError
from rtx_lab.inference.filling import Filled, fill, hide, pick, put
from rtx_lab.inference.mask_predict import least_sure


class Thinks(Protocol):
    """What refining needs of the state that a model carries."""

    @property
    def hidden_BLD(self) -> Tensor: ...

    @property
    def noise_B(self) -> Tensor: ...

    def select(self, index: Tensor) -> Self: ...


T = TypeVar("T", bound=Thinks)


class Refines(Protocol[T]):
    """What refining needs of a model."""

    @property
    def output_weight(self) -> Tensor: ...

    @property
    def output_bias(self) -> Tensor | None: ...

    @property
    def commit(self) -> bool: ...

    @property
    def total_steps(self) -> int: ...

    def begin(self, tokens_BL: Tensor, real_BL: Tensor | None) -> T: ...

    def advance(self, thought: T, noise_B: Tensor | None, fresh_BL: Tensor | None) -> T: ...

    def read(self, hidden_BLD: Tensor, real_BL: Tensor | None) -> Tensor: ...


@dataclass
class _Texts:
    """All samples, and how far each has come."""

    tokens_BL: Tensor
    """Observed and committed tokens, the mask token elsewhere."""
    masked_BL: Tensor
    """Where a token is still to be chosen."""
    real_BL: Tensor | None
    hidden_BLD: Tensor
    """The last state of the samples that have left."""
    steps_B: Tensor
    num_read_B: Tensor


@dataclass
class _Work:
    """The samples in work: who they are, who of them goes on, and the state of each after its own last step."""

    index_A: Tensor
    going_A: Tensor
    held_ALD: Tensor


@torch.no_grad()
def refine(
    model: Refines[T],
    tokens_BL: Tensor,
    masked_BL: Tensor,
    real_BL: Tensor | None,
    *,
    mask_id: int,
    max_steps: int,
    threshold: float,
    fixed_steps: int | None = None,
    keep_trace: bool = False,
    check_every: int = 1,
) -> Filled:
    """Recur until the gate's estimate of the noise is at most `threshold`, or `max_steps` times.

    tokens (B, L) int64, masked (B, L) bool, real (B, L) bool or None where nothing is padded. A sample without a masked
    token takes no step, every other at least one. `fixed_steps` replaces gate and `max_steps`.

    Samples that have stopped leave the batch every `check_every` steps. Each look costs one host sync; a later look
    costs up to check_every - 1 idle steps a sample and changes no result. Raises UsageError on counts below one.
    """
    limit = _limit(max_steps, fixed_steps, check_every)
    texts, work, thought = _begin(model, hide(tokens_BL, masked_BL, mask_id), masked_BL, real_BL)
    trace: list[Tensor] = []
    for step in range(limit):
        if step and fixed_steps is None:
            work.going_A = work.going_A & (thought.noise_B > threshold)
        if step and model.commit:
            _commit(model, texts, work, mask_id)
        if step % check_every == 0:
            thought = _compact(texts, work, thought)
        if not len(work.index_A):
            break
        thought = _recur(model, texts, work, thought, texts.tokens_BL if step and model.commit else None)
        if keep_trace:
            trace.append(_look(model, texts, work, trace, mask_id))
    return _read(model, texts, work, mask_id, trace if keep_trace else None)


def _limit(max_steps: int, fixed_steps: int | None, check_every: int) -> int:
    limit = max_steps if fixed_steps is None else fixed_steps
    if limit < 1:
        raise UsageError(f"refining needs at least one step, got {limit}")
    if check_every < 1:
        raise UsageError(f"check_every counts steps from 1, got {check_every}")
    return limit


def _begin(
    model: Refines[T], observed_BL: Tensor, masked_BL: Tensor, real_BL: Tensor | None
) -> tuple[_Texts, _Work, T]:
    """Everyone is in work, but only who has a mask goes on."""
    thought = model.begin(observed_BL, real_BL)
    nothing_B = torch.zeros_like(observed_BL[:, 0])
    texts = _Texts(observed_BL, masked_BL, real_BL, thought.hidden_BLD, nothing_B, nothing_B)
    everyone_B = torch.arange(len(observed_BL), device=observed_BL.device)
    return texts, _Work(everyone_B, masked_BL.any(1), thought.hidden_BLD), thought


def _recur(model: Refines[T], texts: _Texts, work: _Work, thought: T, fresh_BL: Tensor | None) -> T:
    """One recursion of all in work; those that have stopped keep their states and their counts."""
    thought = model.advance(thought, None, pick(fresh_BL, work.index_A))
    work.held_ALD = torch.where(work.going_A[:, None, None], thought.hidden_BLD, work.held_ALD)
    texts.steps_B = texts.steps_B.index_add(0, work.index_A, work.going_A.long())
    return thought


def _read(model: Refines[T], texts: _Texts, work: _Work, mask_id: int, trace: list[Tensor] | None) -> Filled:
    """Choose a token for every mask that is left, from each sample's last state."""
    hidden_BLD = model.read(put(texts.hidden_BLD, work.index_A, work.held_ALD), texts.real_BL)
    return Filled(
        tokens=fill(model, hidden_BLD, texts.tokens_BL, texts.masked_BL, mask_id)[0],
        steps=texts.steps_B,
        num_read=texts.num_read_B + texts.masked_BL.sum(1),
        hidden=hidden_BLD,
        trace=trace,
    )


def _compact(texts: _Texts, work: _Work, thought: T) -> T:
    """Drop the samples that have stopped and keep their states: one host sync."""
    place_A = work.going_A.nonzero()[:, 0]
    if len(place_A) == len(work.index_A):
        return thought
    texts.hidden_BLD = put(texts.hidden_BLD, work.index_A, work.held_ALD)
    work.index_A, work.going_A = work.index_A[place_A], work.going_A[place_A]
    work.held_ALD = work.held_ALD[place_A]
    return thought.select(place_A)


def _commit(model: Refines[T], texts: _Texts, work: _Work, mask_id: int) -> None:
    """Write the most confident guesses of the samples that go on into their texts; who has no mask left stops."""
    tokens_AL, masked_AL = texts.tokens_BL[work.index_A], texts.masked_BL[work.index_A]
    real_AL = pick(texts.real_BL, work.index_A)
    asked_AL = masked_AL & work.going_A[:, None]
    filled_AL, sure_AL = fill(model, model.read(work.held_ALD, real_AL), tokens_AL, asked_AL, mask_id)
    length_A = torch.full_like(work.index_A, tokens_AL.shape[1]) if real_AL is None else real_AL.sum(1)
    quota_A = (length_A + model.total_steps - 1) // model.total_steps
    chosen_AL = asked_AL & least_sure(torch.where(asked_AL, -sure_AL, torch.inf), quota_A)
    masked_AL = masked_AL & ~chosen_AL
    texts.tokens_BL = put(texts.tokens_BL, work.index_A, torch.where(chosen_AL, filled_AL, tokens_AL))
    texts.masked_BL = put(texts.masked_BL, work.index_A, masked_AL)
    texts.num_read_B = texts.num_read_B.index_add(0, work.index_A, asked_AL.sum(1))
    work.going_A = work.going_A & masked_AL.any(1)


def _look(model: Refines[T], texts: _Texts, work: _Work, trace: list[Tensor], mask_id: int) -> Tensor:
    """The tokens as they would be if every sample stopped now: (B, L)."""
    tokens_AL, masked_AL = texts.tokens_BL[work.index_A], texts.masked_BL[work.index_A]
    hidden_ALD = model.read(work.held_ALD, pick(texts.real_BL, work.index_A))
    shown_AL = fill(model, hidden_ALD, tokens_AL, masked_AL, mask_id)[0]
    return put(trace[-1] if trace else texts.tokens_BL, work.index_A, shown_AL)
