"""What writing with latent memory is told, what it keeps of each row, and what it gives.

Shapes: B rows, T places of an answer, J decisions, K latents of an insertion, D width, N rows that decide now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from rtx_lab.models.latent_reading import Reading

UNDECIDED = -1
"""What stands in `action_BJ` behind a row's last decision."""
NUM_TRACED = 5
"""What is known of a search; see `Written.traced_B5`."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What is known where N rows decide: the trigger's state and log odds, how many writings each row stands for, the
    number of the decision (0: the prompt's end), and the row's seed."""

    state_ND: Tensor
    logit_N: Tensor
    weight_N: Tensor
    number_N: Tensor
    seed_N: Tensor


Choose = Callable[[Decision], Tensor]
"""How many of each row's writings insert: (N,) int64, from 0 to `weight_N`."""


class Source(Protocol):
    """Where latents come from."""

    def __call__(self, model: Any, reading: Reading, kind: str, seed_N: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (N, K, D) for rows that insert, and what is to be known of them (N, 5): see `Written.traced_B5`."""
        ...


class Ends(Protocol):
    """Which tokens end a sentence."""

    def advance(self, states: Any, ids: Any) -> Any:
        """The states (B,) of texts after one more token each."""
        ...

    def decides(self, states: Any) -> Any:
        """Whether a sentence ended with the token just read (B,)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a text ends, and how a token is picked: the likeliest at temperature 0."""

    stop_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int
    temperature: float = 0.0


@dataclass(slots=True)
class Written:
    """Finished answers, by the row of the prompt they belong to, in no order that means anything."""

    owner_B: Tensor
    weight_B: Tensor
    """Writings that a row stands for: 1 unless rows were split."""
    token_BT: Tensor
    """The answer with its end; behind it pad."""
    length_B: Tensor
    cut_B: Tensor
    """Whether a limit ended it."""
    action_BJ: Tensor
    """1 inserted, 0 not, -1 no more decisions; J is all decisions that a row can meet."""
    place_BJ: Tensor
    """Tokens that stood before each decision."""
    state_BJD: Tensor | None
    """The trigger's state at each decision, where it was asked for."""
    latents_B: Tensor
    """Latents that the answer was given."""
    traced_B5: Tensor
    """Summed over searches for better latents: first reward, best reward, relative movement, steps; and how many."""


@dataclass(slots=True)
class Rows:
    """The rows that are still being written; every field has them first."""

    reading: Reading
    owner: Tensor
    weight: Tensor
    seed: Tensor
    token: Tensor
    length: Tensor
    upcoming: Tensor
    ending: Tensor
    hidden: Tensor
    queue: Tensor
    queued: Tensor
    queue_place: Tensor
    num_decided: Tensor
    num_inserted: Tensor
    action: Tensor
    place: Tensor
    state: Tensor | None
    latents: Tensor
    traced: Tensor
    finished: Tensor
    cut: Tensor

    def select(self, index: Tensor) -> Rows:
        """The rows `index`, in that order; rows may be repeated."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["reading"] = self.reading.select(index)
        for name in values.keys() - {"reading"}:
            values[name] = None if values[name] is None else values[name][index]
        return Rows(**values)

    def __len__(self) -> int:
        return len(self.owner)


def gathered(done: list[Rows], pad_id: int) -> Written:
    """Finished rows as one."""

    def every(name: str) -> Tensor:
        return torch.cat([getattr(rows, name) for rows in done])

    length_B, token_BT = every("length"), every("token")
    shown = token_BT[:, : max(1, int(length_B.max()))]
    state = None if done[0].state is None else every("state")
    beyond = torch.arange(shown.shape[1], device=shown.device) >= length_B[:, None]
    return Written(
        owner_B=every("owner"), weight_B=every("weight"), token_BT=shown.masked_fill(beyond, pad_id),
        length_B=length_B, cut_B=every("cut"), action_BJ=every("action"), place_BJ=every("place"), state_BJD=state,
        latents_B=every("latents"), traced_B5=every("traced"),
    )  # fmt: skip
