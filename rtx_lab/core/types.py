"""What passes between the layers: a batch, and the contract of a task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

Batch = dict[str, Tensor]
"""Tensors of one micro-batch. Every tensor has the sample dimension first, so a batch is cut by slicing dimension 0."""

Record = dict[str, Any]
"""What is known of one sample after evaluation; `id` names the row."""


@dataclass(slots=True)
class Cut:
    """How this run cuts its batches, and which share of them is this process's."""

    seed: int
    global_batch: int
    micro_batch: int
    micro_tokens: int | None = None
    """Tokens of a micro-batch, padding included; where it is given, `micro_batch` means nothing."""
    sort_window: int = 50
    eval_batch: int = 1
    num_workers: int = 0
    pin_memory: bool = False
    rank: int = 0
    world_size: int = 1


class Task(Protocol):
    """What a batch means. The loop, the evaluation and the composition root know nothing else of a task.

    A task that writes what it learns from has `rehearse_data(model, num_samples)` as well: what writing a micro-batch
    computes, for pricing. No loader's workers make it faster.
    """

    monitor: str
    """The metric that early stopping, best checkpoint and searches use, as `validation/accuracy`."""
    mode: str
    """`max` or `min`: which end of `monitor` is better."""
    steps_per_epoch: int
    """Optimizer steps in which every training sample is seen once."""
    watched: str
    """What is scored while training: `validation`, or a part of it that `held_out` knows by this name."""
    splits: tuple[str, ...]
    """What is scored at the end, with the best weights."""

    def batches(self, model: nn.Module, start: int, stop: int) -> Iterator[list[Batch]]:
        """Yield this rank's micro-batches for the optimizer steps start + 1 .. stop, one list per step.

        Stateless: the samples of a step are a pure function of (seed, step), however they are cut.
        """
        ...

    def weight(self, batch: Batch) -> Tensor:
        """What the loss is summed over (target tokens, masked tokens, ...), as a tensor without dimensions."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the batch, summed, and further sums to log. Must trace on fake tensors and never sync."""
        ...

    def held_out(self, split: str) -> Iterator[Batch]:
        """Yield the batches of a held-out split, every row once."""
        ...

    def score(self, model: nn.Module, batch: Batch, split: str) -> list[Record]:
        """Predict and judge every sample of a held-out batch; a prediction never sees a label.

        A record has `id` and `row`; keys that begin with `_` serve `summarise` and are not written to disk.
        """
        ...

    def summarise(self, records: list[Record]) -> dict[str, Any]:
        """Turn the records of a whole split into metrics, with intervals."""
        ...

    def inspect(self, model: nn.Module) -> dict[str, float]:
        """What can be read from the weights alone, as metrics."""
        ...

    def maps(self, model: nn.Module) -> dict[str, Any]:
        """What of the weights is worth drawing: JSON values, each kept as `<name>.json` in the run directory."""
        ...

    def files(self, records: list[Record], split: str) -> dict[str, str]:
        """Text files to keep of a split that was scored at the end, by name."""
        ...

    def example_batch(self, model: nn.Module, micro_batch: int) -> Batch:
        """The largest batch of `micro_batch` samples that training can meet, for pricing and probing."""
        ...

    def rehearse(self, model: nn.Module, num_samples: int) -> None:
        """Compute what scoring the largest `num_samples` samples computes, on empty tensors, for pricing.

        Must trace on fake tensors; nothing is judged and no data is opened.
        """
        ...

    def num_scored(self, split: str) -> int:
        """How many records `score` gives for a whole held-out split, told without opening data."""
        ...

    def describe(self, step: int) -> list[str]:
        """The row ids that make up an optimizer step."""
        ...
