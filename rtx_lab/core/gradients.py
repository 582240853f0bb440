"""The gradients of one optimizer step: accumulated over micro-batches, in smaller pieces when memory runs out."""

from __future__ import annotations

import hashlib
import logging
import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rtx_lab.core.cutting import once_more
from rtx_lab.core.device import Device
from rtx_lab.core.memory import OutOfMemory, forget, is_out_of_memory
from rtx_lab.core.training import Training, TrainState
from rtx_lab.core.types import Batch
from rtx_lab.core.update import Update

_logger = logging.getLogger(__name__)


def compute(run: Training, step: int, batches: list[Batch], weight: float) -> Tensor:
    """Accumulate the gradients of a step's samples, in ever smaller pieces until they fit; return the summed loss."""
    while True:
        run.device.seed(step_seed(run.seed, step), stream=run.ranks.rank)
        metrics: list[dict[str, Tensor]] = []
        try:
            loss = _accumulate(run, batches, weight, metrics)
            for counts in metrics:
                run.window.add_metrics(counts)
            return loss
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            forget(error)
        drop(run)
        metrics.clear()
        run.device.release()
        _cut_smaller(run, step, batches)


def _accumulate(run: Training, batches: list[Batch], weight: float, metrics: list[dict[str, Tensor]]) -> Tensor:
    total = None
    for piece in run.cutting.cut(batches, limit(run)):
        with run.device.autocast:
            loss, counts = run.task.loss(run.model, run.device.move(piece))
        if run.device.scaler:
            loss.backward(gradient=run.device.scaler.scale(torch.full_like(loss, 1.0 / weight)))
        else:
            loss.backward()
        total = loss.detach() if total is None else total + loss.detach()
        metrics.append(counts)
    assert total is not None
    return total


def limit(run: Training) -> int | None:
    """The most samples or tokens of a piece that an out-of-memory has left in force."""
    return getattr(run.state, run.cutting.name)


def _cut_smaller(run: Training, step: int, batches: list[Batch]) -> None:
    largest, smaller = run.cutting.smaller(run.cutting.cut(batches, limit(run)))
    setattr(run.state, run.cutting.name, smaller)
    event = run.cutting.event(largest, smaller)
    run.state.events.append({"event": event.pop("event"), "step": step, **event})
    _logger.warning(
        "out of memory at step %d with %s=%d: the same samples again with %d",
        step, run.cutting.name, run.cutting.size(largest), smaller,
    )  # fmt: skip


def insisting(update: Update, device: Device, state: TrainState) -> Update:
    """An update that tries its optimizer a second time where memory runs out, after cached blocks were given back.

    Nothing has changed by then: optimizers allocate their state before they touch a weight.
    """

    def tell() -> None:
        state.events.append({"event": "out_of_memory", "step": state.step + 1, "where": "update"})
        _logger.warning("out of memory in the update of step %d: once more after a clean-up", state.step + 1)

    return replace(update, insist=partial(once_more, release=device.release, tell=tell))


def agree(run: Training, failure: OutOfMemory | None) -> bool:
    """Let all processes end alike, cut alike, and have gradients for the same parameters; return whether to stop."""
    if not run.ranks.alone:
        own = limit(run) or math.inf
        has_grad = [float(param.grad is not None) for param in run.params]
        head = [float(failure is not None), -own, float(run.stop.signum or 0)]
        failed, smallest, signum, *wanted = run.ranks.max_host([*head, *has_grad])
        for param, want in zip(run.params, wanted, strict=True):
            if want and param.grad is None:
                param.grad = torch.zeros_like(param)
        setattr(run.state, run.cutting.name, None if math.isinf(smallest) else int(-smallest))
        run.stop.signum = int(signum) or None
        if failed and not failure:
            raise OutOfMemory("another process ran out of memory with one sample at a time")
    if failure:
        raise failure
    return run.stop.signum is not None


def drop(run: Training) -> None:
    """Free the gradients; they are made anew by the next backward pass."""
    for param in run.params:
        param.grad = None


def step_seed(seed: int, step: int) -> int:
    """Seed of everything random in one optimizer step, equal on all ranks: a hash, so that no two steps are related."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{step}".encode(), digest_size=7).digest(), "little")
