"""Heads of large models: frozen, in half precision, with an adapter; only what is trained gets a gradient."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rtx_lab.nn import cross_entropy
from rtx_lab.nn.cross_entropy import linear_cross_entropy, token_nll

V, D, R = 13, 6, 3


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(cross_entropy, "FEWEST_ROWS", 1)


def _inputs(dtype=torch.float64):
    torch.manual_seed(0)
    hidden = torch.randn(4, 7, D, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, D, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, V - 1, (4, 7))
    labels[1, 3:] = -100
    labels[3] = -100
    return hidden, weight, labels


def _addition(dtype=torch.float64):
    torch.manual_seed(2)
    return torch.randn(4, 7, R, dtype=dtype, requires_grad=True), torch.randn(V, R, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("excluded", [None, V - 1])
def test_a_low_rank_addition_equals_full_logits(rows, smoothing, excluded, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", rows * V)
    hidden, weight, labels = _inputs()
    low, up = _addition()
    bias = torch.randn(V, dtype=torch.float64, requires_grad=True)
    ours = linear_cross_entropy(hidden, weight, labels, smoothing, bias_V=bias, excluded=excluded, low=low, up_VR=up)
    logits = hidden @ weight.T + bias + low @ up.T
    logits = logits if excluded is None else logits.index_fill(-1, torch.tensor([excluded]), -torch.inf)
    log_probs = torch.log_softmax(logits, dim=-1)
    picked = log_probs.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
    kept = [v for v in range(V) if v != excluded]
    plain = (-(1 - smoothing) * picked - smoothing * log_probs[..., kept].mean(-1))[labels != -100].sum()
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    leaves = (hidden, weight, bias, low, up)
    wanted = torch.autograd.grad(3 * plain, leaves)
    for found, expected in zip(torch.autograd.grad(3 * ours, leaves), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    nll = token_nll(hidden, weight, labels, bias, excluded, low=low, up_VR=up)
    torch.testing.assert_close(nll, torch.where(labels == -100, 0, -picked), rtol=0, atol=1e-12)


class Products(TorchDispatchMode):
    """Counts matrix products, and notes the largest tensor of each type that was made."""

    def __init__(self):
        super().__init__()
        self.count, self.largest = 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.count += func._overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.largest[out.dtype] = max(self.largest.get(out.dtype, 0), out.numel())
        return out


def test_nothing_is_computed_for_a_frozen_head():
    hidden, weight, labels = _inputs()
    low, up = _addition()
    counts = []
    for frozen in (weight.detach(), weight):
        with Products() as products:
            linear_cross_entropy(hidden, frozen, labels).backward()
        counts.append(products.count)
        assert hidden.grad.isfinite().all()
    assert counts == [2, 3]
    with Products() as products:
        linear_cross_entropy(hidden.detach(), weight.detach(), labels, low=low, up_VR=up).backward()
    assert products.count == 4, "logits, their addition, and its two factors"
    assert weight.grad is not None
    assert low.grad.isfinite().all()


@pytest.mark.parametrize("trained", [False, True])
def test_half_precision_weights_are_never_copied_to_float32(trained, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 2 * V)
    hidden, _, labels = _inputs(torch.float32)
    wide = torch.randn(500, D)
    half, labels = wide.bfloat16().requires_grad_(trained), labels.clamp_min(0)
    with Products() as products:
        loss = linear_cross_entropy(hidden, half, labels)
        loss.backward()
    assert products.largest[torch.float32] < half.numel()
    exact = linear_cross_entropy(hidden.detach(), wide.requires_grad_(), labels)
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
    exact.backward()
    if trained:
        assert half.grad.dtype == torch.bfloat16
        assert (half.grad.float() - wide.grad).norm() < 0.02 * wide.grad.norm()


def test_under_autocast_the_weight_is_cast_once(monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", V)
    hidden, weight, labels = _inputs(torch.float32)
    casts = []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if func._overloadpacket is torch.ops.aten._to_copy and out.shape == weight.shape:
                casts.append(out.dtype)
            return out

    with Casts(), torch.autocast("cpu", dtype=torch.bfloat16):
        linear_cross_entropy(hidden, weight.detach(), labels).backward()
    assert casts == [torch.bfloat16]


def test_a_second_backward_is_refused_instead_of_wrong():
    hidden, weight, labels = _inputs()
    loss = linear_cross_entropy(hidden, weight, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_compiled_with_its_backward():
    hidden, weight, labels = _inputs()
    low, up = _addition()

    def loss(hidden, weight, low, up):
        return linear_cross_entropy(hidden, weight, labels, low=low, up_VR=up)

    leaves = (hidden, weight, low, up)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    wanted = torch.autograd.grad(loss(*leaves), leaves)
    for found, expected in zip(torch.autograd.grad(compiled(*leaves), leaves), wanted, strict=True):
        torch.testing.assert_close(found, expected)
