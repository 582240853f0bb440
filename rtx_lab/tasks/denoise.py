"""Denoising: hidden tokens of a text, guessed from the visible ones, by recursion (RDT) or in passes (MLM, CMLM, MDLM).

All models are scored on the same texts with the same nested masks at the same ratios, so that their numbers can be set
side by side. Only hidden tokens are ever predicted or judged; special tokens are never hidden.

Shapes: B samples, L segment length, l chain steps, R rows that the loss reads per chain step.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rtx_lab.core.errors import RunError
from rtx_lab.core.types import Batch, Cut, Record
from rtx_lab.data.loading import step_loader
from rtx_lab.data.segments import SegmentDataset
from rtx_lab.inference.filling import Filled
from rtx_lab.nn.cross_entropy import token_nll
from rtx_lab.nn.masking import masked_positions
from rtx_lab.scoring.denoising import summarise
from rtx_lab.tasks.corruption import most_targets
from rtx_lab.tasks.denoise_batches import DenoisingSteps, held_out_batches
from rtx_lab.tasks.objectives import LOSSES, hide
from rtx_lab.tasks.passes import CURVE_RATIO, CURVE_STEPS, FILLERS, Ways

VALIDATION_STRIDE = 4
"""Validation looks at every fourth ratio between 0 and 1: .1, .5 and .9 of the usual eleven."""


class DenoiseTask:
    """The task of every set of plain texts; see `rtx_lab.core.types.Task` for the contract."""

    mode = "min"
    monitor = "validation/loss"
    watched = "validation"
    splits = ("validation", "test")

    def __init__(self, *, dataset: SegmentDataset, cut: Cut, generation: Any) -> None:
        del generation  # how a text is filled in is a matter of the model
        self.dataset, self.cut = dataset, cut
        self._steps: DenoisingSteps | None = None
        self._unigram: int | None = None
        mask_id = dataset.tokenizer.mask_id
        assert mask_id is not None  # a SegmentDataset refuses tokenizers without a mask
        self.mask_id = mask_id

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.dataset.split("train")) // self.cut.global_batch)

    def steps(self, model: Any) -> DenoisingSteps:
        """The training split as steps, by the rules of a model."""
        self._steps = DenoisingSteps(self.dataset.split("train"), model, self.cut)
        return self._steps

    def batches(self, model: Any, start: int, stop: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of the optimizer steps start + 1 .. stop."""
        workers, pin = self.cut.num_workers, self.cut.pin_memory
        return step_loader(self.steps(model), start=start, stop=stop, num_workers=workers, pin_memory=pin)

    def weight(self, batch: Batch) -> Tensor:
        """Hidden tokens that the loss reads; for MDLM all tokens that could have been hidden."""
        return batch["size"].sum()

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the model's objective, summed, and its parts."""
        loss, parts = LOSSES[model.objective](model, batch, self.mask_id)
        tokens = batch["tokens"]
        real = batch.get("real")
        count = tokens.new_full((), tokens.numel()) if real is None else real.sum()
        sums = {"total_loss": loss.detach(), "tokens": count, "padded_tokens": tokens.new_full((), tokens.numel())}
        return loss, parts | sums

    def held_out(self, split: str) -> Iterator[Batch]:
        """The texts of a split at every ratio; those of the test split also after fixed numbers of steps."""
        texts, looks, most = self.dataset.split(split), self._looks(split), self._most_texts(split)
        return held_out_batches(texts, looks, num_texts=most, batch_size=self.scored_at_once)

    @property
    def scored_at_once(self) -> int:
        """Texts of an evaluation batch; of the longest as many as hold twice the tokens of a training micro-batch."""
        size, tokens = self.cut.eval_batch, self.cut.micro_tokens
        return size if tokens is None else max(1, min(size, 2 * tokens // self.dataset.max_source_length))

    def _most_texts(self, split: str) -> int | None:
        return self.dataset.num_test if split == "test" else self.dataset.num_validation

    def _looks(self, split: str) -> list[tuple[int, float, int]]:
        """(place, ratio, fixed steps) of every way in which a text of a split is hidden and filled in."""
        ratios = list(self.dataset.mask_ratios)
        if split != "test":
            inner = [place for place, ratio in enumerate(ratios) if 0 < ratio < 1][::VALIDATION_STRIDE]
            return [(place, ratios[place], 0) for place in reversed(inner or range(len(ratios)))]
        looks = [(place, ratio, 0) for place, ratio in reversed(list(enumerate(ratios)))]
        return looks + [(len(ratios) + turn, CURVE_RATIO, steps) for turn, steps in enumerate(CURVE_STEPS)]

    def score(self, model: Any, batch: Batch, split: str) -> list[Record]:
        """Fill in the hidden tokens of each text from the visible ones alone, then judge what was filled in."""
        noisy_BL, order_BL = hide(batch, self.mask_id)
        hidden_BL = masked_positions(order_BL, batch["maskable"], batch["visible"][:, 0])
        real_BL, fixed = batch.get("real"), int(batch["fixed"][0])
        ways = Ways(self.mask_id, fixed_steps=fixed or None)
        filled = FILLERS[model.objective](model, noisy_BL, hidden_BL, real_BL, batch["seed"], ways)
        # what a text's hidden tokens are given: iterative models have seen their own guesses by the last pass
        states_BLD = filled.hidden if model.objective == "chain" else model.encode(noisy_BL, real_BL)
        nll_B = self._nll(model, states_BLD, batch["tokens"], hidden_BL)
        right_BL = (filled.tokens == batch["tokens"]) & hidden_BL
        measured = {
            "nll": nll_B, "num_tokens": hidden_BL.sum(1), "num_right": right_BL.sum(1), "steps": filled.steps,
            "num_read": filled.num_read, "length": batch["maskable"].new_ones(hidden_BL.shape).sum(1)
            if real_BL is None else real_BL.sum(1),
        }  # fmt: skip
        guess = self._unigram_guess()
        measured["unigram"] = ((batch["tokens"] == guess) & hidden_BL).sum(1)
        columns = {name: value.tolist() for name, value in measured.items()}
        records = [self._record(model, batch, split, place, columns) for place in range(len(hidden_BL))]
        if split == "test":
            self._keep_texts(records, batch, filled)
        return records

    def _nll(self, model: Any, states_BLD: Tensor, tokens_BL: Tensor, hidden_BL: Tensor) -> Tensor:
        """-log p of the hidden tokens in nats, summed per text (B,); only their rows go through the head."""
        rows_M = hidden_BL.flatten().nonzero()[:, 0]
        nll_M = token_nll(
            states_BLD.flatten(0, 1)[rows_M], model.output_weight, tokens_BL.flatten()[rows_M],
            bias_V=model.output_bias, excluded=self.mask_id,
        )  # fmt: skip
        found_B = nll_M.new_zeros(len(tokens_BL), dtype=torch.float64)
        return found_B.index_add_(0, rows_M // tokens_BL.shape[1], nll_M.double())

    def _record(self, model: Any, batch: Batch, split: str, place: int, columns: dict[str, list[Any]]) -> Record:
        own = {name: values[place] for name, values in columns.items()}
        row, look, fixed = (int(batch[name][place]) for name in ("index", "place", "fixed"))
        ratio = CURVE_RATIO if fixed else self.dataset.mask_ratios[look]
        count = own["num_tokens"]
        text_id = self.dataset.split(split).record(row)["id"]
        return {
            "id": f"{text_id}@{round(100 * ratio)}" + (f"/{fixed}" if fixed else ""),
            "row": look * len(self.dataset.split(split)) + row,
            "text": row, "ratio": ratio, "fixed_steps": fixed,
            "nll": own["nll"], "num_tokens": count, "num_right": own["num_right"], "num_unigram": own["unigram"],
            "correct": own["num_right"] / count if count else None,
            "exact_match": own["num_right"] == count if count else None,
            "steps": own["steps"], "max_steps": fixed or model.max_steps,
            "flops": model.flops(own["length"], own["steps"], own["num_read"]),
        }  # fmt: skip

    def _unigram_guess(self) -> int:
        """The most frequent token of the training split; -1, which no token is, where there is none to look at."""
        if self._unigram is None:
            try:
                self._unigram = int(self.dataset.split("train").unigram().argmax())
            except RunError:
                self._unigram = -1
        return self._unigram

    def _keep_texts(self, records: list[Record], batch: Batch, filled: Filled) -> None:
        """Remember both texts of a record for what compares texts; keys that begin with `_` are not written."""
        decode = self.dataset.tokenizer.decode
        both = zip(records, filled.tokens.tolist(), batch["tokens"].tolist(), strict=True)
        for record, guess, gold in both:
            record["_text"], record["_gold"] = decode(guess), decode(gold)

    def summarise(self, records: list[Record]) -> dict[str, Any]:
        """Likelihood, accuracy, exact match, steps and arithmetic by mask ratio, and what the gate follows."""
        return summarise(records, judge=self.dataset.judge)

    def inspect(self, model: Any) -> dict[str, float]:
        """Nothing can be told from the weights alone."""
        del model
        return {}

    def maps(self, model: Any) -> dict[str, Any]:
        """Nothing of the weights is drawn."""
        del model
        return {}

    def files(self, records: list[Record], split: str) -> dict[str, str]:
        """Nothing besides the predictions."""
        del records, split
        return {}

    def example_batch(self, model: Any, micro_batch: int) -> Batch:
        """Empty tensors of the longest segment, the longest chain and the most targets that training can meet."""
        length = self.dataset.max_source_length
        chain, rows = most_targets(model, length - 2)
        whole = torch.zeros(micro_batch, length, dtype=torch.int64)
        per_step = torch.zeros(micro_batch, chain + 1, dtype=torch.int64)
        return {
            "index": whole[:, 0].clone(), "tokens": whole, "maskable": torch.ones(micro_batch, length).bool(),
            "seed": whole[:, 0].clone(), "visible": per_step, "noise": per_step.float(), "mix": per_step[:, 0].float(),
            "weight": per_step[:, 0].float(), "size": per_step[:, 0].float(),
            "target_rank": torch.zeros(micro_batch, chain, rows, dtype=torch.int64),
        }  # fmt: skip

    def rehearse(self, model: Any, num_samples: int) -> None:
        """As many recursions or passes over the longest segments as there can be, and the head over every token."""
        tokens_BL = torch.zeros(num_samples, self.dataset.max_source_length, dtype=torch.int64)
        if model.objective == "chain":
            thought = model.begin(tokens_BL, None)
            for _ in range(model.max_steps):
                thought = model.advance(thought, None, None)
            states_BLD = model.read(thought.hidden_BLD, None)
        else:
            states_BLD = model.encode(tokens_BL, None)
            for _ in range(model.max_steps - 1):
                states_BLD = model.encode(tokens_BL, None)
        token_nll(states_BLD, model.output_weight, tokens_BL, bias_V=model.output_bias, excluded=self.mask_id)

    def num_scored(self, split: str) -> int:
        """Every text once for every way in which it is hidden and filled in."""
        return min(self.dataset.num_rows(split), self._most_texts(split) or sys.maxsize) * len(self._looks(split))

    def describe(self, step: int) -> list[str]:
        """The ids of the segments that make up an optimizer step, over all ranks."""
        assert self._steps is not None
        segments = self._steps.segments
        return [segments.record(int(row))["id"] for row in self._steps.plan.indices(step)]
