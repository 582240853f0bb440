"""All writings of a prompt at once: decisions sampled, tokens picked as in an evaluation, each answer judged.

With everything but the trigger frozen, the decisions alone make an answer what it is. So writings that decide alike are
written once, and what an answer is worth is remembered by its decisions.

Shapes: R distinct writings of a prompt, J decisions, T tokens, D width, S tokens of a prompt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rtx_lab.core.types import Batch
from rtx_lab.data.batching import NOBODY
from rtx_lab.data.text import Split
from rtx_lab.inference.latent_rows import Choose, Written
from rtx_lab.inference.latent_writing import write
from rtx_lab.scoring.solutions import judge
from rtx_lab.tasks.solver import Solver


@dataclass(frozen=True, slots=True)
class Group:
    """The writings of a prompt, one row for each distinct vector of decisions, in the order of these vectors."""

    row: int
    """Of the training split; NOBODY of a prompt that only fills a batch."""
    weight_R: Tensor
    """How many writings decided so."""
    correct_R: Tensor
    """1 where the answer is right, else 0; float64."""
    action_RJ: Tensor
    """1 inserted, 0 not, -1 no more decisions."""
    state_RJD: Tensor
    """What the trigger judged."""
    text_RT: Tensor
    """The prompt and the answer up to its last decision, then anything."""
    at_RJ: Tensor
    """The place in `text_RT` whose token was the last one before each decision."""


class Verdicts:
    """Whether answers are right, each judged once; `by_actions` remembers an answer by its decisions too.

    That needs answers which depend on row and decisions alone: greedy tokens, and latents without a draw.
    """

    def __init__(self, solver: Solver, opened: Split, *, by_actions: bool) -> None:
        self.solver, self.opened, self.by_actions = solver, opened, by_actions
        self.num_judged = 0
        self._by_actions: dict[tuple[int, tuple[int, ...]], bool] = {}
        self._by_text: dict[tuple[int, str], bool] = {}

    def of(self, row: int, actions: tuple[int, ...], ids: Sequence[int], cut: bool) -> bool:
        """Whether this answer is right; one that was cut before its end never is."""
        if row == NOBODY:
            return False
        key = (row, actions)
        if not self.by_actions:
            return self._judged(row, ids, cut)
        if key not in self._by_actions:
            self._by_actions[key] = self._judged(row, ids, cut)
        return self._by_actions[key]

    def _judged(self, row: int, ids: Sequence[int], cut: bool) -> bool:
        if self.solver.is_cut(list(ids), cut):
            return False
        key = (row, self.solver.text(list(ids)))
        if key not in self._by_text:
            self.num_judged += 1
            self._by_text[key] = judge(key[1], self.opened.record(row)["gold"])["correct"]
        return self._by_text[key]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Leave dropout out for a while: what is learnt from is the policy that wrote."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def roll_out(
    model: Any, solver: Solver, batch: Batch, seed_B: Tensor, *, group_size: int, choose: Choose, verdicts: Verdicts
) -> list[Group]:
    """Write every prompt of a collated batch `group_size` times by the rule `choose`, one group for each prompt."""
    device = model.learnt.device
    prompt_BS, mask_BS = batch["source"].to(device), batch["source_mask"].to(device)
    with evaluating(model):
        written = write(
            model, prompt_BS, mask_BS, seed_B.to(device), limits=solver.limits, ends=solver.delimiters.to(device),
            choose=choose, source=solver.way.source(solver.ltpo), decides=True, weight=group_size, keep_states=True,
        )  # fmt: skip
    owners = written.owner_B.tolist()
    actions = [tuple(action for action in row if action >= 0) for row in written.action_BJ.tolist()]
    places: list[list[int]] = [[] for _ in range(len(prompt_BS))]
    for place in sorted(range(len(owners)), key=lambda place: actions[place]):
        places[owners[place]].append(place)
    facts = zip(batch["index"].tolist(), prompt_BS, mask_BS, places, strict=True)
    return [
        _group(row, prompt_S[mask_S][-model.max_seq_len :], written, rows, [actions[place] for place in rows], verdicts)
        for row, prompt_S, mask_S, rows in facts
    ]


def _group(
    row: int, prompt_S: Tensor, written: Written, rows: list[int], actions: list[tuple[int, ...]], verdicts: Verdicts
) -> Group:
    assert written.state_BJD is not None
    most = max(1, *(len(taken) for taken in actions))
    index_R = torch.tensor(rows, device=prompt_S.device)
    token_RT, place_RJ = written.token_BT[index_R], written.place_BJ[index_R, :most]
    lengths, cuts = written.length_B[index_R].tolist(), written.cut_B[index_R].tolist()
    told = zip(actions, token_RT.tolist(), lengths, cuts, strict=True)
    correct = [verdicts.of(row, taken, ids[:length], cut) for taken, ids, length, cut in told]
    last = int(place_RJ.max())
    return Group(
        row=row, weight_R=written.weight_B[index_R],
        correct_R=torch.tensor(correct, dtype=torch.float64, device=prompt_S.device),
        action_RJ=written.action_BJ[index_R, :most], state_RJD=written.state_BJD[index_R, :most],
        text_RT=torch.cat([prompt_S.expand(len(rows), -1), token_RT[:, :last]], dim=1),
        at_RJ=len(prompt_S) + place_RJ - 1,
    )  # fmt: skip
