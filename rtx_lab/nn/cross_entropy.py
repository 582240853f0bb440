"""Cross entropy straight from hidden states, a chunk of rows at a time: all logits are never alive together.

Shapes: M rows (positions), D width, V vocabulary, C rows of a chunk.
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


def linear_cross_entropy(
    hidden: Tensor,
    weight_VD: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    bias_V: Tensor | None = None,
    excluded: int | None = None,
    row_weight: Tensor | None = None,
) -> Tensor:
    """Return the summed cross entropy of hidden @ weight' + bias over the rows whose label is not -100, in nats.

    hidden (..., D), labels (...) int64. `excluded` is an id whose logit is -inf: it takes no probability and gets no
    gradient, smoothing leaves it out, and as a label it costs infinitely much. row_weight, of the shape of `labels`,
    multiplies the loss of each row; it is a constant.

    The gradient is computed in the forward pass, chunk by chunk, so that the memory is one chunk of logits plus the
    gradients of hidden, weight and bias. Sums are float32 (or the input's own wider type) also under autocast. No step
    depends on the values of the labels.
    """
    weight_M = None if row_weight is None else row_weight.detach().flatten()
    return _ChunkedCrossEntropy.apply(
        hidden.flatten(0, -2), weight_VD, labels.flatten(), label_smoothing, bias_V, excluded, weight_M
    )


@torch.no_grad()
def token_nll(
    hidden: Tensor, weight_VD: Tensor, labels: Tensor, bias_V: Tensor | None = None, excluded: int | None = None
) -> Tensor:
    """Return -log p(label) of every position, 0 where the label is -100; no gradient. Shape of `labels`."""
    labels_M, parts = labels.flatten(), []
    for chunk, logits_CV in logit_chunks(hidden.flatten(0, -2), weight_VD, bias_V, excluded):
        targets = labels_M[chunk]
        log_probs_CV = torch.log_softmax(logits_CV, dim=-1)
        picked = log_probs_CV.gather(1, targets.clamp_min(0)[:, None]).squeeze(1)
        parts.append(torch.where(targets == IGNORED, 0, -picked))
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
    rows_MD: Tensor, weight_VD: Tensor, bias_V: Tensor | None = None, excluded: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield which rows, and their logits (C, V) in float32 or wider, -inf at `excluded`; at least one chunk."""
    size = max(1, CHUNK_ELEMENTS // weight_VD.shape[0])
    for start in range(0, max(1, rows_MD.shape[0]), size):
        logits_CV = rows_MD[start : start + size] @ weight_VD.mT
        logits_CV = logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))
        if bias_V is not None:
            logits_CV += bias_V
        if excluded is not None:
            logits_CV[:, excluded] = -torch.inf
        yield slice(start, start + size), logits_CV


def _num_allowed(vocab_size: int, excluded: int | None) -> int:
    return vocab_size - (excluded is not None)


def _mean_log_prob(log_probs_CV: Tensor, excluded: int | None) -> Tensor:
    """Mean over the allowed ids: (C,)."""
    if excluded is None:
        return log_probs_CV.mean(1)
    both = log_probs_CV[:, :excluded].sum(1) + log_probs_CV[:, excluded + 1 :].sum(1)
    return both / _num_allowed(log_probs_CV.shape[1], excluded)


def _logit_gradient(log_probs_CV: Tensor, targets_C1: Tensor, smoothing: float, excluded: int | None) -> Tensor:
    """The gradient of each row's loss by its logits, written over the log-probabilities: (C, V)."""
    grad_CV = log_probs_CV.exp_()
    if smoothing:
        grad_CV -= smoothing / _num_allowed(grad_CV.shape[1], excluded)
        if excluded is not None:
            grad_CV[:, excluded] = 0
    return grad_CV.scatter_add_(1, targets_C1, torch.full_like(targets_C1, smoothing - 1, dtype=grad_CV.dtype))


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
    ) -> Tensor:
        wide = torch.promote_types(weight_VD.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden_MD.device)
        wants_gradient = any(ctx.needs_input_grad)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if wants_gradient else None
        grad_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=wide)
        grad_rows = []
        for chunk, logits_CV in logit_chunks(hidden_MD, weight_VD, bias_V, excluded):
            valid_C = labels_M[chunk] != IGNORED
            # an ignored row reads some id with a finite logit, so that 0 times its loss is 0
            targets_C1 = torch.where(valid_C, labels_M[chunk], int(excluded == 0))[:, None]
            scale_C = valid_C if weight_M is None else valid_C * weight_M[chunk]
            log_probs_CV = torch.log_softmax(logits_CV, dim=-1)
            loss_C = -(1 - smoothing) * log_probs_CV.gather(1, targets_C1).squeeze(1)
            if smoothing:
                loss_C = loss_C - smoothing * _mean_log_prob(log_probs_CV, excluded)
            total += (loss_C * scale_C).sum()
            if grad_weight_VD is not None:
                grad_CV = _logit_gradient(log_probs_CV, targets_C1, smoothing, excluded)
                grad_CV *= scale_C[:, None]
                grad_rows.append((grad_CV @ weight_VD).to(hidden_MD.dtype))
                grad_weight_VD += grad_CV.mT @ hidden_MD[chunk]
                if grad_bias_V is not None:
                    grad_bias_V += grad_CV.sum(0)
        if grad_weight_VD is not None:
            if bias_V is not None and grad_bias_V is not None:
                grad_bias_V = grad_bias_V.to(bias_V.dtype)
            ctx.save_for_backward(torch.cat(grad_rows), grad_weight_VD.to(weight_VD.dtype), grad_bias_V)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_MD, grad_weight_VD, grad_bias_V = ctx.saved_tensors
        by_bias_V = None if grad_bias_V is None else grad_bias_V * grad_outputs[0]
        return grad_hidden_MD * grad_outputs[0], grad_weight_VD * grad_outputs[0], None, None, by_bias_V, None, None
