"""LoRA (arXiv 2106.09685) and trained rows of new tokens, around weights that stay as they are.

    linear:  y = W x + (alpha / R) B A drop(x)
    table:   E[i] + (alpha / R) B[i] A,  with E[i] a trained row of its own where i is a new token

The table of a tied model is one table: both sides read the same rows and the same A and B. The output side never forms
logits of its own: `OutputTable.parts` tells a loss that works in chunks what to add. Adapters are float32, and named
lora_A and lora_B as in the peft library.

Shapes: B batch, T length, D width, V vocabulary, R rank, N new tokens, I inputs, O outputs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtx_lab.core.errors import UsageError
from rtx_lab.models.quantised import FrozenLinear

TABLES = ("shared", "embed_tokens", "lm_head")
"""Names under which the vocabulary's table is asked for: its input side, twice, and its output side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """How a model is adapted: rank R, alpha, dropout before A, and the names of the layers."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class Parts(NamedTuple):
    """Logits are hidden @ weight_VD' + low @ up_VR'."""

    weight_VD: Tensor
    low: Tensor | None
    up_VR: Tensor | None


class AdaptedLinear(nn.Module):
    """A linear layer, frozen, plus a trained product of low rank that starts at zero."""

    def __init__(self, base: Any, num_inputs: int, num_outputs: int, how: Adaptation) -> None:
        super().__init__()
        self.base, self.scale = base, how.scale
        self.dropout = nn.Dropout(how.dropout)
        self.lora_A, self.lora_B = low_rank(num_inputs, num_outputs, how.rank, base)

    @property
    def weight(self) -> Tensor | None:
        """The frozen weight, None where it is packed: models of transformers look at its type."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., O) for (..., I)."""
        y = self.base(x)
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.lora_A.dtype)
        low = F.linear(self.dropout(x), self.lora_A) * self.scale
        return y + F.linear(low, self.lora_B).to(y.dtype)


class InputTable(nn.Module):
    """The input side of a frozen table: rows by id, times `factor` (BART's scaled embeddings)."""

    def __init__(self, weight: nn.Parameter, first_new: int, rows: nn.Parameter | None, factor: float) -> None:
        super().__init__()
        self.weight, self.rows, self.first_new, self.factor = weight, rows, first_new, factor
        self.scale = 1.0
        self.lora_A: nn.Parameter | None = None
        self.lora_B: nn.Parameter | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """Return (B, T, D) for ids (B, T), in float32 where the table is kept in less."""
        x = F.embedding(ids, self.weight)
        x = x.float() if x.dtype is torch.bfloat16 else x
        if self.rows is not None:
            place = ids - self.first_new
            is_new = (place >= 0) & (place < self.rows.shape[0])
            own = F.embedding(place.clamp(0, self.rows.shape[0] - 1), self.rows)
            x = torch.where(is_new[..., None], own, x)
        if self.lora_A is not None and self.lora_B is not None:
            x = x + (F.embedding(ids, self.lora_B) @ self.lora_A).to(x.dtype) * self.scale
        return x if self.factor == 1.0 else x * self.factor


