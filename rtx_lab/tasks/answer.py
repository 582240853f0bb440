"""Answering: a source text in, one of the given options or a written answer out.

Training is next-token prediction of the right answer alone. Options are ranked by the likelihood of their content;
without options the answer is written freely and its number compared. A prediction never sees a label.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from rtx_lab.core.types import Batch, Cut, Record
from rtx_lab.data.collate import IGNORED, empty_batch
from rtx_lab.data.loading import StepDataset, held_out_batches
from rtx_lab.data.text import TextDataset
from rtx_lab.inference.generate import generate
from rtx_lab.inference.rank import option_log_likelihood, rank_options
from rtx_lab.nn.cross_entropy import linear_cross_entropy
from rtx_lab.nn.memory import Memory
from rtx_lab.scoring import slots
from rtx_lab.scoring.answers import exact_match, extract_number, numbers_equal, token_f1
from rtx_lab.scoring.summary import summarise

SAMPLED_FOR_SLOTS = 512
"""Rows of a split whose slot assignments are kept for the slot metrics."""


class Writing(Protocol):
    """How an answer is written where no options are given."""

    num_beams: int
    max_new_tokens: int | None
    length_penalty: float


class AnswerTask:
    """The task of every set of questions with answers; see `rtx_lab.core.types.Task` for the contract."""

    mode = "max"
    monitor = "validation/accuracy"
    watched = "validation"
    splits = ("validation", "test")

    def __init__(self, *, dataset: TextDataset, cut: Cut, generation: Writing) -> None:
        self.dataset, self.cut, self.generation = dataset, cut, generation

    @functools.cached_property
    def steps(self) -> StepDataset:
        """The training split as steps; opened when first asked for, so that evaluating needs no training data."""
        return StepDataset(self.dataset.split("train"), self.cut)

    @property
    def steps_per_epoch(self) -> int:
        return self.steps.plan.steps_per_epoch

    def batches(self, model: Any, start: int, stop: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of the optimizer steps start + 1 .. stop."""
        del model  # the data do not depend on it
        return self.steps.load(start, stop)

    def weight(self, batch: Batch) -> Tensor:
        """Target tokens, the end included."""
        return (batch["labels"] != IGNORED).sum().float()

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log-likelihood of the answers in nats, summed over tokens, with the model's own costs per token."""
        labels = batch["labels"]
        memory = model.encode(batch["source"], batch["source_mask"])
        hidden = model.decode(memory, batch["decoder_input"])
        nll = linear_cross_entropy(hidden, model.output_weight, labels)
        tokens_b = (labels != IGNORED).sum(1)
        costs = (model.auxiliary(memory, labels) * tokens_b).sum() + model.penalty() * tokens_b.sum()
        sums = {
            "nll": nll.detach(),
            "tokens": batch["source_mask"].sum() + tokens_b.sum(),
            "padded_tokens": labels.new_full((), batch["source"].numel() + labels.numel()),
            "reasoning_steps": (memory.steps * tokens_b).sum(),  # the loop divides by the weight: a mean over tokens
        }
        return nll + costs, sums

    def held_out(self, split: str) -> Iterator[Batch]:
        """Every row of a split once, longest first, with its options."""
        tokens, per_row = self.cut.micro_tokens, max(1, self.dataset.num_options, self.generation.num_beams)
        room = None if tokens is None else max(1, 2 * tokens // per_row)
        return held_out_batches(self.dataset.split(split), batch_size=self.cut.eval_batch, max_tokens=room)

    def score(self, model: Any, batch: Batch, split: str) -> list[Record]:
        """Predict each sample from its source alone, judge that, and measure the likelihood of the right answer."""
        memory = model.encode(batch["source"], batch["source_mask"])
        numbers = batch["index"].tolist()
        opened = self.dataset.split(split)
        rows = [opened.record(number) for number in numbers]
        given = "option_labels" in batch
        judged = _choose(model, memory, batch, rows) if given else self._write(model, memory, rows)
        log_p = option_log_likelihood(model, memory, batch["decoder_input"][:, None], batch["labels"][:, None])[:, 0]
        tokens = (batch["labels"] != IGNORED).sum(1)
        measured = zip(numbers, rows, log_p.tolist(), tokens.tolist(), memory.steps.tolist(), strict=True)
        for record, (number, row, value, count, steps) in zip(judged, measured, strict=True):
            record.update(
                id=row["id"], row=number, gold=row["gold"], difficulty=row["difficulty"], family=row["family"]
            )
            record.update(nll=-value, num_tokens=count, steps=steps, max_steps=model.max_steps)
        _keep_assignment(judged, memory, batch)
        return judged

    def _write(self, model: Any, memory: Memory, rows: list[dict[str, Any]]) -> list[Record]:
        """Free generation; the number in the answer decides, and an answer without one is wrong."""
        tokenizer, limits = self.dataset.tokenizer, self.generation
        written = generate(
            model,
            memory,
            start_id=tokenizer.start_id,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            max_tokens=limits.max_new_tokens or self.dataset.max_target_length,
            num_beams=limits.num_beams,
            length_penalty=limits.length_penalty,
        )
        judged = []
        for ids, row in zip(written.tolist(), rows, strict=True):
            text = tokenizer.decode_answer(ids)
            right = numbers_equal(extract_number(text), extract_number(row["gold"]))
            judged.append(_judged(text, row["gold"], right))
        return judged

    def summarise(self, records: list[Record]) -> dict[str, Any]:
        """Accuracy with its interval, steps by difficulty, and how tokens share the slots."""
        metrics: dict[str, Any] = dict(summarise(records))
        kept = [record for record in records if "_slots" in record]
        if kept:
            slot = torch.tensor([index for record in kept for index in record["_slots"]])
            token = torch.tensor([index for record in kept for index in record["_tokens"]])
            usage = slots.slot_usage(slot, kept[0]["_num_slots"])
            metrics["slot_specialization"] = slots.slot_specialization(slot, token)
            metrics["slot_usage_entropy"] = slots.slot_usage_entropy(usage)
        return metrics

    def inspect(self, model: Any) -> dict[str, float]:
        """What the connections look like, free of scale; nothing for a model without connections."""
        strength = model.connection_strength()
        if strength is None:
            return {}
        return {
            "connection_sparsity": slots.connection_sparsity(strength),
            "effective_rank": slots.effective_rank(strength),
            "spectral_radius": slots.spectral_radius(strength),
        }

    def maps(self, model: Any) -> dict[str, Any]:
        """The strength of every connection, see `rtx_lab.scoring.slots.strength_map`; nothing without connections."""
        strength = model.connection_strength()
        return {} if strength is None else {"connections": slots.strength_map(strength)}

    def files(self, records: list[Record], split: str) -> dict[str, str]:
        """Nothing besides the predictions."""
        del records, split
        return {}

    def example_batch(self, model: Any, micro_batch: int) -> Batch:
        """Empty tensors of the longest source and target that training can meet."""
        del model  # the lengths are the data's
        return empty_batch(micro_batch, self.dataset.max_source_length, self.dataset.max_target_length)

    def rehearse(self, model: Any, num_samples: int) -> None:
        """Rank as many options as a row can have, or decode the longest answer with all beams, at once."""
        batch = self.example_batch(model, num_samples)
        memory = model.encode(batch["source"], batch["source_mask"])
        per_sample = self.dataset.num_options or self.generation.num_beams
        shape = (num_samples, per_sample, self.dataset.max_target_length)
        tokens = batch["labels"].new_zeros(shape)
        option_log_likelihood(model, memory, tokens, tokens)

    def num_scored(self, split: str) -> int:
        """Rows of the split."""
        return self.dataset.num_rows(split)

    def describe(self, step: int) -> list[str]:
        """The row ids that make up an optimizer step, over all ranks."""
        return self.steps.row_ids(step)


def _choose(model: Any, memory: Memory, batch: Batch, rows: list[dict[str, Any]]) -> list[Record]:
    """The option whose content is most likely, by the sum over its tokens."""
    option_BOU = batch["option_input"], batch["option_labels"]
    total_BO, _ = rank_options(model, memory, *option_BOU, batch["option_mask"])
    judged = []
    for choice, row in zip(total_BO.argmax(1).tolist(), rows, strict=True):
        judged.append(_judged(row["options"][choice], row["gold"], choice == row["label"]) | {"choice": choice})
    return judged


def _judged(prediction: str, gold: str, right: bool) -> Record:
    return {
        "prediction": prediction,
        "correct": right,
        "exact_match": exact_match(prediction, gold),
        "f1": token_f1(prediction, gold),
    }


def _keep_assignment(records: list[Record], memory: Memory, batch: Batch) -> None:
    """Remember which slot took each token of the first rows; keys that begin with `_` are not written to disk."""
    if memory.assignment is None:
        return
    num_slots = memory.states.shape[1]
    for place, record in enumerate(records):
        if record["row"] < SAMPLED_FOR_SLOTS:
            mask = batch["source_mask"][place]
            record["_slots"] = memory.assignment[place][mask].tolist()
            record["_tokens"] = batch["source"][place][mask].tolist()
            record["_num_slots"] = num_slots
