"""What a GPU would do otherwise than the CPU on whose tensors a step is traced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

_WIDE = frozenset(
    {
        *("layer_norm", "softmax", "log_softmax", "exp", "log", "log1p", "pow", "square", "sum", "prod"),
        *("cumsum", "cumprod", "norm", "reciprocal", "rsqrt", "softplus", "nll_loss", "cross_entropy", "mse_loss"),
    }
)
"""Functions that autocast runs in float32 on a GPU, and on a CPU in the type of their input (torch.amp's op lists)."""


class CudaRules(TorchFunctionMode):
    """Traces CPU tensors as a GPU would compute them, as far as memory and work can tell the difference.

    Attention runs in one kernel there and keeps no probabilities, also with dropout and with a bias that is trained
    (T5's positions); on a CPU only without. Under autocast norms, softmax and sums take and give float32.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return _attend(func, *args[:4], **kwargs | {"dropout_p": 0.0})
        if name in _WIDE and torch.is_autocast_enabled("cpu"):
            args, kwargs = pytree.tree_map(_widen, (args, kwargs))
        return func(*args, **kwargs)


def _attend(func: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, **options: Any) -> Any:
    """Attention as the memory-efficient kernel computes it: of a trained bias it makes the gradient (B, H, T, S)."""
    bias = options.pop("attn_mask", bias)
    if bias is None or not bias.requires_grad:
        return func(query, key, value, bias, **options)
    found = func(query, key, value, bias.detach(), **options)
    return _BiasGradient.apply(found, bias.expand(*query.shape[:-1], key.shape[-2]))


class _BiasGradient(torch.autograd.Function):
    """Passes the result of attention on; its backward makes a gradient for the bias."""

    @staticmethod
    def forward(ctx: Any, found: Tensor, bias: Tensor) -> Tensor:
        ctx.kind = bias.shape, bias.dtype
        return found.view_as(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        shape, dtype = ctx.kind
        return grads[0], grads[0].new_empty(shape, dtype=dtype)


def _widen(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value
