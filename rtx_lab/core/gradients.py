"""The gradients of one optimizer step: accumulated over micro-batches, in smaller pieces when memory runs out."""

from __future__ import annotations

import hashlib
import logging
import math

import torch
from torch import Tensor

from rtx_lab.core.memory import OutOfMemory, forget, is_out_of_memory, pieces, rows
from rtx_lab.core.training import Training
from rtx_lab.core.types import Batch

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
        _halve(run, step, max(rows(piece) for piece in pieces(batches, run.state.micro_batch)))


def _accumulate(run: Training, batches: list[Batch], weight: float, metrics: list[dict[str, Tensor]]) -> Tensor:
    total = None
    for piece in pieces(batches, run.state.micro_batch):
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


def _halve(run: Training, step: int, size: int) -> None:
    if size == 1:
        raise OutOfMemory("not even one sample at a time fits in memory: use a smaller model or shorter sequences")
    run.state.micro_batch = size // 2
    run.state.events.append({"event": "out_of_memory", "step": step, "micro_batch": size, "retried_with": size // 2})
    _logger.warning("out of memory at step %d: the same samples again in pieces of %d, not %d", step, size // 2, size)


def agree(run: Training, failure: OutOfMemory | None) -> bool:
    """Let all processes end alike, cut alike, and have gradients for the same parameters; return whether to stop."""
    if not run.ranks.alone:
        own = run.state.micro_batch or math.inf
        has_grad = [float(param.grad is not None) for param in run.params]
        head = [float(failure is not None), -own, float(run.stop.signum or 0)]
        failed, smallest, signum, *wanted = run.ranks.max_host([*head, *has_grad])
        for param, want in zip(run.params, wanted, strict=True):
            if want and param.grad is None:
                param.grad = torch.zeros_like(param)
        run.state.micro_batch = None if math.isinf(smallest) else int(-smallest)
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
