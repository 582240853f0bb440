"""The chunked loss equals the plain one, in value and gradient, whatever the chunk."""

import pytest
import torch
from torch.nn import functional

from rtx_lab.nn import cross_entropy
from rtx_lab.nn.cross_entropy import linear_cross_entropy, token_nll

V, D = 13, 6


def _inputs(dtype=torch.float64):
    torch.manual_seed(0)
    hidden = torch.randn(4, 7, D, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, D, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, V, (4, 7))
    labels[1, 3:] = -100
    labels[3] = -100
    return hidden, weight, labels


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_the_full_loss(rows, smoothing, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", rows * V)
    hidden, weight, labels = _inputs()
    ours = linear_cross_entropy(hidden, weight, labels, smoothing)
    logits = (hidden @ weight.T).flatten(0, 1)
    plain = functional.cross_entropy(logits, labels.flatten(), reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    wanted = torch.autograd.grad(3 * plain, (hidden, weight))
    for gradient, expected in zip(torch.autograd.grad(3 * ours, (hidden, weight)), wanted, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_nothing_to_learn_is_zero():
    hidden, weight, labels = _inputs()
    loss = linear_cross_entropy(hidden, weight, torch.full_like(labels, -100))
    loss.backward()
    assert loss == 0
    assert (hidden.grad == 0).all()
    assert (weight.grad == 0).all()


def test_token_nll_is_per_position(monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 2 * V)
    hidden, weight, labels = _inputs()
    nll = token_nll(hidden, weight, labels)
    assert nll.shape == labels.shape
    assert not nll.requires_grad
    expected = functional.cross_entropy((hidden @ weight.T).mT, labels, reduction="none")
    torch.testing.assert_close(nll, expected)


def test_bfloat16_sums_in_float32(monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 2 * V)
    hidden, weight, labels = _inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, labels)
    assert loss.dtype == torch.float32
    exact = linear_cross_entropy(hidden, weight, labels)
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
    ours, theirs = torch.autograd.grad(loss, weight)[0], torch.autograd.grad(exact, weight)[0]
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_labels_are_not_differentiated_and_evaluation_keeps_no_gradient():
    hidden, weight, labels = _inputs()
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, labels).requires_grad
