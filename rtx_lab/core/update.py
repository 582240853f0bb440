"""One update of the weights: its rate, the clipped gradient, and the refusal of anything that is not finite.

Three ways to the same rule. A fused optimizer refuses on the device, so that the host never waits. 8-bit and paged
optimizers cannot, so the host looks. In fp16 the GradScaler refuses and lowers its scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """An optimizer with its schedule, as `rtx_lab.optim` builds it and the loop uses it."""

    optimizer: torch.optim.Optimizer
    rate: Callable[[int], float]
    """Learning rate of optimizer step s, counted from 1."""
    max_grad_norm: float | None
    step: Callable[[Update, Sequence[nn.Parameter], Tensor], tuple[Tensor, Tensor]]
    """Clip and step: `on_device` or `by_host`. Takes the summed loss; returns the norm and a flag, 1 if refused."""
    state_bytes: float = 0.0
    """What the optimizer's state will take, for `budget.micro_batch=auto`."""
    prepare: Callable[[], Any] = lambda: None
    """Allocate state before the first step where a failure half-way through a step would leave a mixture of weights."""


def set_rate(update: Update, step: int) -> float:
    """Set the learning rate of an optimizer step as plain numbers, which costs the device nothing."""
    rate = update.rate(step)
    for group in update.optimizer.param_groups:
        group["lr"] = rate
    return rate


def on_device(update: Update, params: Sequence[nn.Parameter], loss: Tensor) -> tuple[Tensor, Tensor]:
    """Step a fused optimizer; where loss or gradient is not finite, weights, moments and count stay as they were."""
    norm = _clip(update, params)
    refused = _not_finite(norm, loss)
    optimizer: Any = update.optimizer  # fused optimizers of torch read these two, as GradScaler sets them
    optimizer.found_inf, optimizer.grad_scale = refused, None
    optimizer.step()
    return norm, refused


def by_host(update: Update, params: Sequence[nn.Parameter], loss: Tensor) -> tuple[Tensor, Tensor]:
    """Step an optimizer that cannot refuse by itself: the host waits for the flag and skips the step."""
    norm = _clip(update, params)
    refused = _not_finite(norm, loss)
    if not refused.item():
        update.optimizer.step()
    return norm, refused


def scaled(
    scaler: torch.amp.GradScaler, update: Update, params: Sequence[nn.Parameter], loss: Tensor
) -> tuple[Tensor, Tensor]:
    """Step under a GradScaler: gradients that overflow are skipped and absorbed, a loss that does is refused."""
    refused = _not_finite(loss, loss)
    first = next(param.grad for param in params if param.grad is not None)
    first.add_(torch.where(refused.bool(), torch.nan, 0.0).to(first.dtype))  # so that the scaler skips this step too
    scaler.unscale_(update.optimizer)
    norm = _clip(update, params)
    scaler.step(update.optimizer)
    scaler.update()
    return norm, refused


def _clip(update: Update, params: Sequence[nn.Parameter]) -> Tensor:
    with torch.no_grad():
        norm = nn.utils.get_total_norm([param.grad for param in params if param.grad is not None])
        if update.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(params, update.max_grad_norm, norm)
    return norm


def _not_finite(a: Tensor, b: Tensor) -> Tensor:
    """1.0 if a or b is inf or NaN, else 0.0, in three tiny kernels: 0 * x is 0 for finite x and NaN otherwise."""
    return (a.detach() + b.detach()).float().mul_(0.0).ne_(0.0)
