"""Memory that runs out where a test wants it to, told as torch tells it."""

import torch
from torch import Tensor


def run_out() -> None:
    """Fail as a card does on which nothing more fits."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def run_out_backward(loss: Tensor, fails: bool) -> Tensor:
    """The same loss; if it `fails`, its backward pass runs out of memory."""
    return _Backward.apply(loss, fails)  # type: ignore[return-value]


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss, fails):
        ctx.fails = fails
        return loss.clone()

    @staticmethod
    def backward(ctx, *grads):
        if ctx.fails:
            run_out()
        return grads[0], None
