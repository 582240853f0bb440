"""From the writings of prompts to the batch that a trigger learns from: what each decision is worth.

Shapes: P prompts, R distinct writings of a prompt, J decisions, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtx_lab.core.types import Batch
from rtx_lab.data.batching import NOBODY
from rtx_lab.inference.latent_rows import UNDECIDED
from rtx_lab.nn import grpo
from rtx_lab.tasks.rollouts import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Crediting:
    """How decisions get credit: as the writing they belong to does in its group, or each by its own flip."""

    credit: str
    normalise: str
    insertion_cost: float
    """Taken off the reward (1 right, 0 wrong) for each insertion."""

    def checks(self) -> list[tuple[bool, str]]:
        """What has to hold, each with the sentence to say where it does not."""
        return [
            (self.insertion_cost >= 0, f"task.insertion_cost must be at least 0, got {self.insertion_cost}"),
            _one_of("credit", self.credit, grpo.CREDITS),
            _one_of("normalise", self.normalise, grpo.NORMALISE),
        ]

    @torch.no_grad()
    def batch_of(self, model: Any, groups: Sequence[Group]) -> Batch:
        """Groups as a batch.

        index, flat (P,): whether all rewards are equal; action, advantage, old_log_p, reward and weight (P, R, J): how
        many writings took a decision, 0 where none did; state (P, R, J, D), or for a trigger that reads by itself
        text, real (P, R, T) and at (P, R, J).
        """
        told = [self._told(model, group) for group in groups]
        batch = {"index": torch.tensor([group.row for group in groups], device=told[0]["flat"].device)}
        batch |= {key: stacked([facts[key] for facts in told]) for key in told[0]}
        if model.trigger == "head":
            return batch | {"state": stacked([group.state_RJD for group in groups])}
        length_PR = stacked([(group.at_RJ + 1).amax(1) for group in groups])
        text_PRT = stacked([group.text_RT for group in groups])
        real_PRT = torch.arange(text_PRT.shape[2], device=length_PR.device) < length_PR[..., None]
        return batch | {"text": text_PRT, "real": real_PRT, "at": stacked([group.at_RJ for group in groups])}

    def _told(self, model: Any, group: Group) -> Batch:
        """What the loss needs to know of a prompt's decisions; `flat` has no dimension, the others are (R, J)."""
        action_RJ, weight_R = group.action_RJ, group.weight_R.double()
        reward_R = group.correct_R - self.insertion_cost * (action_RJ == 1).sum(1)
        logit_RJ = model.insertion_logit(group.state_RJD)
        decided_RJ = (action_RJ != UNDECIDED) & (group.row != NOBODY)
        if self.credit == "group":
            advantage_R = grpo.group_advantages(reward_R, weight_R, self.normalise)
            advantage_RJ, weight_RJ = advantage_R[:, None].expand_as(logit_RJ), weight_R[:, None] * decided_RJ
        else:
            base = _followed(action_RJ, logit_RJ)
            worth_J, known_J = grpo.flip_credit(reward_R, action_RJ, base)
            is_base_R1 = (torch.arange(len(reward_R), device=reward_R.device) == base)[:, None]
            advantage_RJ, weight_RJ = worth_J * is_base_R1, is_base_R1 & known_J & decided_RJ
        return {
            "flat": torch.tensor(grpo.is_flat(reward_R), device=reward_R.device).to(logit_RJ.dtype),
            "action": action_RJ.clamp_min(0),
            "advantage": advantage_RJ.to(logit_RJ),
            "old_log_p": grpo.log_probability(logit_RJ, action_RJ),
            "reward": reward_R[:, None].expand_as(logit_RJ).to(logit_RJ),
            "weight": weight_RJ.to(logit_RJ),
        }


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors of as many dimensions each as one, with zeros behind where another is longer."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    made = tensors[0].new_zeros(len(tensors), *shape)
    for place, tensor in enumerate(tensors):
        made[(place, *(slice(size) for size in tensor.shape))] = tensor
    return made


def _followed(action_RJ: Tensor, logit_RJ: Tensor) -> int:
    """The writing that followed the trigger in all its decisions; the others turned one of theirs round."""
    turned_RJ = (action_RJ != UNDECIDED) & (action_RJ != (logit_RJ > 0))
    return int(turned_RJ.sum(1).argmin())


def _one_of(key: str, value: str, known: Sequence[str]) -> tuple[bool, str]:
    return value in known, f"task.{key} must be one of {', '.join(known)}, got {value!r}"
