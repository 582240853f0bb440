"""Linear layers that are never trained, in few bits: what QLoRA (arXiv 2305.14314) keeps of its base model.

    nf4    4-bit NormalFloat in blocks of 64, whose scales are 8-bit in blocks of 256: 4.13 bits a weight
    int8   integers with one float32 scale a row: 8 bits a weight
    bf16   bfloat16

Products are taken in bfloat16, and a layer's whole weight exists in bfloat16 only while its product is taken, forward
and backward. The numbers of nf4 are those of bitsandbytes' Linear4bit. Its module is not used: in evaluation mode on a
CPU it repacks the weight for a kernel of inference, and a later training step computes with what is left, silently.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

STORAGES = ("none", "bf16", "int8", "nf4")
"""How frozen weights may be kept; `none` is float32."""
_BLOCK = 64
"""Weights that share a scale (QLoRA, section 3)."""
_SCALES = 256
"""Scales that share a scale of their own."""
_CODES = 256
"""Entries of the table that 8-bit scales are looked up in."""


class FrozenLinear(nn.Module):
    """x W' + b with a frozen W (O, I) kept as `storage` says; made from a float32 layer, also without memory.

    Where autocast is on, the output is what its products give; otherwise it has the type of the input.
    """

    weight = None
    """There is no tensor to look at: code that would cast its input to the type of the weight leaves it alone."""

    bias: Tensor | None
    codes: Tensor
    scale: Tensor
    scales: Tensor
    scale_of_scales: Tensor
    offset: Tensor
    table: Tensor
    levels: Tensor

    def __init__(self, source: nn.Linear, storage: str) -> None:
        super().__init__()
        self.storage, self.shape = storage, source.weight.shape
        weight_OI = source.weight.detach()
        pack = {"bf16": _pack_bf16, "int8": _pack_int8, "nf4": _pack_nf4}[storage]
        for name, value in pack(weight_OI).items():
            self.register_buffer(name, value)
        self.register_buffer("bias", None if source.bias is None else source.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., O) for (..., I)."""
        half = x.to(torch.bfloat16)
        with torch.autocast(x.device.type, enabled=False):
            y = self._product(half)
            if self.bias is not None:
                y = y + self.bias.to(y.dtype)
        return y if torch.is_autocast_enabled(x.device.type) else y.to(x.dtype)

    def _product(self, half: Tensor) -> Tensor:
        if self.storage == "nf4" and not is_weightless(self.codes):
            import bitsandbytes

            return bitsandbytes.matmul_4bit(half, self.codes, quant_state=self._state())  # pyright: ignore
        return _Product.apply(half, self)

    def dense(self) -> Tensor:
        """The weight (O, I) in bfloat16, made anew."""
        if self.storage == "bf16":
            return self.codes
        if self.storage == "int8":
            return self.codes * self.scale.to(torch.bfloat16)
        if is_weightless(self.codes):
            scales = self.codes.new_empty(-(-self.shape.numel() // _BLOCK), dtype=torch.float32)
            return scales.new_empty(self.shape, dtype=torch.bfloat16)
        from bitsandbytes import functional

        return functional.dequantize_4bit(self.codes, self._state())

    def _state(self) -> Any:
        """What bitsandbytes wants to know, over the buffers as they lie on the device now."""
        from bitsandbytes.functional import QuantState

        outer = QuantState(absmax=self.scale_of_scales, code=self.table, blocksize=_SCALES, dtype=torch.float32)
        return QuantState(
            absmax=self.scales, shape=self.shape, code=self.levels, blocksize=_BLOCK, quant_type="nf4",
            dtype=torch.bfloat16, offset=self.offset, state2=outer,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{self.shape[1]}, {self.shape[0]}, {self.storage}"


class _Product(torch.autograd.Function):
    """x W', with W made once for the product and once more for its gradient; nothing of x is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.layer = layer
        return nn.functional.linear(x, layer.dense())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad @ ctx.layer.dense(), None


def freeze_linears(root: nn.Module, storage: str) -> None:
    """Replace every plain linear layer below `root` by a frozen one; `none` leaves them as they are."""
    if storage == "none":
        return
    for name, layer in list(root.named_modules()):
        if type(layer) is nn.Linear:
            parent, _, last = name.rpartition(".")
            setattr(root.get_submodule(parent), last, FrozenLinear(layer, storage))


def is_weightless(tensor: Tensor) -> bool:
    """Whether a tensor has a shape and no values: on the meta device or in a trace."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def _pack_bf16(weight_OI: Tensor) -> dict[str, Tensor]:
    return {"codes": weight_OI.to(torch.bfloat16)}


def _pack_int8(weight_OI: Tensor) -> dict[str, Tensor]:
    weight_OI = weight_OI.float()  # in bfloat16 the largest weight of a row may come out as 128, which no int8 holds
    scale_O1 = weight_OI.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return {"codes": (weight_OI / scale_O1).round().to(torch.int8), "scale": scale_O1}


def _pack_nf4(weight_OI: Tensor) -> dict[str, Tensor]:
    if is_weightless(weight_OI):
        blocks = -(-weight_OI.numel() // _BLOCK)
        sizes = {"codes": (-(-weight_OI.numel() // 2), 1), "scales": (blocks,)}
        packed = {name: weight_OI.new_empty(size, dtype=torch.uint8) for name, size in sizes.items()}
        wide = {"scale_of_scales": (-(-blocks // _SCALES),), "offset": (), "table": (_CODES,), "levels": (16,)}
        return packed | {name: weight_OI.new_empty(size) for name, size in wide.items()}
    from bitsandbytes import functional

    made: Any = functional.quantize_4bit(
        weight_OI.contiguous(), blocksize=_BLOCK, compress_statistics=True, quant_type="nf4"
    )
    codes, state = made
    return {
        "codes": codes, "scales": state.absmax, "offset": state.offset, "levels": state.code,
        "scale_of_scales": state.state2.absmax, "table": state.state2.code,
    }  # fmt: skip
