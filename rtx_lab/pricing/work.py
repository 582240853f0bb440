"""The arithmetic and the memory traffic of a computation, operator by operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from rtx_lab.core.repeats import times


@dataclass(frozen=True, slots=True)
class Operators:
    """Operators alike in cost: floating-point operations and bytes moved by each, and how many there are."""

    flops: int
    moved_bytes: int
    count: int


class Work:
    """Counts operators; its `observe` is told of each by `core.live_bytes.LiveBytes`. Views are free.
    What is done within `core.repeats.repeated` counts as often as it says.

    FLOPs follow the formulas of torch.utils.flop_counter (2 per multiply-add; only products and attention count), with
    those of attention extended to the CPU's kernel. Bytes are the tensors that an operator reads and writes, each once.
    """

    def __init__(self) -> None:
        self._seen: Counter[tuple[int, int]] = Counter()

    def observe(self, func: Any, tensors: list[Tensor], args: Any, kwargs: Any, out: Any) -> None:
        """Count one operator."""
        count = times()
        if count and not func.is_view:
            formula = _FORMULAS.get(func._overloadpacket)
            flops = formula(*args, **kwargs, out_val=out) if formula else 0
            # an expanded tensor is read from the few bytes that it stands on
            moved = sum(min(tensor.nbytes, tensor.untyped_storage().nbytes()) for tensor in tensors)
            self._seen[flops, moved] += count

    def operators(self) -> tuple[Operators, ...]:
        """What was counted so far, equal costs together."""
        return tuple(Operators(flops, moved, count) for (flops, moved), count in sorted(self._seen.items()))


def total_flops(operators: Iterable[Operators]) -> int:
    """Floating-point operations of all operators together."""
    return sum(each.flops * each.count for each in operators)


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)


_aten = torch.ops.aten
_FORMULAS: dict[Any, Any] = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
