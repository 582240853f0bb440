"""Training the weaver of a latent memory by group relative policy optimisation: which latents lead to right answers?

Every prompt is written `group_size` times with latents at every place, tokens drawn at `temperature`; the answers that
are better than their group's mean become likelier under the latents that the weaver makes now (MemGen's weaver GRPO,
arXiv 2509.24704). One optimizer step for each set of writings, so that the ratio to the old policy is 1 and nothing is
clipped; there is no penalty for leaving the old policy, as in the original (beta 0).

    loss = sum over writings of A nll(answer) / all tokens of the step

Shapes: B writings (prompts x group), T longest answer, J decisions.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtx_lab.core.errors import UsageError
from rtx_lab.core.gradients import step_seed
from rtx_lab.core.sections import Ltpo
from rtx_lab.core.types import Batch, Cut, Record
from rtx_lab.data.batching import cut
from rtx_lab.data.collate import IGNORED, collate
from rtx_lab.data.insertions import in_pieces
from rtx_lab.data.loading import StepDataset
from rtx_lab.data.text import TextDataset
from rtx_lab.inference import choices, latents
from rtx_lab.inference.latent_rows import Written
from rtx_lab.inference.latent_writing import write
from rtx_lab.nn.cross_entropy import linear_cross_entropy
from rtx_lab.nn.grpo import NORMALISE, group_advantages
from rtx_lab.nn.hashing import GOLDEN, scramble
from rtx_lab.tasks.answering import TuneTask
from rtx_lab.tasks.rollouts import Verdicts, evaluating
from rtx_lab.tasks.solver import Solver, Writing, seeds


class WeaverGrpoTask:
    """A weaver that learns from rewards; all that is not learning is `answering.TuneTask`'s.

    `budget.micro_batch` counts prompts. Raises UsageError for what is out of range.
    """

    watched = TuneTask.watched
    monitor, mode = "validation/accuracy", "max"
    model, refuses = TuneTask.model, TuneTask.refuses

    def __init__(
        self,
        *,
        dataset: TextDataset,
        cut: Cut,
        generation: Writing,
        ltpo: Ltpo,
        template: str = "auto",
        calculator: str = "strip",
        splits: Sequence[str] = ("validation", "test"),
        group_size: int = 8,
        temperature: float = 1.0,
        normalise: str = "std",
    ) -> None:
        problems = []
        if group_size < 2:
            problems.append(f"task.group_size must be at least 2, to compare, got {group_size}")
        if not temperature > 0:
            problems.append(f"task.temperature must be above 0, or all writings are the same, got {temperature}")
        if normalise not in NORMALISE:
            problems.append(f"task.normalise must be one of {', '.join(NORMALISE)}, got {normalise!r}")
        if problems:
            raise UsageError(*problems)
        self.tuned = TuneTask(
            dataset=dataset, cut=cut, generation=generation, ltpo=ltpo, part="weaver", template=template,
            calculator=calculator, splits=splits,
        )  # fmt: skip
        self.cut, self.splits = cut, self.tuned.splits
        self.group_size, self.temperature, self.normalise = group_size, temperature, normalise

    def prepare(self, model: Any) -> None:
        """Let the weaver learn, and nothing else."""
        self.tuned.prepare(model)

    @property
    def solver(self) -> Solver:
        """What answers are written with."""
        return self.tuned.solver

    @functools.cached_property
    def steps(self) -> StepDataset:
        """The training split as steps of prompts."""
        return self.tuned.steps

    @property
    def steps_per_epoch(self) -> int:
        return self.steps.plan.steps_per_epoch

    def batches(self, model: Any, start: int, stop: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of the optimizer steps start + 1 .. stop, written when they are asked for."""
        own = self.cut
        for step in range(start + 1, stop + 1):
            pieces = cut(
                self.steps.plan.indices(step), self.steps.lengths, micro_batch=own.micro_batch, rank=own.rank,
                world_size=own.world_size,
            )  # fmt: skip
            yield [self.written(model, rows, step) for rows in pieces]

    def written(self, model: Any, rows: np.ndarray, step: int) -> Batch:
        """Write the answers of these training rows, each `group_size` times, and hold them against their groups."""
        solver, device = self.solver, model.learnt.device
        prompts = collate(self.steps.split, np.repeat(rows, self.group_size))
        number_B = torch.arange(len(prompts["index"])) % self.group_size
        seed_B = scramble(seeds(prompts["index"], step_seed(self.cut.seed, step)) + number_B * GOLDEN)
        with evaluating(model):
            found = write(
                model, prompts["source"].to(device), prompts["source_mask"].to(device), seed_B.to(device),
                limits=dataclasses.replace(solver.limits, temperature=self.temperature),
                ends=solver.delimiters.to(device), choose=choices.always, source=latents.woven,
            )  # fmt: skip
        labels_BT, cuts_BT, told = _as_answers(found)
        pairs = zip(prompts["index"].tolist(), told, strict=True)
        verdicts = Verdicts(solver, self.steps.split, by_actions=False)
        reward_B = torch.tensor([float(verdicts.of(row, (), ids, was_cut)) for row, (ids, was_cut) in pairs])
        batch = {**prompts, "labels": labels_BT}
        pieces = in_pieces(
            batch, cuts_BT, prompt_insertions=model.max_insertions["prompt"] if model.prompt_latents else 0,
            prompt_len=model.prompt_latents, inference_len=model.inference_latents,
        )  # fmt: skip
        advantage_B = self._advantages(reward_B) * _fits(model, prompts, found)
        return pieces | {"reward": reward_B, "advantage": advantage_B}

    def _advantages(self, reward_B: Tensor) -> Tensor:
        groups = reward_B.view(-1, self.group_size)
        one_R = torch.ones(self.group_size)
        return torch.cat([group_advantages(reward_R, one_R, self.normalise) for reward_R in groups])

    def weight(self, batch: Batch) -> Tensor:
        """Tokens of the answers, their ends included."""
        return self.tuned.weight(batch)

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The likelihoods of the answers, each times how much better than its group it is, summed and turned round."""
        with evaluating(model):
            hidden_BTD = self.tuned.states(model, batch)
        tokens_B = (batch["labels"] != IGNORED).sum(1)
        weight_BT = batch["advantage"][:, None].expand(batch["labels"].shape)
        hidden_BTD = hidden_BTD / self.temperature  # the policy that wrote
        loss = linear_cross_entropy(hidden_BTD, model.output_weight, batch["labels"], row_weight=weight_BT)
        told = {"reward": batch["reward"], "share_zero_variance": (batch["advantage"] == 0).float()}
        return loss, {name: (value * tokens_B).sum() for name, value in told.items()}

    def held_out(self, split: str) -> Iterator[Batch]:
        """Every row of a split once; of `watch` a fixed subset of validation."""
        return self.tuned.held_out(split)

    def score(self, model: Any, batch: Batch, split: str) -> list[Record]:
        """Write and judge each answer with latents at every place."""
        return self.tuned.score(model, batch, split)

    def summarise(self, records: list[Record]) -> dict[str, Any]:
        """What `TuneTask.summarise` gives."""
        return self.tuned.summarise(records)

    def inspect(self, model: Any) -> dict[str, float]:
        """Nothing can be told from the weights alone."""
        return self.tuned.inspect(model)

    def maps(self, model: Any) -> dict[str, Any]:
        """Nothing of the weights is drawn."""
        return self.tuned.maps(model)

    def files(self, records: list[Record], split: str) -> dict[str, str]:
        """The test answers in the format of the seed."""
        return self.tuned.files(records, split)

    def example_batch(self, model: Any, micro_batch: int) -> Batch:
        """Empty tensors of the longest prompts and answers, every group in full."""
        batch = self.tuned.example_batch(model, micro_batch * self.group_size)
        return batch | {name: torch.zeros(micro_batch * self.group_size) for name in ("reward", "advantage")}

    def rehearse(self, model: Any, num_samples: int) -> None:
        """What `TuneTask.rehearse` does."""
        self.tuned.rehearse(model, num_samples)

    def rehearse_data(self, model: Any, num_samples: int) -> None:
        """Write the groups of a micro-batch."""
        with evaluating(model):
            self.solver.rehearse(model, num_samples * self.group_size)

    def num_scored(self, split: str) -> int:
        """Rows of the split, or of the part of validation that is watched."""
        return self.tuned.num_scored(split)

    def describe(self, step: int) -> list[str]:
        """The row ids of the prompts of an optimizer step, over all ranks."""
        return self.tuned.describe(step)


def _fits(model: Any, prompts: Batch, found: Written) -> Tensor:
    """1 for texts that were written as they are learnt from (B,): the context had room for prompt and latents."""
    behind_prompt = model.max_insertions["prompt"] * model.prompt_latents
    whole_B = prompts["source_mask"].sum(1) + behind_prompt + found.length_B[found.owner_B.argsort()].cpu()
    return (whole_B <= model.max_seq_len).float()


def _as_answers(found: Written) -> tuple[Tensor, np.ndarray, list[tuple[list[int], bool]]]:
    """Writings as labels (B, T) and the tokens behind which latents stand (B, T), and their ids and whether cut."""
    order = found.owner_B.argsort()
    token_BT, length_B = found.token_BT[order].cpu(), found.length_B[order].cpu()
    place_T = torch.arange(token_BT.shape[1])
    labels_BT = token_BT.masked_fill(place_T >= length_B[:, None], IGNORED)
    inserted_BJ = (found.action_BJ[order] == 1) & (found.place_BJ[order] > 0)
    behind_BJ = (found.place_BJ[order] - 1).clamp_min(0).cpu()
    cuts_BT = torch.zeros(token_BT.shape, dtype=torch.int64).scatter_add_(1, behind_BJ, inserted_BJ.long().cpu()) > 0
    cuts_BT &= place_T < length_B[:, None] - 1
    ids = [row[:length] for row, length in zip(token_BT.tolist(), length_B.tolist(), strict=True)]
    return labels_BT, cuts_BT.numpy(), list(zip(ids, found.cut_B[order].tolist(), strict=True))