class OutputTable(nn.Module):
    """The output side of a frozen table: hidden states to logits.

    The frozen weight is zero in the rows of new tokens; their logits come through the low-rank addition as well, with
    their trained rows as A and a fixed choice of columns as B.
    """

    def __init__(self, weight: nn.Parameter, first_new: int, rows: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.rows, self.first_new, self.scale = weight, rows, first_new, 1.0
        self.dropout = nn.Dropout(0.0)
        self.lora_A: nn.Parameter | None = None
        self.lora_B: nn.Parameter | None = None
        choice_VN = None
        if rows is not None:
            choice_VN = rows.new_zeros(weight.shape[0], rows.shape[0])
            new = torch.arange(rows.shape[0], device=rows.device)
            choice_VN[first_new + new, new] = 1.0
        self.register_buffer("choice_VN", choice_VN, persistent=False)

    def parts(self, hidden: Tensor) -> Parts:
        """What makes the logits of `hidden` (..., D); low is (..., R + N)."""
        low, up = [], []
        if not torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(self._wide())
        if self.lora_A is not None and self.lora_B is not None:
            low.append(F.linear(self.dropout(hidden), self.lora_A) * self.scale)
            up.append(self.lora_B)
        if self.rows is not None:
            low.append(F.linear(hidden, self.rows))
            up.append(self.choice_VN)
        if not low:
            return Parts(self.weight, None, None)
        return Parts(self.weight, *(pair[0] if len(pair) == 1 else torch.cat(pair, -1) for pair in (low, up)))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the logits (..., V): for generation, one position at a time."""
        weight_VD, low, up_VR = self.parts(hidden)
        logits = F.linear(hidden.to(weight_VD.dtype), weight_VD)
        if low is None or up_VR is None:
            return logits
        return logits.to(low.dtype) + F.linear(low, up_VR.to(low.dtype))

    def _wide(self) -> torch.dtype:
        trained = self.rows if self.rows is not None else self.lora_A
        return torch.float32 if trained is None else trained.dtype


def adapt_linears(root: nn.Module, how: Adaptation) -> None:
    """Wrap the linear layers below `root` whose last name is among the targets.

    Raises UsageError naming every target that no layer has, and the names that exist; then nothing was changed.
    """
    linears = [(name, layer) for name, layer in root.named_modules() if isinstance(layer, nn.Linear | FrozenLinear)]
    there = sorted({name.rpartition(".")[2] for name, _ in linears} - set(TABLES))
    missing = [target for target in how.targets if target not in there and target not in TABLES]
    if missing:
        verb = "names" if len(missing) == 1 else "name"
        raise UsageError(
            f"model.lora_targets: {', '.join(missing)} {verb} no layer of this model; "
            f"there are {', '.join([*there, *TABLES])}"
        )
    for name, layer in linears:
        parent, _, last = name.rpartition(".")
        if last in how.targets and last not in TABLES:
            outputs, inputs = layer.weight.shape if isinstance(layer, nn.Linear) else layer.shape
            setattr(root.get_submodule(parent), last, AdaptedLinear(layer, inputs, outputs, how))


def adapt_tables(inputs: InputTable, outputs: OutputTable, how: Adaptation) -> None:
    """Give the table its low-rank product where it is a target: one for both sides of a tied table."""
    tied = inputs.weight is outputs.weight
    sides = {"shared": inputs, "embed_tokens": inputs, "lm_head": outputs}
    wanted = [sides[target] for target in how.targets if target in sides]
    for first in (inputs, outputs):
        if first not in wanted or first.lora_A is not None:
            continue
        num_rows, width = first.weight.shape
        pair = low_rank(width, num_rows, how.rank, first)
        for side in (inputs, outputs) if tied else (first,):
            side.lora_A, side.lora_B = pair
            side.scale = how.scale
    outputs.dropout.p = how.dropout


def new_rows(weight: nn.Parameter, first_new: int, num_new: int) -> nn.Parameter | None:
    """Trainable copies (N, D), float32, of the rows of new tokens; None where there are none."""
    if not num_new:
        return None
    rows = weight.detach()[first_new : first_new + num_new]
    return nn.Parameter(rows.float().clone())


def low_rank(num_inputs: int, num_outputs: int, rank: int, near: nn.Module) -> tuple[nn.Parameter, nn.Parameter]:
    """A (R, I), drawn as by peft, and B (O, R), zero, on the device of `near`."""
    device = next(iter([*near.parameters(), *near.buffers()])).device
    lora_A = torch.empty(rank, num_inputs, device=device)
    nn.init.kaiming_uniform_(lora_A, a=math.sqrt(5))
    return nn.Parameter(lora_A), nn.Parameter(torch.zeros(num_outputs, rank, device=device))
