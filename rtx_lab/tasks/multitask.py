"""Two losses in one optimizer step: denoising, and the class of each whole text. How a loss is added as a Task.

The task holds a `DenoiseTask`, hands everything on to it and adds its own: a label to the batches, a term to the loss,
batches and records of whole texts to an evaluation. A loss is a sum that the loop divides by one weight, which is that
of denoising: hidden tokens. The classes shall count as a mean over the texts of the step, so the cross entropy of each
text is multiplied by (hidden tokens / texts) of the whole step. Like the samples, that is a pure function of
(seed, step) and the same in every micro-batch and on every rank.

Shapes: B samples, L segment length, C classes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rtx_lab.core.errors import UsageError
from rtx_lab.core.types import Batch, Cut, Record
from rtx_lab.data.batching import by_length
from rtx_lab.data.labelled import LabelledTexts
from rtx_lab.data.loading import step_loader
from rtx_lab.models.class_head import class_logits
from rtx_lab.scoring.intervals import mean_interval, wilson_interval
from rtx_lab.tasks.denoise import DenoiseTask
from rtx_lab.tasks.denoise_batches import DenoisingSteps, text_batch
from rtx_lab.tasks.passes import CURVE_STEPS


class LabelledSteps(Dataset[list[Batch]]):
    """The steps of denoising with two columns more: label (B,), and scale (B,), by which each text's term counts."""

    def __init__(self, steps: DenoisingSteps, labels: np.ndarray) -> None:
        self.steps, self.labels = steps, labels

    def __getitem__(self, step: int) -> list[Batch]:
        rows, _, drawn = self.steps.draw(step)
        scale = (float(drawn.size.sum()) or 1.0) / len(rows)  # without any hidden token the loop divides by 1
        return [self._labelled(batch, scale) for batch in self.steps[step]]

    def _labelled(self, batch: Batch, scale: float) -> Batch:
        index = batch["index"].numpy()
        there = index >= 0  # a rank without a share has one sample that is no row
        label = np.where(there, self.labels[index], 0)
        return batch | {"label": torch.from_numpy(label), "scale": torch.from_numpy(there * scale).float()}


