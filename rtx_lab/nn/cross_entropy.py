"""Cross entropy straight from hidden states, a chunk of rows at a time: all logits are never alive together.

Logits are hidden @ weight' + bias + low @ up', the last two if given: a bias, and a low-rank addition (an adapter of
the head). Products are made in the type of the weight, or of autocast; everything after them is float32 or wider.

Shapes: M rows (positions), D width, V vocabulary, R rank of the addition, C rows of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
CHUNK_ELEMENTS = 1 << 22
"""Logits alive at once; 16 MB in float32. Larger chunks were no faster."""
FEWEST_ROWS = 128
"""Rows of a chunk where the vocabulary is so large that they are more than that: fewer leave the processor waiting for
the weight, which every chunk reads whole."""
TILE_ELEMENTS = 1 << 24
"""What the gradient of a weight is made of at once where it cannot be added to in place."""


def linear_cross_entropy(
    hidden: Tensor,
    weight_VD: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    bias_V: Tensor | None = None,
    excluded: int | None = None,
    row_weight: Tensor | None = None,
    low: Tensor | None = None,
    up_VR: Tensor | None = None,
) -> Tensor:
    """Return the summed cross entropy of the logits over the rows whose label is not -100, in nats.

    hidden (..., D), labels (...) int64, low (..., R). `excluded` is an id whose logit is -inf: it takes no probability
    and gets no gradient, smoothing leaves it out, and as a label it costs infinitely much. row_weight, of the shape of
    `labels`, multiplies the loss of each row; it is a constant.

    The gradient is computed in the forward pass, chunk by chunk, so that the memory is one chunk of logits plus the
    gradients of what is trained; nothing is computed for a weight that is frozen. Backward works once. No step depends
    on the values of the labels.
    """
    weight_M = None if row_weight is None else row_weight.detach().flatten()
    low_MR = None if low is None else low.flatten(0, -2)
    return _ChunkedCrossEntropy.apply(
        hidden.flatten(0, -2), weight_VD, labels.flatten(), label_smoothing, bias_V, excluded, weight_M, low_MR, up_VR
    )


@torch.no_grad()
def token_nll(
    hidden: Tensor,
    weight_VD: Tensor,
    labels: Tensor,
    bias_V: Tensor | None = None,
    excluded: int | None = None,
    low: Tensor | None = None,
    up_VR: Tensor | None = None,
) -> Tensor:
    """Return -log p(label) of every position, 0 where the label is -100; no gradient. Shape of `labels`."""
    labels_M, parts = labels.flatten(), []
    for chunk, logits_CV in logit_chunks(hidden.flatten(0, -2), weight_VD, bias_V, excluded, low, up_VR):
        targets = labels_M[chunk]
        picked_C1, _, total_C1 = _exponentiate(logits_CV, targets.clamp_min(0)[:, None], None)
        parts.append(torch.where(targets == IGNORED, 0, (total_C1.log() - picked_C1).squeeze(1)))
    return torch.cat(parts).view(labels.shape)


@torch.no_grad()
def prediction_quality(
    hidden: Tensor, weight_VD: Tensor, labels: Tensor, bias_V: Tensor | None = None, excluded: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return whether the best guess of every position is wrong (0 or 1), and how unsure it is; no gradient.

    Unsure is the entropy as a share of that of all ids alike, in [0, 1]. Both have the shape of `labels`, and are 0
    where the label is -100.
    """
    labels_M, wrong, unsure = labels.flatten(), [], []
    most = math.log(_num_allowed(weight_VD.shape[0], excluded))
    for chunk, logits_CV in logit_chunks(hidden.flatten(0, -2), weight_VD, bias_V, excluded):
        targets = labels_M[chunk]
        judged = targets != IGNORED
        entropy_C = torch.special.entr(torch.softmax(logits_CV, dim=-1)).sum(1)
        wrong.append(((logits_CV.argmax(1) != targets) & judged).to(entropy_C.dtype))
        unsure.append((entropy_C / most).clamp_max(1) * judged)
    return torch.cat(wrong).view(labels.shape), torch.cat(unsure).view(labels.shape)


