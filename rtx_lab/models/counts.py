"""Parameter counts: of a module, and of an encoder in closed form, so that one can be sized before it is built."""

from __future__ import annotations

from torch import nn

from rtx_lab.models.quantised import FrozenLinear


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable values of a module (also on the meta device)."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_weights(module: nn.Module) -> int:
    """Return the number of weights, trained or not, however few bits they are kept in (also on the meta device)."""
    packed = sum(
        layer.shape.numel() + (0 if layer.bias is None else layer.bias.numel())
        for layer in module.modules()
        if isinstance(layer, FrozenLinear)
    )
    return packed + sum(parameter.numel() for parameter in module.parameters())


def attention_parameters(d_model: int) -> int:
    """Return the parameters of one attention: query, key, value and output without biases."""
    return 4 * d_model**2


def feed_forward_parameters(d_model: int, d_ff: int) -> int:
    """Return the parameters of two linear maps with biases."""
    return 2 * d_model * d_ff + d_ff + d_model


def encoder_parameters(d_model: int, num_layers: int, d_ff: int) -> int:
    """Return the parameters of a stack of self-attention blocks and its last norm."""
    block = attention_parameters(d_model) + feed_forward_parameters(d_model, d_ff) + 4 * d_model
    return num_layers * block + 2 * d_model
