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

    Attention with dropout runs in one kernel there and keeps no probabilities; on a CPU only attention without dropout
    does. Under autocast norms, softmax and sums take and give float32.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            kwargs["dropout_p"] = 0.0
            args = args[:4]
        elif name in _WIDE and torch.is_autocast_enabled("cpu"):
            args, kwargs = pytree.tree_map(_widen, (args, kwargs))
        return func(*args, **kwargs)


def _widen(value: Any) -> Any:
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value