def logit_chunks(
    rows_MD: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None = None,
    excluded: int | None = None,
    low: Tensor | None = None,
    up_VR: Tensor | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Yield which rows, and their logits (C, V) in float32 or wider, -inf at `excluded`; at least one; no gradient.

    All chunks are made in the same memory: to be used before the next one is asked for, and free to be written over.
    """
    rows_MD, weight_VD = (_as_multiplied(value, weight_VD).detach() for value in (rows_MD, weight_VD))
    wide = torch.promote_types(weight_VD.dtype, torch.float32)
    low_MR = None if low is None else low.detach().flatten(0, -2).to(wide)
    up_VR = None if up_VR is None else up_VR.detach().to(wide)
    num_rows, vocab_size = rows_MD.shape[0], weight_VD.shape[0]
    size = max(FEWEST_ROWS, CHUNK_ELEMENTS // vocab_size)
    memory_CV = rows_MD.new_empty((min(size, num_rows), vocab_size), dtype=wide)
    for start in range(0, max(1, num_rows), size):
        rows_CD = rows_MD[start : start + size]
        logits_CV = memory_CV[: rows_CD.shape[0]]
        if weight_VD.dtype == wide:
            torch.mm(rows_CD, weight_VD.mT, out=logits_CV)
        else:
            logits_CV.copy_(rows_CD @ weight_VD.mT)
        if low_MR is not None and up_VR is not None:
            _add_product(logits_CV, low_MR[start : start + size], up_VR.mT)
        if bias_V is not None:
            logits_CV += bias_V.detach()
        if excluded is not None:
            logits_CV[:, excluded] = -torch.inf
        yield slice(start, start + size), logits_CV


def _as_multiplied(value: Tensor, weight_VD: Tensor) -> Tensor:
    """In the type of the products: the weight's, or that of autocast, which would cast the weight for every chunk."""
    kind = value.device.type
    return value.to(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VD.dtype)


def _num_allowed(vocab_size: int, excluded: int | None) -> int:
    return vocab_size - (excluded is not None)


def _exponentiate(
    logits_CV: Tensor, targets_C1: Tensor, averaged: tuple[int | None] | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Turn logits into exp(logit - largest) in place; return the targets' shifted logits, their mean, the sums.

    All are (C, 1). The mean is over the allowed ids, and only made where `averaged` holds the excluded one, or None.
    """
    logits_CV -= logits_CV.amax(1, keepdim=True)
    picked_C1 = logits_CV.gather(1, targets_C1)
    mean_C1 = None if averaged is None else _mean_logit(logits_CV, averaged[0])
    return picked_C1, mean_C1, logits_CV.exp_().sum(1, keepdim=True)


def _mean_logit(logits_CV: Tensor, excluded: int | None) -> Tensor:
    """Mean over the allowed ids: (C, 1)."""
    if excluded is None:
        return logits_CV.mean(1, keepdim=True)
    both = logits_CV[:, :excluded].sum(1, keepdim=True) + logits_CV[:, excluded + 1 :].sum(1, keepdim=True)
    return both / _num_allowed(logits_CV.shape[1], excluded)


def _logit_gradient(
    powers_CV: Tensor, total_C1: Tensor, targets_C1: Tensor, scale_C1: Tensor, smoothing: float, excluded: int | None
) -> Tensor:
    """The gradient of the scaled loss by each logit, written over exp(logit): (C, V)."""
    grad_CV = powers_CV.mul_(scale_C1 / total_C1)
    if smoothing:
        grad_CV -= scale_C1 * (smoothing / _num_allowed(grad_CV.shape[1], excluded))
        if excluded is not None:
            grad_CV[:, excluded] = 0
    return grad_CV.scatter_add_(1, targets_C1, (smoothing - 1) * scale_C1)


class _Gradients:
    """The gradients of all that is trained, summed up chunk by chunk; None for what is frozen.

    `rows` and `weight` are hidden_MD and weight_VD in the type of the products.
    """

    def __init__(
        self, wanted: tuple[bool, ...], rows: Tensor, weight: Tensor, hidden_MD: Tensor, weight_VD: Tensor,
        bias_V: Tensor | None, low_MR: Tensor | None, up_VR: Tensor | None,
    ) -> None:  # fmt: skip
        wants_hidden, wants_weight, _, _, wants_bias, _, _, wants_low, wants_up = wanted
        self.rows, self.weight = rows, weight
        wide = torch.promote_types(weight_VD.dtype, torch.float32)
        self.low = None if low_MR is None else low_MR.to(wide)
        self.up = None if up_VR is None else up_VR.to(wide)
        self.of_hidden = torch.empty_like(hidden_MD) if wants_hidden else None
        self.of_weight = torch.zeros_like(weight_VD) if wants_weight else None
        self.of_bias = torch.zeros_like(bias_V, dtype=wide) if wants_bias and bias_V is not None else None
        self.of_low = torch.empty_like(low_MR) if wants_low and low_MR is not None else None
        self.of_up = torch.zeros_like(self.up) if wants_up and self.up is not None else None

    def add(self, chunk: slice, grad_CV: Tensor) -> None:
        if self.of_bias is not None:
            self.of_bias += grad_CV.sum(0)
        if self.of_low is not None and self.up is not None:
            self.of_low[chunk] = (grad_CV @ self.up).to(self.of_low.dtype)
        if self.of_up is not None and self.low is not None:
            _add_product(self.of_up, grad_CV.mT, self.low[chunk])
        factor_CV = grad_CV.to(self.weight.dtype)
        if self.of_hidden is not None:
            self.of_hidden[chunk] = (factor_CV @ self.weight).to(self.of_hidden.dtype)
        if self.of_weight is not None:
            _add_product(self.of_weight, factor_CV.mT, self.rows[chunk])


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right in place, where the types differ some rows at a time."""
    if total.dtype == left.dtype:
        torch.addmm(total, left, right, out=total)
        return
    size = max(1, TILE_ELEMENTS // total.shape[1])
    for start in range(0, total.shape[0], size):
        total[start : start + size] += left[start : start + size] @ right


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        labels_M: Tensor,
        smoothing: float,
        bias_V: Tensor | None,
        excluded: int | None,
        weight_M: Tensor | None,
        low_MR: Tensor | None,
        up_VR: Tensor | None,
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.promote_types(weight_VD.dtype, torch.float32), device=hidden_MD.device)
        wanted = ctx.needs_input_grad
        both = _as_multiplied(hidden_MD, weight_VD), _as_multiplied(weight_VD, weight_VD)
        sums = _Gradients(wanted, *both, hidden_MD, weight_VD, bias_V, low_MR, up_VR) if any(wanted) else None
        for chunk, logits_CV in logit_chunks(*both, bias_V, excluded, low_MR, up_VR):
            valid_C = labels_M[chunk] != IGNORED
            # an ignored row reads some id with a finite logit, so that 0 times its loss is 0
            targets_C1 = torch.where(valid_C, labels_M[chunk], int(excluded == 0))[:, None]
            scale_C1 = (valid_C if weight_M is None else valid_C * weight_M[chunk])[:, None].to(logits_CV.dtype)
            picked_C1, mean_C1, total_C1 = _exponentiate(logits_CV, targets_C1, (excluded,) if smoothing else None)
            loss_C1 = total_C1.log() - (1 - smoothing) * picked_C1
            if mean_C1 is not None:
                loss_C1 = loss_C1 - smoothing * mean_C1
            total += (loss_C1 * scale_C1).sum()
            if sums is not None:
                sums.add(chunk, _logit_gradient(logits_CV, total_C1, targets_C1, scale_C1, smoothing, excluded))
        if sums is not None:
            of_bias = None if sums.of_bias is None or bias_V is None else sums.of_bias.to(bias_V.dtype)
            of_up = None if sums.of_up is None or up_VR is None else sums.of_up.to(up_VR.dtype)
            ctx.save_for_backward(sums.of_hidden, sums.of_weight, of_bias, sums.of_low, of_up)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        # in place: a second copy of the gradient of the weight would be as large as the weight
        hidden, weight, bias, low, up = (g if g is None else g.mul_(grad_outputs[0]) for g in ctx.saved_tensors)
        return hidden, weight, None, None, bias, None, None, low, up
