"""Tuning one part of a latent memory on worked solutions, or none of it: evaluating one way to write.

Training is next-token prediction of the solution behind its prompt, with latents standing behind the prompt and behind
some ends of sentences (MemGen's weaver SFT, arXiv 2509.24704). A token behind latents is predicted by the last of them;
the token before them and the other latents predict nothing.

Shapes: B samples, T longest answer with its end, P_c longest piece c, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtx_lab.core.errors import UsageError
from rtx_lab.core.sections import Ltpo
from rtx_lab.core.types import Batch, Cut, Record
from rtx_lab.data.collate import IGNORED
from rtx_lab.data.insertions import POINTS, chosen_ends, empty_pieces, in_pieces, sentence_ends
from rtx_lab.data.loading import StepDataset
from rtx_lab.data.text import TextDataset
from rtx_lab.inference.latents import drawn_latents
from rtx_lab.models.latent_reading import Reading
from rtx_lab.nn.cross_entropy import linear_cross_entropy, token_nll
from rtx_lab.nn.hashing import scramble
from rtx_lab.nn.masking import CHOICES, hashed_uniform
from rtx_lab.tasks.solver import MODEL, REFUSES, Solver, Way, Writing, seeds
from rtx_lab.tasks.summarise import WATCH


class TuneTask:
    """The stages of latent memory that learn from worked solutions; see `rtx_lab.core.types.Task` for the contract.

    `part` is what is trained (`rtx_lab.models.latent_memory.PARTS`), null for nothing. `insert`, `insert_share` and
    `latents` say how answers are written, and `latents` what stands in them in training; `points` which ends of
    sentences get latents in training: a random subset or the first. Raises UsageError for what is out of range.
    """

    watched = WATCH
    model, refuses = MODEL, REFUSES

    def __init__(
        self,
        *,
        dataset: TextDataset,
        cut: Cut,
        generation: Writing,
        ltpo: Ltpo,
        part: str | None = None,
        insert: str = "always",
        insert_share: float = 0.5,
        latents: str = "woven",
        points: str = "random",
        template: str = "auto",
        calculator: str = "strip",
        splits: Sequence[str] = ("validation", "test"),
    ) -> None:
        if points not in POINTS:
            raise UsageError(f"task.points must be one of {', '.join(POINTS)}, got {points!r}")
        way = Way(insert=insert, insert_share=insert_share, latents=latents)
        self.solver = Solver(
            dataset=dataset, cut=cut, generation=generation, ltpo=ltpo, way=way, template=template,
            calculator=calculator,
        )  # fmt: skip
        self.cut, self.way, self.part, self.points, self.splits = cut, way, part, points, tuple(splits)
        self.monitor, self.mode = ("validation/loss", "min") if part else ("validation/accuracy", "max")

    def prepare(self, model: Any) -> None:
        """Let the part learn, and nothing else."""
        model.train_only(self.part)

    @functools.cached_property
    def steps(self) -> StepDataset:
        """The training split as steps; opened when first asked for, so that evaluating needs no training data."""
        return StepDataset(self.solver.dataset.split("train"), self.cut)

    @property
    def steps_per_epoch(self) -> int:
        return self.steps.plan.steps_per_epoch

    def batches(self, model: Any, start: int, stop: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of the optimizer steps start + 1 .. stop, cut into pieces."""
        for step, pieces in enumerate(self.steps.load(start, stop), start + 1):
            yield [self._in_pieces(model, batch, step) for batch in pieces]

    def _in_pieces(self, model: Any, batch: Batch, step: int | None) -> Batch:
        """The pieces of a collated batch; `step` None takes the first ends of sentences."""
        most = self.way.most(model)
        found_BT = sentence_ends(batch, self.solver.delimiters)
        own_B = seeds(batch["index"], self.cut.seed) + (step or 0)
        draws = step is not None and self.points == "random"
        draw_BT = hashed_uniform(own_B, found_BT.shape[1]).numpy() if draws else None
        cuts_BT = chosen_ends(found_BT, most["inference"], draw_BT)
        bare_B = None
        if self.way.insert == "random":  # each insertion by its own draw; column 0 of these stands for the prompt's end
            kept_BT = hashed_uniform(own_B, 1 + found_BT.shape[1], CHOICES).numpy() < self.way.insert_share
            cuts_BT, bare_B = cuts_BT & kept_BT[:, 1:], ~kept_BT[:, 0]
        return in_pieces(
            batch, cuts_BT, prompt_insertions=most["prompt"], prompt_len=model.prompt_latents,
            inference_len=model.inference_latents, bare_B=bare_B,
        )  # fmt: skip

    def weight(self, batch: Batch) -> Tensor:
        """Tokens of the answers, their ends included."""
        return (batch["labels"] != IGNORED).sum().float()

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Negative log-likelihood of the solutions in nats, summed over tokens."""
        hidden_BTD = self.states(model, batch)
        nll = linear_cross_entropy(hidden_BTD, model.output_weight, batch["labels"])
        read = torch.stack([batch[key].sum() for key in batch if key.startswith("real_")]).sum()
        places = sum(batch[key].numel() for key in batch if key.startswith("real_"))
        sums = {"nll": nll.detach(), "tokens": read, "padded_tokens": read.new_full((), places)}
        return nll, sums

    def states(self, model: Any, batch: Batch) -> Tensor:
        """The reader's state at the place that predicts each token of the answers (B, T, D).

        Pieces are read one after the other where latents are woven from what was read, else all at once.
        """
        num_pieces = sum(key.startswith("text_") for key in batch)
        woven = self.way.latents == "woven" and num_pieces > 1
        reading = model.begin(len(batch["index"]), weaves=woven, decides=False)
        found, x, real = [], [], []
        for piece in range(num_pieces):
            if piece:
                latents_BKD = self._latents(model, reading, batch, piece)
                x.append(latents_BKD.to(x[0] if x else latents_BKD))
                real.append(batch[f"inserts_{piece}"][:, None].expand(-1, latents_BKD.shape[1]))
            x.append(model.embed(batch[f"text_{piece}"]))
            real.append(batch[f"real_{piece}"])
            if woven or piece == num_pieces - 1:
                found.append(model.read(reading, torch.cat(x, dim=1), torch.cat(real, dim=1)))
                x, real = [], []
        hidden_BLD = torch.cat(found, dim=1)
        at_BTD = batch["at"][..., None].expand(-1, -1, hidden_BLD.shape[2])
        return hidden_BLD.gather(1, at_BTD)

    def _latents(self, model: Any, reading: Reading, batch: Batch, piece: int) -> Tensor:
        kind = "prompt" if piece <= self.way.most(model)["prompt"] else "inference"
        if self.way.latents == "learnt":
            return model.learnt.expand(len(batch["index"]), -1, -1)
        if self.way.latents == "noise":
            own_B = scramble(seeds(batch["index"], self.cut.seed) + piece)
            return drawn_latents(model, kind, own_B)
        return model.weave(reading, kind)

    def held_out(self, split: str) -> Iterator[Batch]:
        """Every row of a split once; of `watch` a fixed subset of validation."""
        return self.solver.held_out(split)

    def score(self, model: Any, batch: Batch, split: str) -> list[Record]:
        """Write and judge each answer; where a part learns, measure the reference with latents as in training."""
        records = self.solver.score(model, batch, split)
        if self.part is None:
            return records
        device = batch["labels"].device
        held = {key: value.cpu() for key, value in batch.items()}
        pieces = {key: value.to(device) for key, value in self._in_pieces(model, held, None).items()}
        hidden_BTD = self.states(model, pieces)
        nll_B = token_nll(hidden_BTD, model.output_weight, pieces["labels"]).double().sum(1)
        count_B = (pieces["labels"] != IGNORED).sum(1)
        for record, nll, count in zip(records, nll_B.tolist(), count_B.tolist(), strict=True):
            record |= {"nll": nll, "num_reference_tokens": count}
        return records

    def summarise(self, records: list[Record]) -> dict[str, Any]:
        """What `Solver.summarise` gives, and the loss per token of the references."""
        metrics = self.solver.summarise(records)
        known = [record for record in records if "num_reference_tokens" in record]
        if known:
            total = sum(record["num_reference_tokens"] for record in known)
            metrics["loss"] = float(np.sum([record["nll"] for record in known]) / total)
        return metrics

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
        """Empty tensors of the longest prompt and answer, with every insertion there can be, evenly apart."""
        dataset, most = self.solver.dataset, self.way.most(model)
        answer = dataset.max_target_length - 1
        parts = most["inference"] + 1
        spread = [answer * (part + 1) // parts - answer * part // parts for part in range(parts)]
        behind_prompt = [0] * most["prompt"]
        widths = [dataset.max_source_length, *behind_prompt, *spread[1:]]
        widths[most["prompt"]] += spread[0]
        return empty_pieces(micro_batch, dataset.max_target_length, widths)

    def rehearse(self, model: Any, num_samples: int) -> None:
        """Write the longest answers; where a part learns, read the longest references."""
        self.solver.rehearse(model, num_samples)
        if self.part is not None:
            pieces = self.example_batch(model, num_samples)
            token_nll(self.states(model, pieces), model.output_weight, pieces["labels"])

    def num_scored(self, split: str) -> int:
        """Rows of the split, or of the part of validation that is watched."""
        return self.solver.num_scored(split)

    def describe(self, step: int) -> list[str]:
        """The row ids that make up an optimizer step, over all ranks."""
        return self.steps.row_ids(step)
