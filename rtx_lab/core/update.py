"""One update of the weights: its rate, the clipped gradient, and the refusal of anything that is not finite.

Three ways to the same rule. On a GPU a fused optimizer refuses on the device, so that the host never waits. 8-bit and
paged optimizers cannot, so the host looks. In fp16 the GradScaler refuses and lowers its scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """An optimizer with its schedule, as `rtx_lab.optim` builds it and the loop uses it."""

    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    """Learning rate of optimizer step s, counted from 1."""
    max_grad_norm: float | None
    step: Callable[[Update, list[Tensor], Tensor, float], tuple[Tensor, Tensor]]
    """Divide, clip and step: `on_device` or `by_host`. Takes the summed gradients, the summed loss and the weight to
    divide by; returns the norm of the gradient and a flag, 1 if the step was refused."""
    state_bytes: float = 0.0
    """What the optimizer's state will take."""
    paged_bytes: float = 0.0
    """How much of it moves to host memory when a GPU is full."""
    prepare: Callable[[], Any] = lambda: None
    """Allocate state before the first step: a failure half-way through a step would leave a mixture of weights."""
    insist: Callable[[Callable[[], Any]], Any] = lambda work: work()
    """How a step of the optimizer is taken; the loop tries again where memory runs out."""


def set_rate(update: Update, step: int) -> float:
    """Set the learning rate of an optimizer step as plain numbers, which costs the device nothing."""
    rate = update.rate(step)
    for group in update.optimizer.param_groups:
        group["lr"] = rate
    return rate


def on_device(update: Update, grads: list[Tensor], loss: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Step a fused optimizer; where loss or gradient is not finite, weights, moments and count stay as they were."""
    norm = _divide_and_clip(grads, weight, update.max_grad_norm)
    refused = _not_finite(norm, loss)
    optimizer: Any = update.optimizer  # fused optimizers of torch read these two, as GradScaler sets them
    optimizer.found_inf, optimizer.grad_scale = refused, None
    update.insist(optimizer.step)
    return norm, refused


def by_host(update: Update, grads: list[Tensor], loss: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Step an optimizer that cannot refuse by itself, or on a CPU, where the host has nothing to wait for."""
    norm = _divide_and_clip(grads, weight, update.max_grad_norm)
    refused = _not_finite(norm, loss)
    if not refused.item():
        update.insist(update.optimizer.step)
    return norm, refused


def scaled(
    scaler: torch.amp.GradScaler, update: Update, grads: list[Tensor], loss: Tensor, _weight: float
) -> tuple[Tensor, Tensor]:
    """Step under a GradScaler: gradients that overflow are skipped and absorbed, a loss that does is refused.

    The gradients come divided by the weight already, because a sum over many tokens would overflow on its way.
    """
    refused = _not_finite(loss, loss)
    grads[0].add_(torch.where(refused.bool(), torch.nan, 0.0).to(grads[0].dtype))  # the scaler skips this step, too
    scaler.unscale_(update.optimizer)
    norm = _divide_and_clip(grads, 1.0, update.max_grad_norm)
    update.insist(partial(scaler.step, update.optimizer))
    scaler.update()
    return norm, refused


def _divide_and_clip(grads: list[Tensor], weight: float, max_norm: float | None) -> Tensor:
    """Turn summed gradients into the gradient of the mean, at most `max_norm` long, in one pass; return its length."""
    wide = torch.float64 if grads[0].dtype is torch.float64 else torch.float32
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads, 2, wide))) / weight  # pyright: ignore[reportPrivateImportUsage]
    if max_norm is None:
        torch._foreach_div_(grads, weight)  # pyright: ignore[reportPrivateImportUsage]
    else:
        factor = (max_norm / (norm + 1e-6)).clamp_(max=1.0).div_(weight)
        torch._foreach_mul_(grads, factor)  # pyright: ignore[reportPrivateImportUsage]
    return norm


def _not_finite(a: Tensor, b: Tensor) -> Tensor:
    """1.0 if a or b is inf or NaN, else 0.0, in three tiny kernels: 0 * x is 0 for finite x and NaN otherwise."""
    return (a + b).float().mul_(0.0).ne_(0.0)


def load_state(optimizer: torch.optim.Optimizer, tree: dict[int, dict[str, Any]]) -> None:
    """Load per-parameter state; where it is allocated already, copy into it, so that paged state stays paged."""
    groups = optimizer.state_dict()["param_groups"]
    if not optimizer.state:
        optimizer.load_state_dict({"state": tree, "param_groups": groups})
        return
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for index, saved in tree.items():
        own = optimizer.state[params[index]]
        for key, value in _leaves(saved):
            if isinstance(value, Tensor):
                own[key].copy_(value)
            else:
                own[key] = value


def _leaves(saved: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """bitsandbytes nests its quantised state one level deeper; the keys below are those of the optimizer."""
    for key, value in saved.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield key, value
