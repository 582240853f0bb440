"""Out of memory: how it is recognised, how work is cut into smaller pieces, and how large pieces may be."""

from __future__ import annotations

import logging
import math
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from rtx_lab.core.device import GB, Device
from rtx_lab.core.live_bytes import LiveBytes
from rtx_lab.core.parallel import Ranks
from rtx_lab.core.types import Batch, Record, Task

_logger = logging.getLogger(__name__)
_TEXTS = re.compile(
    r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|HIP_ERROR_OutOfMemory|"
    r"DefaultCPUAllocator: can't allocate memory|DefaultCPUAllocator: not enough memory",
    re.IGNORECASE,
)
USABLE = 0.92
"""Share of the memory that tensors may fill: allocators round up and fragment."""
PROCESS_BYTES = 0.75 * GB
"""What a process needs besides tensors: libraries, or the context on a GPU."""


class OutOfMemory(Exception):
    """Not even a single sample fits."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, in one of the ways of CUDA, cuBLAS, cuDNN, HIP and the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and bool(_TEXTS.search(str(error)))


def forget(error: BaseException) -> None:
    """Let go of the tensors that an exception's frames hold, which would else live as long as the exception."""
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__  # type: ignore[assignment]


def rows(batch: Batch) -> int:
    """Number of samples in a batch."""
    return next(iter(batch.values())).shape[0]


def pieces(batches: Iterable[Batch], limit: int | None) -> Iterator[Batch]:
    """Cut batches into pieces of at most `limit` samples, in order; without a limit they stay as they are."""
    for batch in batches:
        size = rows(batch)
        if limit is None or size <= limit:
            yield batch
        else:
            for start in range(0, size, limit):
                yield {name: value[start : start + limit] for name, value in batch.items()}


def room_bytes(memory_gb: float) -> float:
    """What tensors may fill of a memory of `memory_gb`."""
    return USABLE * memory_gb * GB - PROCESS_BYTES


def largest_micro_batch(per_step: int, bytes_of: Callable[[int], float], room: float) -> int:
    """The largest divisor of a step's samples whose training step needs at most `room` bytes; 1 if none does.

    `bytes_of` may run the step for real: it is asked for two small sizes, and memory is taken to grow in proportion,
    which overestimates where the model works in pieces of fixed size. Deterministic.
    """
    divisors = [size for size in range(1, per_step + 1) if per_step % size == 0]
    if len(divisors) < 3:
        small, large = 1, per_step
    else:
        small, large = divisors[1], divisors[2]
    at_small, at_large = bytes_of(small), bytes_of(large)
    per_sample = max(0.0, (at_large - at_small) / max(1, large - small))
    return max([d for d in divisors if at_large + (d - large) * per_sample <= room] or [1])


def find_auto(
    budget: Any,
    model: nn.Module,
    task: Any,
    device: Device,
    ranks: Ranks,
    state_bytes: Callable[[], float],
    tokens: Callable[[Batch], int],
) -> list[Record]:
    """Put what `auto` means in `budget.micro_batch` or `micro_tokens` into `task.cut`; return the event, if any.

    Before the task cuts its first batch. The same on every rank: the smallest. `tokens` counts those of a batch with
    its padding.
    """
    share = max(1, budget.global_batch // ranks.world_size)
    if budget.micro_batch == "auto":
        name, own = "micro_batch", fit_micro_batch(model, task, device, share, state_bytes())
    elif budget.micro_tokens == "auto":
        name, own = "micro_tokens", fit_micro_tokens(model, task, device, share, state_bytes(), tokens)
    else:
        return []
    found = -int(ranks.max_host([-own])[0])
    setattr(task.cut, name, found)
    _logger.info("budget.%s=auto: %d fit", name, found)
    return [{"event": f"{name}_found", name: found}]


def fit_micro_tokens(
    model: nn.Module,
    task: Task,
    device: Device,
    per_step: int,
    state_bytes: float,
    tokens: Callable[[Batch], int],
) -> int:
    """Find the tokens for `budget.micro_tokens=auto`, from samples of the largest shape; see `fit_micro_batch`.

    A tenth is left free unless the whole step fits: micro-batches have many shapes, which fragments memory.
    """
    per_sample = tokens(filled(task.example_batch(model, 1)))
    room = room_bytes(device.memory_gb) - state_bytes
    measure = _gpu_peak if device.is_cuda else _cpu_peak
    few, more = min(2, per_step), min(4, per_step)
    at_few, at_more = (measure(model, task, device, size) for size in (few, more))
    if math.isinf(at_more):
        return per_sample
    slope = max(1.0, (at_more - at_few) / max(1, more - few))
    size = max(1, min(per_step, few + int((room - at_few) // slope)))
    while device.is_cuda and size > 1 and measure(model, task, device, size) > room:
        size = max(1, int(0.7 * size))
    return size * per_sample if size == per_step else max(per_sample, int(0.9 * size * per_sample))


def fit_micro_batch(model: nn.Module, task: Task, device: Device, per_step: int, state_bytes: float) -> int:
    """Find the micro-batch for `budget.micro_batch=auto`: the largest divisor of this process's samples.

    Runs forward and backward on example batches of the largest shape. On a GPU the choice is then confirmed at full
    size; on a CPU live tensor bytes of two small sizes decide. `state_bytes`: what the optimizer will still allocate.
    The same model and `hardware.memory_gb` give the same answer; what other programs hold is left to the halving.
    """
    room = room_bytes(device.memory_gb) - state_bytes
    measure = _gpu_peak if device.is_cuda else _cpu_peak
    size = largest_micro_batch(per_step, lambda m: measure(model, task, device, m), room)
    while device.is_cuda and size > 1 and measure(model, task, device, size) > room:
        size = max(d for d in range(1, size) if per_step % d == 0)
    return size


def _one_step(model: nn.Module, task: Task, device: Device, size: int) -> None:
    batch = device.move(filled(task.example_batch(model, size)))
    with device.autocast:
        loss, _ = task.loss(model, batch)
    loss.backward()


def _cpu_peak(model: nn.Module, task: Task, device: Device, size: int) -> float:
    weights = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    with LiveBytes() as live:
        _one_step(model, task, device, size)
        model.zero_grad(set_to_none=True)
    return weights + live.peak


def _gpu_peak(model: nn.Module, task: Task, device: Device, size: int) -> float:
    torch.cuda.reset_peak_memory_stats(device.torch_device)
    try:
        _one_step(model, task, device, size)
        peak = float(torch.cuda.max_memory_allocated(device.torch_device))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        forget(error)
        peak = float("inf")
    model.zero_grad(set_to_none=True)
    device.release()
    return peak


def filled(batch: Batch) -> Batch:
    """Give empty example tensors values that any model accepts: id 0 everywhere, every position in use."""
    return {
        name: torch.ones_like(value) if value.dtype == torch.bool else torch.zeros_like(value)
        for name, value in batch.items()
    }
