"""Roles by assignment: the base bit for bit, an adapter only in its role, nothing else changed by a switch."""

import pytest
import torch
from torch import nn

from rtx_lab.core.errors import UsageError
from rtx_lab.models.adapters import Adaptation
from rtx_lab.models.roles import READER, Role, RoleLinear, give_roles, numbers_per_rank

HOW = Adaptation(rank=2, alpha=6.0, dropout=0.0, targets=("q", "v"))
OTHER = Adaptation(rank=5, alpha=5.0, dropout=0.0, targets=("v",))


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.v, self.out = nn.Linear(6, 4), nn.Linear(6, 8, bias=False), nn.Linear(4, 6)


def adapted():
    torch.manual_seed(0)
    root, role = Layers(), Role()
    give_roles(root, role, {"weaver": HOW, "tuned": OTHER})
    for layer in root.modules():
        for adapter in layer.adapters.values() if isinstance(layer, RoleLinear) else []:
            nn.init.normal_(adapter.lora_B)
    return root, role


def test_each_role_adds_its_own_product_and_no_other():
    root, role = adapted()
    x = torch.randn(3, 6)
    base = x @ root.v.base.weight.T
    assert role.name == READER
    assert torch.equal(root.v(x), root.v.base(x))
    for name, how in (("weaver", HOW), ("tuned", OTHER)):
        with role.play(name):
            pair = root.v.adapters[name]
            wanted = base + how.alpha / how.rank * (x @ pair.lora_A.T) @ pair.lora_B.T
            torch.testing.assert_close(root.v(x), wanted)
            assert not torch.allclose(root.v(x), base, atol=0.1)
            assert torch.equal(root.q(x), root.q.base(x)) == (name == "tuned")
    assert isinstance(root.out, nn.Linear)
    assert torch.equal(root.v(x), root.v.base(x))


def test_a_role_ends_with_its_block_even_in_an_error():
    _, role = adapted()
    with pytest.raises(ZeroDivisionError), role.play("weaver"), role.play("tuned"):
        raise ZeroDivisionError
    assert role.name == READER
    with role.play("weaver"):
        with role.play(READER):
            assert role.name == READER
        assert role.name == "weaver"


def test_switching_changes_no_requires_grad():
    root, role = adapted()
    root.v.adapters["tuned"].lora_A.requires_grad_(False)
    before = {name: value.requires_grad for name, value in root.named_parameters()}
    with role.play("weaver"):
        root.v(torch.randn(2, 6)).sum().backward()
    assert {name: value.requires_grad for name, value in root.named_parameters()} == before
    assert root.v.adapters["weaver"].lora_B.grad is not None
    assert all(value.grad is None for value in root.v.adapters["tuned"].parameters())


def test_unknown_targets_are_named_and_nothing_changes():
    root = Layers()
    wrong = Adaptation(rank=2, alpha=1.0, dropout=0.0, targets=("q", "w", "k"))
    with pytest.raises(UsageError, match="w, k name no layer of this model; there are out, q, v"):
        give_roles(root, Role(), {"weaver": wrong})
    assert type(root.q) is nn.Linear


def test_numbers_of_a_rank():
    root = Layers()
    assert numbers_per_rank(root, HOW.targets) == (6 + 4) + (6 + 8)
    plain = sum(value.numel() for value in root.parameters())
    give_roles(root, Role(), {"weaver": HOW})
    assert sum(value.numel() for value in root.parameters()) == plain + HOW.rank * 24