class DenoiseAndClassifyTask:
    """Denoising with a class for each text; see `rtx_lab.core.types.Task` for the contract.

    The loss of the classes, a mean over texts in nats, is added to that of denoising times `loss_weight_class`. The
    model needs a head for as many classes as the dataset has (`model.num_classes`). A class is told from the whole
    text; no label reaches a prediction.
    """

    mode = "max"
    monitor = "validation/class_accuracy"
    watched, splits = DenoiseTask.watched, DenoiseTask.splits

    def __init__(self, *, dataset: LabelledTexts, cut: Cut, generation: Any, loss_weight_class: float = 1.0) -> None:
        if not 0 <= loss_weight_class < math.inf:
            raise UsageError(f"task.loss_weight_class must be a finite number of at least 0, got {loss_weight_class}")
        self.dataset, self.cut, self.loss_weight_class = dataset, cut, loss_weight_class
        self.denoise = DenoiseTask(dataset=dataset.texts, cut=cut, generation=generation)

    @property
    def steps_per_epoch(self) -> int:
        return self.denoise.steps_per_epoch

    def batches(self, model: Any, start: int, stop: int) -> Iterator[list[Batch]]:
        """This rank's micro-batches of the optimizer steps start + 1 .. stop."""
        steps = LabelledSteps(self.denoise.steps(model), self.dataset.labels("train"))
        workers, pin = self.cut.num_workers, self.cut.pin_memory
        return step_loader(steps, start=start, stop=stop, num_workers=workers, pin_memory=pin)

    def weight(self, batch: Batch) -> Tensor:
        """That of denoising."""
        return self.denoise.weight(batch)

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of denoising, summed, plus the classes' term in the same unit; both are logged by themselves."""
        loss, sums = self.denoise.loss(model, batch)
        nll_B, guess_B = self._classify(model, batch)
        class_loss = (nll_B * batch["scale"]).sum()
        total = loss + self.loss_weight_class * class_loss
        right = ((guess_B == batch["label"]) * batch["scale"]).sum()
        return total, sums | {"total_loss": total.detach(), "class_loss": class_loss.detach(), "class_accuracy": right}

    def _classify(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """-log p of the label in nats (B,), and the likeliest class (B,)."""
        num_classes = len(self.dataset.classes)
        if model.num_classes != num_classes:
            raise UsageError(
                f"the model's head knows {model.num_classes} classes and {self.dataset.name} has {num_classes}: set "
                f"model.num_classes={num_classes}"
            )
        logits_BC = class_logits(model, batch["tokens"], batch.get("real"))
        wide_BC = logits_BC.to(torch.promote_types(logits_BC.dtype, torch.float32))
        return torch.nn.functional.cross_entropy(wide_BC, batch["label"], reduction="none"), wide_BC.argmax(1)

    def held_out(self, split: str) -> Iterator[Batch]:
        """The batches of denoising, then every text of the split once, whole and with its label."""
        yield from self.denoise.held_out(split)
        segments, labels = self.dataset.split(split), self.dataset.labels(split)
        order = by_length(np.arange(len(segments)), segments.lengths)[::-1].copy()
        size = self.denoise.scored_at_once
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield text_batch(segments, rows) | {"label": torch.from_numpy(labels[rows])}

    def score(self, model: Any, batch: Batch, split: str) -> list[Record]:
        """Judge what was filled in, or the class that the text alone was given."""
        if "label" not in batch:
            return self.denoise.score(model, batch, split)
        nll_B, guess_B = self._classify(model, batch)
        segments, classes = self.dataset.split(split), self.dataset.classes
        after_denoising = (len(self.dataset.texts.mask_ratios) + len(CURVE_STEPS)) * len(segments)
        columns = (batch["index"], batch["label"], guess_B, nll_B)
        return [
            {
                "id": f"{segments.record(row)['id']}/class", "row": after_denoising + row, "part": "class",
                "gold": classes[label], "prediction": classes[guess], "class_correct": guess == label, "class_nll": nll,
            }
            for row, label, guess, nll in zip(*(column.tolist() for column in columns), strict=True)
        ]  # fmt: skip

    def summarise(self, records: list[Record]) -> dict[str, Any]:
        """What denoising tells, and of the classes accuracy and loss with their intervals."""
        whole = [record for record in records if record.get("part") == "class"]
        return self.denoise.summarise([record for record in records if "part" not in record]) | _of_classes(whole)

    def inspect(self, model: Any) -> dict[str, float]:
        """Nothing can be told from the weights alone."""
        return self.denoise.inspect(model)

    def maps(self, model: Any) -> dict[str, Any]:
        """Nothing of the weights is drawn."""
        return self.denoise.maps(model)

    def files(self, records: list[Record], split: str) -> dict[str, str]:
        """Nothing is kept beside the predictions."""
        return self.denoise.files(records, split)

    def example_batch(self, model: Any, micro_batch: int) -> Batch:
        """That of denoising with the two columns more."""
        batch = self.denoise.example_batch(model, micro_batch)
        return batch | {"label": batch["index"].clone(), "scale": batch["size"].clone()}

    def rehearse(self, model: Any, num_samples: int) -> None:
        """What denoising rehearses, then the classes of as many of the longest texts."""
        self.denoise.rehearse(model, num_samples)
        tokens_BL = torch.zeros(num_samples, self.dataset.max_source_length, dtype=torch.int64)
        self._classify(model, {"tokens": tokens_BL, "label": tokens_BL[:, 0]})

    def num_scored(self, split: str) -> int:
        """The records of denoising, and one for every text of the split."""
        return self.denoise.num_scored(split) + self.dataset.num_rows(split)

    def describe(self, step: int) -> list[str]:
        """The ids of the texts that make up an optimizer step, over all ranks."""
        return self.denoise.describe(step)


def _of_classes(records: Sequence[Record]) -> dict[str, Any]:
    """Accuracy (Wilson's interval), loss in nats per text (Student's), and how often the commonest class is right."""
    if not records:
        return {}
    right, count = sum(record["class_correct"] for record in records), len(records)
    losses = [record["class_nll"] for record in records]
    most = max(Counter(record["gold"] for record in records).values())
    metrics = {
        "class_n": count, "class_accuracy": right / count, "class_majority": most / count, "class_loss": fmean(losses),
    }  # fmt: skip
    intervals = {"class_accuracy": wilson_interval(right, count), "class_loss": mean_interval(losses)}
    for name, interval in intervals.items():
        if interval is not None:
            metrics |= {f"{name}_low": interval[0], f"{name}_high": interval[1]}
    return metrics
