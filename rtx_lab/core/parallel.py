"""Data parallel by torchrun: who this process is, and the few sums that all processes must agree on.

Gradients are summed by our own all-reduce after the last micro-batch instead of DistributedDataParallel's hooks. The
loss is a sum over micro-batches of unequal weight, a process may have to repeat a step in smaller pieces after an
out-of-memory, and a task may call parts of the model: none of this then needs a word from the others. The price is
that communication does not overlap with the backward pass.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

_BUCKET_BYTES = 64 * 2**20
"""Gradients travel in copies of about this size: large enough for the bandwidth, small beside a model."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together; alone, every method costs nothing and changes nothing."""

    rank: int = 0
    world_size: int = 1

    @property
    def leads(self) -> bool:
        """Rank 0 writes; the others compute."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.world_size == 1

    def sum_host(self, values: Sequence[float]) -> list[float]:
        """Sum host numbers over all processes, in float64 and without touching a GPU."""
        return list(values) if self.alone else _reduce_host(values, dist.ReduceOp.SUM)

    def max_host(self, values: Sequence[float]) -> list[float]:
        """The largest of host numbers over all processes, place by place."""
        return list(values) if self.alone else _reduce_host(values, dist.ReduceOp.MAX)

    def from_lead(self, values: Sequence[float]) -> list[float]:
        """The numbers that rank 0 has."""
        if self.alone:
            return list(values)
        host = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(host, src=0)
        return host.tolist()

    def sum_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors in place over all processes, in buckets of one dtype and in the given order."""
        if self.alone:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            dist.all_reduce(flat)
            pieces = flat.split([tensor.numel() for tensor in bucket])
            for tensor, piece in zip(bucket, pieces, strict=True):
                tensor.copy_(piece.view_as(tensor))

    def same_weights(self, model: nn.Module) -> None:
        """Give every process the weights of rank 0."""
        if not self.alone:
            for tensor in [*model.parameters(), *model.buffers()]:
                sent = tensor.detach().contiguous()
                dist.broadcast(sent.view(torch.uint8) if sent.dtype is torch.bool else sent, src=0)
                tensor.detach().copy_(sent)


def join(device_type: str) -> Ranks:
    """Join the processes that torchrun started, or stay alone. Host numbers go by gloo, GPU tensors by nccl."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Ranks()
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), world_size)


def leave_together(ranks: Ranks) -> None:
    """Part from the other processes once all have come here, so that nobody's last word is broken off."""
    if not ranks.alone and dist.is_initialized():
        dist.barrier()
    leave(ranks)


def leave(ranks: Ranks) -> None:
    """Part from the other processes at once, as after a failure that they may not know of."""
    if not ranks.alone and dist.is_initialized():
        dist.destroy_process_group()


def _reduce_host(values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
    host = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(host, op=operation)
    return host.tolist()


def _buckets(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    buckets: list[list[Tensor]] = []
    size = 0
    for tensor in tensors:
        if not buckets or size + tensor.nbytes > _BUCKET_BYTES or tensor.dtype != buckets[-1][0].dtype:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.nbytes
    return buckets
