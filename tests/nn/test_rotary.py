"""Rotary positions, their tables, and attention with and without a mask."""

import pytest
import recursion_by_loops as loops
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rtx_lab.nn.rotary import RotaryAttention, RotaryStack, attention_mask, rotary_table, rotate, sinusoid_table

B, L, H, C = 3, 9, 2, 6


def _stack(**changes):
    torch.manual_seed(0)
    return RotaryStack(**{"d_model": H * C, "num_layers": 2, "num_heads": H, "d_ff": 20, "dropout": 0.0} | changes)


def test_rotation_equals_complex_turns():
    x = torch.randn(B, L, H, C, dtype=torch.float64)
    turned = rotate(x, rotary_table(L + 3, C).double()(L))
    for b in range(B):
        for place in range(L):
            for h in range(H):
                torch.testing.assert_close(turned[b, place, h], loops.rotated(x[b, place, h], place))


def test_scores_depend_on_distance_alone():
    rotation = rotary_table(40, C).double()(40)
    query, key = torch.randn(2, 1, 1, H, C, dtype=torch.float64)
    turned_query, turned_key = (rotate(x.expand(1, 40, H, C), rotation) for x in (query, key))
    scores = torch.einsum("bihc,bjhc->hij", turned_query, turned_key)
    for distance in (-7, 0, 5):
        same = scores.diagonal(distance, 1, 2)
        torch.testing.assert_close(same, same[:, :1].expand_as(same))
    torch.testing.assert_close(turned_query.norm(dim=-1), query.norm(dim=-1).expand(1, 40, H))


@pytest.mark.parametrize("make", [rotary_table, sinusoid_table])
def test_a_table_follows_its_model_and_is_never_saved(make):
    table = make(300, 8)
    assert table.state_dict() == {}
    exact = make(300, 8).double()(300)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(table(300).double(), exact, rtol=0, atol=3e-5)  # angles of float32, at position 299
    assert not torch.equal(table(300).double(), exact)
    assert torch.equal(table.bfloat16()(300), make(300, 8)(300))
    with torch.device("meta"):
        empty = make(300, 8)
    assert torch.equal(empty.to_empty(device="cpu")(300), table(300))
    assert torch.equal(table(7), table(300)[..., :7, :])


def test_sinusoid_equals_its_formula():
    import post_norm_by_torch

    rows = sinusoid_table(20, 8).double()(20)
    for place in range(20):
        torch.testing.assert_close(rows[place], post_norm_by_torch.position(place, 8))


def test_attention_equals_loops():
    torch.manual_seed(0)
    module = RotaryAttention(H * C, H, output_gain=1.0).double()
    x = torch.randn(B, L, H * C, dtype=torch.float64)
    mixed = module(x, rotary_table(L, C).double()(L), None)
    for b in range(B):
        torch.testing.assert_close(mixed[b], loops.attention(module, x[b]), rtol=1e-10, atol=1e-12)


class _Kernels(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.masks = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "flash_attention" in str(func):
            self.masks.append((kwargs or {}).get("attn_mask"))
        return func(*args, **kwargs or {})


def test_no_mask_is_built_where_nothing_is_padded():
    assert attention_mask(None) is None
    with _Kernels() as kernels, torch.no_grad():
        _stack()(torch.randn(B, L, H * C), rotary_table(L, C)(L), attention_mask(None))
    assert kernels.masks == [None, None]


def test_padding_reaches_nothing_and_an_empty_row_stays_finite():
    stack, rotation = _stack().double(), rotary_table(L, C).double()(L)
    x = torch.randn(B, L, H * C, dtype=torch.float64, requires_grad=True)
    real = torch.arange(L) < torch.tensor([L, 4, 0])[:, None]
    mask = attention_mask(real)
    assert mask is not None
    assert torch.equal(mask[:, 0, 0].sum(1), torch.tensor([L, 4, L]))  # nothing to attend to is everything
    out = stack(x, rotation, mask)
    torch.testing.assert_close(out[1, :4], stack(x[1:2, :4], rotation[:, :4], None)[0], rtol=0, atol=1e-12)
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_zero_blocks_are_a_norm():
    stack = _stack(num_layers=0)
    x = torch.randn(B, L, H * C)
    assert torch.equal(stack(x, rotary_table(L, C)(L), None), stack.norm(x))
