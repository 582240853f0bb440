"""One network in several roles: linear layers whose low-rank addition is chosen by the role that is played.

    y = W x + (alpha / R) B_role A_role drop(x), and W x alone in a role that has no adapter

Switching is an assignment: nothing is copied, no `requires_grad` changes. In a role without adapter the frozen layer is
called as it is, so its output is the base model's bit for bit.

Shapes: I inputs, O outputs, R rank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtx_lab.core.errors import UsageError
from rtx_lab.models.adapters import Adaptation, low_rank
from rtx_lab.models.quantised import FrozenLinear

READER = "reader"
"""The role without adapters: the base model."""


class Role:
    """Which role all layers of a network play now."""

    def __init__(self) -> None:
        self.name = READER

    @contextlib.contextmanager
    def play(self, name: str) -> Iterator[None]:
        """Play a role for a while."""
        before, self.name = self.name, name
        try:
            yield
        finally:
            self.name = before


class LowRank(nn.Module):
    """A trained product of low rank that starts at zero."""

    def __init__(self, num_inputs: int, num_outputs: int, how: Adaptation, near: nn.Module) -> None:
        super().__init__()
        self.scale, self.dropout = how.scale, nn.Dropout(how.dropout)
        self.lora_A, self.lora_B = low_rank(num_inputs, num_outputs, how.rank, near)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., O) for (..., I)."""
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(self.lora_A.dtype)
        return F.linear(F.linear(self.dropout(x), self.lora_A) * self.scale, self.lora_B)


class RoleLinear(nn.Module):
    """A frozen linear layer with one addition per role."""

    def __init__(self, base: Any, role: Role, adapters: dict[str, LowRank]) -> None:
        super().__init__()
        self.base, self.role, self.adapters = base, role, nn.ModuleDict(adapters)

    @property
    def weight(self) -> Tensor | None:
        """The frozen weight, None where it is packed: models of transformers look at its type."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., O) for (..., I), in the role that is played."""
        y = self.base(x)
        if self.role.name not in self.adapters:
            return y
        return y + self.adapters[self.role.name](x).to(y.dtype)


def give_roles(root: nn.Module, role: Role, roles: Mapping[str, Adaptation]) -> None:
    """Wrap the linear layers below `root` that the roles adapt.

    Raises UsageError naming every target that no layer has, and the names that exist; then nothing was changed.
    """
    linears = [(name, layer) for name, layer in root.named_modules() if isinstance(layer, nn.Linear | FrozenLinear)]
    there = sorted({name.rpartition(".")[2] for name, _ in linears})
    wanted = dict.fromkeys(target for how in roles.values() for target in how.targets)
    missing = [target for target in wanted if target not in there]
    if missing:
        verb = "names" if len(missing) == 1 else "name"
        raise UsageError(
            f"model.lora_targets: {', '.join(missing)} {verb} no layer of this model; there are {', '.join(there)}"
        )
    for name, layer in linears:
        parent, _, last = name.rpartition(".")
        outputs, inputs = layer.weight.shape if isinstance(layer, nn.Linear) else layer.shape
        own = {key: LowRank(inputs, outputs, how, layer) for key, how in roles.items() if last in how.targets}
        if own:
            setattr(root.get_submodule(parent), last, RoleLinear(layer, role, own))


def numbers_per_rank(root: nn.Module, targets: tuple[str, ...]) -> int:
    """Trained numbers that each unit of rank adds below `root`: inputs plus outputs of every target."""
    total = 0
    for name, layer in root.named_modules():
        if isinstance(layer, nn.Linear | FrozenLinear) and name.rpartition(".")[2] in targets:
            total += sum(layer.weight.shape if isinstance(layer, nn.Linear) else layer.shape)
    return total
