"""What a GPU keeps of attention, told on tensors of a CPU."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from rtx_lab.core.live_bytes import LiveBytes
from rtx_lab.pricing.cuda_rules import CudaRules

B, H, T, S, D, LAYERS = 4, 8, 96, 128, 16, 3


def peak(bias_trained, rows=B, dropout=0.1):
    """Bytes at the peak of forward and backward of layers that share a bias (rows, H, T, S), bfloat16."""
    with FakeTensorMode():
        bias = torch.empty(rows, H, T, S, dtype=torch.bfloat16, requires_grad=bias_trained)
        query = torch.empty(B, H, T, D, dtype=torch.bfloat16, requires_grad=True)
        source = torch.empty(B, H, S, D, dtype=torch.bfloat16, requires_grad=True)
        with CudaRules(), LiveBytes() as live:
            for _ in range(LAYERS):
                query = F.scaled_dot_product_attention(query, source, source, attn_mask=bias, dropout_p=dropout)
            query.sum().backward()
    assert bias.grad is None or bias.grad.shape == bias.shape
    assert (bias.grad is not None) is bias_trained
    return live.peak


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_trained_bias_costs_its_gradients_and_no_probabilities(dropout):
    """Two at once, what later layers gave and what this one gives; probabilities would be kept for each layer."""
    whole = 2 * B * H * T * S
    added = peak(True, dropout=dropout) - peak(False, dropout=dropout)
    assert whole <= added <= 3 * whole


def test_a_bias_that_all_samples_share_gets_one_gradient():
    each, shared = peak(True), peak(True, rows=1)
    assert shared <= each, "the kernel makes one for each sample, which are added up"


def test_a_bias_in_its_place_is_a_bias_by_name():
    with FakeTensorMode(), CudaRules():
        q, bias = torch.empty(1, H, T, D), torch.empty(1, H, T, T, requires_grad=True)
        for found in (
            F.scaled_dot_product_attention(q, q, q, bias),
            F.scaled_dot_product_attention(q, q, q, bias, 0.5, is_causal=False),
            F.scaled_dot_product_attention(q, q, q, attn_mask=bias, scale=1.0),
        ):
            assert found.shape == q.shape
            assert found.requires_grad
