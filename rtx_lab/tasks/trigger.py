"""Training the trigger of a latent memory by group relative policy optimisation: where do latents help?

Reader and weaver are frozen and tokens are picked greedily, so decisions are all that is left to chance. Each prompt of
a step is written `group_size` times; the decisions of the better answers become likelier. With `credit=flip` one answer
is written by the trigger's likelier actions, and again with each of them turned round, which says what each is worth.
So no other prompts are drawn where a group's answers are all as good: `flip` makes them differ where they can, and the
entropy bonus keeps the odds from running off where they cannot.

    loss = -1/|D| sum over decisions D of [min(rho A, clip(rho) A) + alpha_H H - beta k3]

`D` are all decisions of a step. A group whose rewards are equal has A = 0; its decisions stay in D with their entropy,
so a step in which few groups can teach something moves the trigger little.

Shapes: P prompts, R distinct writings of a prompt, J decisions, T tokens, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtx_lab.core.cutting import BY_SAMPLES, in_pieces
from rtx_lab.core.errors import UsageError
from rtx_lab.core.gradients import step_seed
from rtx_lab.core.sections import Ltpo
from rtx_lab.core.types import Batch, Cut, Record
from rtx_lab.data.batching import NOBODY, StepPlan, cut
from rtx_lab.data.collate import collate
from rtx_lab.data.text import Split, TextDataset
from rtx_lab.inference import choices
from rtx_lab.inference.latent_writing import MOST_ASKED
from rtx_lab.models import latent_stream
from rtx_lab.nn import grpo
from rtx_lab.nn.masking import CHOICES, hashed_uniform
from rtx_lab.tasks.credit import Crediting
from rtx_lab.tasks.rollouts import Group, Verdicts, evaluating, roll_out
from rtx_lab.tasks.solver import MODEL, REFUSES, Solver, Way, Writing, seeds
from rtx_lab.tasks.summarise import WATCH


class TriggerTask:
    """The stage of latent memory that learns when to insert; see `rtx_lab.core.types.Task` for the contract.

    `insertion_cost` is taken off the reward (1 right, 0 wrong) for each insertion. `prompts_share` of the training rows
    are prompts, the same ones in every run. `num_iterations` optimizer steps are made of one step's writings; a run
    that is continued between them writes anew. `memoise` remembers rewards while they depend on decisions alone.
    `latents` and `ltpo` say where latents come from, in training too. Raises UsageError for what is out of range.
    """

    watched = WATCH
    monitor, mode = "validation/accuracy", "max"
    model, refuses = MODEL, REFUSES

    def __init__(
        self,
        *,
        dataset: TextDataset,
        cut: Cut,
        generation: Writing,
        ltpo: Ltpo,
        insert: str = "trigger",
        latents: str = "woven",
        template: str = "auto",
        calculator: str = "strip",
        splits: Sequence[str] = ("validation", "test"),
        group_size: int = 8,
        insertion_cost: float = 0.0,
        clip: float = 0.2,
        entropy_weight: float = 0.01,
        kl_weight: float = 0.0,
        credit: str = "group",
        normalise: str = "std",
        num_iterations: int = 1,
        memoise: bool = True,
        prompts_share: float = 0.5,
    ) -> None:
        self.crediting = Crediting(credit=credit, normalise=normalise, insertion_cost=insertion_cost)
        _refuse(
            (insert == "trigger", f"task.insert must be trigger, which is what learns here, got {insert!r}"),
            (group_size >= 2, f"task.group_size must be at least 2, to compare, got {group_size}"),
            (num_iterations >= 1, f"task.num_iterations must be at least 1, got {num_iterations}"),
            (0 < clip < 1, f"task.clip must lie between 0 and 1, got {clip}"),
            (entropy_weight >= 0, f"task.entropy_weight must be at least 0, got {entropy_weight}"),
            (kl_weight >= 0, f"task.kl_weight must be at least 0, got {kl_weight}"),
            (0 < prompts_share <= 1, f"task.prompts_share must be above 0 and at most 1, got {prompts_share}"),
            *self.crediting.checks(),
        )
        way = Way(insert=insert, latents=latents)
        self.solver = Solver(
            dataset=dataset, cut=cut, generation=generation, ltpo=ltpo, way=way, template=template,
            calculator=calculator,
        )  # fmt: skip
        self.cut, self.splits, self.prompts_share = cut, tuple(splits), prompts_share
        self.group_size, self.num_iterations = group_size, num_iterations
        self.clip, self.entropy_weight, self.kl_weight = clip, entropy_weight, kl_weight
        by_chance = generation.temperature > 0 or latents == "noise" or ltpo.enabled
        self.memoise = memoise and not by_chance

    def prepare(self, model: Any) -> None:
        """Let the trigger learn, and nothing else."""
        model.train_only("trigger")

    @functools.cached_property
    def prompts(self) -> tuple[Split, np.ndarray, StepPlan]:
        """The training split, the rows of it that are prompts, and how these make up steps; opened when asked for."""
        opened = self.solver.dataset.split("train")
        number_n = hashed_uniform(torch.arange(len(opened)), 1, CHOICES)[:, 0].numpy()
        rows_m = np.flatnonzero(number_n < max(self.prompts_share, number_n.min() + 1e-6))
        own = self.cut
        plan = StepPlan(
            opened.lengths[rows_m], seed=own.seed, global_batch=own.global_batch, sort_window=own.sort_window
        )
        return opened, rows_m, plan

    @property
    def steps_per_epoch(self) -> int:
        return self.prompts[2].steps_per_epoch * self.num_iterations

    def batches(self, model: Any, start: int, stop: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of the optimizer steps start + 1 .. stop, written when they are asked for."""
        verdicts = Verdicts(self.solver, self.prompts[0], by_actions=self.memoise)
        each, made = self.num_iterations, []
        for step in range(start, stop):
            if step == start or step % each == 0:
                made = [self.written(model, rows, step // each + 1, verdicts) for rows in self._rows(step // each + 1)]
            yield made

    def _rows(self, turn: int) -> list[np.ndarray]:
        """This rank's micro-batches of prompts, as rows of the training split; turns are counted from 1."""
        opened, rows_m, plan = self.prompts
        pieces = cut(
            plan.indices(turn), opened.lengths[rows_m], micro_batch=self.cut.micro_batch, rank=self.cut.rank,
            world_size=self.cut.world_size,
        )  # fmt: skip
        return [np.where(piece == NOBODY, NOBODY, rows_m[piece]) for piece in pieces]

    def written(self, model: Any, rows: np.ndarray, turn: int, verdicts: Verdicts) -> Batch:
        """Write the answers of these training rows and give every decision its credit; in halves if memory runs out."""
        choose = choices.sampled if self.crediting.credit == "group" else choices.with_flips
        seed = step_seed(self.cut.seed, turn)

        def work(batch: Batch) -> list[Group]:
            return roll_out(
                model, self.solver, batch, seeds(batch["index"], seed), group_size=self.group_size, choose=choose,
                verdicts=verdicts,
            )  # fmt: skip

        prompts = collate(self.prompts[0], rows)
        groups, _ = in_pieces(work, prompts, None, BY_SAMPLES, torch.cuda.empty_cache, lambda _: None)
        return self.crediting.batch_of(model, groups)

    def weight(self, batch: Batch) -> Tensor:
        """Decisions of all writings."""
        return batch["weight"].sum()

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of all decisions, summed and turned round; sums to log are over decisions as well.

        Means of them: reward of the writing, insertion_rate, entropy in nats, share_clipped, share_zero_variance.
        """
        weight_PRJ, action_PRJ = batch["weight"], batch["action"]
        with evaluating(model):
            logit_PRJ = model.insertion_logit(batch["state"] if "state" in batch else _states(model, batch))
        log_p_PRJ, entropy_PRJ = grpo.log_probability(logit_PRJ, action_PRJ), grpo.entropy(logit_PRJ)
        gain_PRJ, clipped_PRJ = grpo.surrogate(log_p_PRJ, batch["old_log_p"], batch["advantage"], self.clip)
        gain_PRJ = gain_PRJ + self.entropy_weight * entropy_PRJ - self.kl_weight * grpo.even_kl(log_p_PRJ)
        told = {
            "reward": batch["reward"], "insertion_rate": action_PRJ, "entropy": entropy_PRJ.detach(),
            "share_clipped": clipped_PRJ, "share_zero_variance": batch["flat"][:, None, None],
        }  # fmt: skip
        return -(weight_PRJ * gain_PRJ).sum(), {name: (weight_PRJ * value).sum() for name, value in told.items()}

    def held_out(self, split: str) -> Iterator[Batch]:
        """Every row of a split once; of `watch` a fixed subset of validation."""
        return self.solver.held_out(split)

    def score(self, model: Any, batch: Batch, split: str) -> list[Record]:
        """Write each answer with the trigger deciding, and judge it."""
        return self.solver.score(model, batch, split)

    def summarise(self, records: list[Record]) -> dict[str, Any]:
        """What `Solver.summarise` gives."""
        return self.solver.summarise(records)

    def inspect(self, model: Any) -> dict[str, float]:
        """Nothing can be told from the weights alone."""
        del model
        return {}

    def maps(self, model: Any) -> dict[str, Any]:
        """Nothing of the weights is drawn."""
        del model
        return {}

    def files(self, records: list[Record], split: str) -> dict[str, str]:
        """The test answers in the format of the seed."""
        return self.solver.files(records, split)

    def example_batch(self, model: Any, micro_batch: int) -> Batch:
        """Empty tensors of groups whose writings all differ and meet every decision there can be."""
        most = 1 + MOST_ASKED * model.max_insertions["inference"]
        shape, width = (micro_batch, self.group_size, most), model.learnt.shape[1]
        batch = {"index": torch.zeros(micro_batch, dtype=torch.int64), "flat": torch.zeros(micro_batch)}
        batch |= {name: torch.zeros(shape) for name in ("advantage", "old_log_p", "reward", "weight")}
        batch["action"] = torch.zeros(shape, dtype=torch.int64)
        if model.trigger == "head":
            return batch | {"state": torch.zeros(*shape, width)}
        longest = self.solver.dataset.max_source_length + self.solver.limits.max_new_tokens
        text = torch.zeros(*shape[:2], min(longest, model.max_seq_len), dtype=torch.int64)
        return batch | {"text": text, "real": torch.ones_like(text, dtype=torch.bool), "at": batch["action"].clone()}

    def rehearse(self, model: Any, num_samples: int) -> None:
        """Write the longest answers."""
        self.solver.rehearse(model, num_samples)

    def rehearse_data(self, model: Any, num_samples: int) -> None:
        """Write the groups of a micro-batch, all writings apart."""
        with evaluating(model):
            self.solver.rehearse(model, num_samples * self.group_size)

    def num_scored(self, split: str) -> int:
        """Rows of the split, or of the part of validation that is watched."""
        return self.solver.num_scored(split)

    def describe(self, step: int) -> list[str]:
        """The row ids of the prompts of an optimizer step, over all ranks."""
        opened, rows_m, plan = self.prompts
        return [opened.record(int(row))["id"] for row in rows_m[plan.indices((step - 1) // self.num_iterations + 1)]]


def _refuse(*checks: tuple[bool, str]) -> None:
    """Raise UsageError with every sentence whose check failed."""
    problems = [sentence for holds, sentence in checks if not holds]
    if problems:
        raise UsageError(*problems)


def _states(model: Any, batch: Batch) -> Tensor:
    """What a trigger with adapters judges (P, R, J, D), read once more with gradients, from text alone."""
    text_BT, real_BT, at_PRJ = batch["text"].flatten(0, 1), batch["real"].flatten(0, 1), batch["at"]
    with model.role.play("trigger"):
        stream = latent_stream.begin(len(text_BT), text_BT.device)
        hidden_BTD = latent_stream.read(model.network.model, stream, model.embed(text_BT), real_BT)
    at_BJD = at_PRJ.flatten(0, 1)[..., None].expand(-1, -1, hidden_BTD.shape[2])
    return hidden_BTD.gather(1, at_BJD).unflatten(0, at_PRJ.shape[:2])
