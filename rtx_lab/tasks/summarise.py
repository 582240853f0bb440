"""Summarising: a dialogue in, a short text out.

Training is next-token prediction of the summary. Predictions are written freely from the dialogue alone, by greedy
search on a fixed subset while training and with all beams at the end, and judged by ROUGE over named tokens.

Shapes: B samples, S longest source, T longest summary with its end.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rtx_lab.core.types import Batch, Cut, Record
from rtx_lab.data.collate import IGNORED, empty_batch
from rtx_lab.data.dialogues import DialogueDataset
from rtx_lab.data.loading import StepDataset, held_out_batches
from rtx_lab.data.submission import submission_text
from rtx_lab.nn.cross_entropy import linear_cross_entropy, token_nll
from rtx_lab.scoring.rouge import lead, rouge, tokeniser
from rtx_lab.scoring.summaries import CONTROL, LEAD_TURNS, summarise

WATCH = "watch"
"""The part of validation that is written while training."""


class Writing(Protocol):
    """How a summary is written."""

    num_beams: int
    max_new_tokens: int | None
    min_new_tokens: int
    length_penalty: float
    no_repeat_ngram_size: int
    early_stopping: bool
    watch_rows: int


class SummariseTask:
    """The task of every set of dialogues with summaries; see `rtx_lab.core.types.Task` for the contract."""

    mode = "max"
    watched = WATCH

    def __init__(self, *, dataset: DialogueDataset, cut: Cut, generation: Writing) -> None:
        self.dataset, self.cut, self.generation = dataset, cut, generation
        self.monitor = f"validation/rouge_{dataset.rouge_tokenizer}"
        self.splits = dataset.final_splits

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
        """Negative log-likelihood of the summaries in nats, summed over tokens."""
        labels = batch["labels"]
        encoded = model.encode(batch["source"], batch["source_mask"])
        head = model.head(model.decode(encoded, started(batch["decoder_input"], model.decoder_start_id)))
        nll = linear_cross_entropy(
            head.hidden, head.weight_VD, labels, bias_V=head.bias_V, low=head.low, up_VR=head.up_VR
        )
        sums = {
            "nll": nll.detach(),
            "tokens": batch["source_mask"].sum() + (labels != IGNORED).sum(),
            "padded_tokens": labels.new_full((), batch["source"].numel() + labels.numel()),
        }
        return nll, sums

    def held_out(self, split: str) -> Iterator[Batch]:
        """Every row of a split once, longest first; of `watch` a fixed subset of validation."""
        opened = self.dataset.split(held(split))
        rows = watched_rows(len(opened), self.generation.watch_rows) if split == WATCH else None
        beams = 1 if split == WATCH else self.generation.num_beams
        tokens = self.cut.micro_tokens
        room = None if tokens is None else max(1, 2 * tokens // beams)
        return held_out_batches(opened, batch_size=self.cut.eval_batch, max_tokens=room, rows=rows)

    def score(self, model: Any, batch: Batch, split: str) -> list[Record]:
        """Write each summary from its dialogue alone, judge it, and measure the likelihood of the reference."""
        opened = self.dataset.split(held(split))
        numbers = batch["index"].tolist()
        encoded = model.encode(batch["source"], batch["source_mask"])
        written = self._write(model, encoded, beams=1 if split == WATCH else self.generation.num_beams)
        nll_B, count_B = _likelihood(model, encoded, batch)
        measured = zip(numbers, written, nll_B.tolist(), count_B.tolist(), strict=True)
        return [self._record(opened.record(row), row, text, nll, count) for row, text, nll, count in measured]

    def _write(self, model: Any, encoded: Any, beams: int) -> list[str]:
        settings, longest = self.generation, self.dataset.max_target_length
        ids_BT = model.write(
            encoded, num_beams=beams, max_new_tokens=settings.max_new_tokens or longest,
            min_new_tokens=settings.min_new_tokens, length_penalty=settings.length_penalty,
            no_repeat_ngram_size=settings.no_repeat_ngram_size, early_stopping=settings.early_stopping,
        )  # fmt: skip
        return [self.dataset.decode(ids) for ids in ids_BT.tolist()]

    def _record(self, row: dict[str, Any], number: int, text: str, nll: float, num_tokens: int) -> Record:
        record: Record = {"id": row["id"], "row": number, "prediction": text}
        if not row["references"]:
            return record  # nothing to be judged by: a text to be handed in
        record |= {"gold": row["references"][0], "references": row["references"], "topic": row.get("topic")}
        control = lead(row["dialogue"], LEAD_TURNS)
        for name, split in self._tokenisers.items():
            references = [split(one) for one in row["references"]]
            for prefix, written in (("", text), (f"{CONTROL}_", control)):
                found = rouge(split(written), references)
                record |= {f"{prefix}{key}_{name}": value for key, value in found.items()}
                record[f"{prefix}rouge_{name}"] = sum(found.values()) / len(found)
        return record | {"nll": nll, "num_tokens": num_tokens, "num_characters": len(text)}

    @functools.cached_property
    def _tokenisers(self) -> dict[str, Callable[[str], list[str]]]:
        """The dataset's own tokens first; whitespace and characters need no library and stand beside them."""
        names = dict.fromkeys((self.dataset.rouge_tokenizer, "whitespace", "characters"))
        return {name: tokeniser(name, protected=self.dataset.special_tokens) for name in names}

    def summarise(self, records: list[Record]) -> dict[str, Any]:
        """ROUGE with intervals over each kind of tokens, the lead control, loss and length."""
        return summarise(records, tuple(self._tokenisers))

    def inspect(self, model: Any) -> dict[str, float]:
        """Nothing can be told from the weights alone."""
        del model
        return {}

    def maps(self, model: Any) -> dict[str, Any]:
        """Nothing of the weights is drawn."""
        del model
        return {}

    def files(self, records: list[Record], split: str) -> dict[str, str]:
        """What is handed in for a split: `submission-<split>.csv` with fname and summary."""
        if split == "validation":
            return {}
        rows = [(record["id"], record["prediction"]) for record in records]
        return {f"submission-{split}.csv": submission_text(rows)}

    def example_batch(self, model: Any, micro_batch: int) -> Batch:
        """Empty tensors of the longest dialogue and summary that training can meet."""
        del model  # the lengths are the data's
        return empty_batch(micro_batch, self.dataset.max_source_length, self.dataset.max_target_length)

    def rehearse(self, model: Any, num_samples: int) -> None:
        """Decode the longest summary with all beams at once, from the longest dialogues."""
        batch = self.example_batch(model, num_samples)
        encoded = model.encode(batch["source"], batch["source_mask"])
        every_beam = torch.arange(num_samples).repeat_interleave(self.generation.num_beams)
        tokens = batch["decoder_input"][every_beam]
        head = model.head(model.decode(encoded.select(every_beam), tokens)[:, -1:])
        token_nll(head.hidden, head.weight_VD, tokens[:, -1:], head.bias_V, low=head.low, up_VR=head.up_VR)

    def num_scored(self, split: str) -> int:
        """Rows of the split, or of the part of validation that is watched."""
        rows = self.dataset.num_rows(held(split))
        return min(rows, self.generation.watch_rows) if split == WATCH else rows

    def describe(self, step: int) -> list[str]:
        """The row ids that make up an optimizer step, over all ranks."""
        return self.steps.row_ids(step)


def started(decoder_input_BT: Tensor, start_id: int) -> Tensor:
    """The decoder's input with the start that the model was trained with, which is no matter of the tokenizer."""
    first_B1 = torch.full_like(decoder_input_BT[:, :1], start_id)
    return torch.cat([first_B1, decoder_input_BT[:, 1:]], dim=1)


def watched_rows(num_rows: int, wanted: int) -> np.ndarray:
    """A fixed sample of rows, the same for every model and seed; all of them where there are no more."""
    if num_rows <= wanted:
        return np.arange(num_rows)
    return np.sort(np.random.Generator(np.random.PCG64(num_rows)).choice(num_rows, wanted, replace=False))


def held(split: str) -> str:
    """The split that a watched part belongs to."""
    return "validation" if split == WATCH else split


def _likelihood(model: Any, encoded: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """-log p of each reference in nats (B,), and its tokens (B,)."""
    labels = batch["labels"]
    head = model.head(model.decode(encoded, started(batch["decoder_input"], model.decoder_start_id)))
    nll_BT = token_nll(head.hidden, head.weight_VD, labels, head.bias_V, low=head.low, up_VR=head.up_VR)
    return nll_BT.double().sum(1), (labels != IGNORED).sum(1)
