"""The chunked loss equals the plain one, in value and gradient, whatever the chunk."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from rtx_lab.nn import cross_entropy
from rtx_lab.nn.cross_entropy import linear_cross_entropy, prediction_quality, token_nll

V, D = 13, 6


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(cross_entropy, "FEWEST_ROWS", 1)


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


OPTIONS = {
    "bias": {"bias_V": True},
    "excluded": {"excluded": 5},
    "first_excluded": {"excluded": 0},
    "last_excluded": {"excluded": V - 1},
    "weighted": {"row_weight": True},
    "all": {"bias_V": True, "excluded": 0, "row_weight": True},
}


def _options(given):
    """The tensors that `given` asks for."""
    torch.manual_seed(1)
    options = dict(given)
    if "bias_V" in options:
        options["bias_V"] = torch.randn(V, dtype=torch.float64, requires_grad=True)
    if "row_weight" in options:
        options["row_weight"] = 3 * torch.rand(4, 7)
    return options


def _plain_logits(hidden, weight, bias_V=None, excluded=None):
    logits = hidden @ weight.T
    logits = logits if bias_V is None else logits + bias_V
    return logits if excluded is None else logits.index_fill(-1, torch.tensor([excluded]), -torch.inf)


def _allowed(labels, excluded):
    """Labels that are never the excluded id."""
    return labels if excluded is None else torch.where(labels == excluded, (excluded + 1) % V, labels)


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("given", OPTIONS.values(), ids=OPTIONS.keys())
def test_options_equal_plain_logits(given, smoothing, rows, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", rows * V)
    hidden, weight, labels = _inputs()
    options = _options(given)
    excluded, bias = options.get("excluded"), options.get("bias_V")
    labels = _allowed(labels, excluded)
    ours = linear_cross_entropy(hidden, weight, labels, smoothing, **options)
    log_probs = torch.log_softmax(_plain_logits(hidden, weight, bias, excluded), dim=-1)
    kept = [v for v in range(V) if v != excluded]
    picked = log_probs.gather(-1, labels.clamp_min(int(excluded == 0))[..., None])[..., 0]
    each = -(1 - smoothing) * picked - smoothing * log_probs[..., kept].mean(-1)
    plain = (each * options.get("row_weight", 1))[labels != -100].sum()
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    leaves = (hidden, weight) if bias is None else (hidden, weight, bias)
    wanted = torch.autograd.grad(3 * plain, leaves)
    found = torch.autograd.grad(3 * ours, leaves)
    for gradient, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)
    # the table is often tied to the embedding; through the head the excluded row must not move
    assert excluded is None or (found[1][excluded] == 0).all()


@pytest.mark.parametrize("excluded", [None, 0, 5])
def test_one_leaf_alone_gets_its_gradient(excluded):
    hidden, weight, labels = _inputs()
    bias = torch.randn(V, dtype=torch.float64)
    for leaf in range(3):
        leaves = [value.detach().requires_grad_(leaf == place) for place, value in enumerate((hidden, weight, bias))]
        loss = linear_cross_entropy(
            leaves[0], leaves[1], _allowed(labels, excluded), bias_V=leaves[2], excluded=excluded
        )
        assert torch.autograd.grad(loss, leaves[leaf])[0].isfinite().all()


def test_the_excluded_id_has_no_probability():
    hidden, weight, labels = _inputs()
    bias = torch.randn(V, dtype=torch.float64)
    nll = torch.stack([token_nll(hidden, weight, torch.full_like(labels, v), bias, 5) for v in range(V)], dim=-1)
    assert (nll[..., 5] == torch.inf).all()
    torch.testing.assert_close((-nll).exp().sum(-1), torch.ones(4, 7, dtype=torch.float64))
    torch.testing.assert_close(-nll, torch.log_softmax(_plain_logits(hidden, weight, bias, 5), dim=-1))
    assert linear_cross_entropy(hidden, weight, torch.full_like(labels, 5), excluded=5) == torch.inf


def test_a_uniform_model_costs_log_v_of_the_allowed_ids():
    hidden, weight = torch.zeros(4, 7, D), torch.randn(V, D)
    nll = token_nll(hidden, weight, torch.ones(4, 7, dtype=torch.int64), excluded=0)
    torch.testing.assert_close(nll, torch.full((4, 7), math.log(V - 1)))


@pytest.mark.parametrize("excluded", [None, 0, 5])
def test_quality_of_predictions(excluded, monkeypatch):
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 2 * V)
    hidden, weight, labels = _inputs()
    bias = torch.randn(V, dtype=torch.float64)
    logits = _plain_logits(hidden, weight, bias, excluded)
    labels = torch.where(labels >= 0, logits.argmax(-1), -100)
    labels[0, :4] = (labels[0, :4] + 1) % V
    wrong, unsure = prediction_quality(hidden, weight, labels, bias, excluded)
    assert not wrong.requires_grad
    expected = torch.zeros(4, 7, dtype=torch.float64)
    expected[0, :4] = 1
    torch.testing.assert_close(wrong, expected)
    entropy = torch.distributions.Categorical(logits=logits.clamp_min(-1e30)).entropy()
    most = math.log(V if excluded is None else V - 1)
    torch.testing.assert_close(unsure, torch.where(labels >= 0, entropy / most, 0))
    flat = prediction_quality(torch.zeros_like(hidden), weight, labels, None, excluded)[1]
    torch.testing.assert_close(flat, (labels >= 0).double())


def test_no_rows_at_all():
    weight = torch.randn(V, D, requires_grad=True)
    nothing, labels = torch.zeros(0, D, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    assert token_nll(nothing, weight, labels).shape == (0,)
    linear_cross_entropy(nothing, weight, labels).backward()
    assert (weight.grad == 0).all()


def test_traced_on_fake_tensors_and_compiled_whole():
    def step(hidden, weight, bias, labels, row_weight):
        loss = linear_cross_entropy(hidden, weight, labels, 0.1, bias, 3, row_weight)
        return torch.autograd.grad(loss, (hidden, weight, bias)), prediction_quality(hidden, weight, labels, bias, 3)

    with FakeTensorMode():
        leaves = [torch.randn(shape, requires_grad=True) for shape in ((4, 7, D), (V, D), (V,))]
        gradients, quality = step(*leaves, torch.zeros(4, 7, dtype=torch.int64), torch.rand(4, 7))
    assert [found.shape for found in gradients] == [leaf.shape for leaf in leaves]
    assert quality[0].shape == (4, 7)

    hidden, weight, labels = _inputs()
    bias, row_weight = torch.randn(V, dtype=torch.float64), torch.rand(4, 7)
    labels = _allowed(labels, 3)

    def loss(hidden, weight):
        return linear_cross_entropy(hidden, weight, labels, 0.1, bias, 3, row_weight)

    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(hidden, weight), loss(hidden, weight), rtol=0, atol=0)


def test_chunks_of_a_large_vocabulary_hold_some_rows(monkeypatch):
    monkeypatch.setattr(cross_entropy, "FEWEST_ROWS", 5)
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 2 * V)
    hidden, weight, _ = _inputs()
    sizes = [len(logits) for _, logits in cross_entropy.logit_chunks(hidden.flatten(0, 1), weight)]
    assert sizes == [5] * 5 + [3]
