"""Cross entropy straight from hidden states, a chunk of rows at a time: all logits are never alive together.

Shapes: M rows (positions), D width, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
CHUNK_ELEMENTS = 1 << 22
"""Logits alive at once; 16 MB in float32. Larger chunks were no faster."""


def linear_cross_entropy(hidden: Tensor, weight_VD: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the summed cross entropy of hidden @ weight' over the rows whose label is not -100, in nats.

    hidden (..., D), labels (...) int64. The gradient is computed in the forward pass, chunk by chunk, so that the
    memory is one chunk of logits plus the gradients of hidden and weight. Sums are float32 (or the input's own wider
    type) also under autocast. No step depends on the values of the labels.
    """
    return _ChunkedCrossEntropy.apply(hidden.flatten(0, -2), weight_VD, labels.flatten(), label_smoothing)


@torch.no_grad()
def token_nll(hidden: Tensor, weight_VD: Tensor, labels: Tensor) -> Tensor:
    """Return -log p(label) of every position, 0 where the label is -100; no gradient. Shape of `labels`."""
    rows_MD = hidden.flatten(0, -2)
    parts = []
    for rows, targets in _chunks(rows_MD, labels.flatten(), weight_VD.shape[0]):
        log_probs_CV = torch.log_softmax(_logits(rows, weight_VD), dim=-1)
        picked = log_probs_CV.gather(1, targets.clamp_min(0)[:, None]).squeeze(1)
        parts.append(torch.where(targets == IGNORED, 0, -picked))
    return torch.cat(parts).view(labels.shape)


def _logits(rows_CD: Tensor, weight_VD: Tensor) -> Tensor:
    logits_CV = rows_CD @ weight_VD.mT
    return logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32))


def _chunks(rows_MD: Tensor, labels_M: Tensor, vocab_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    size = max(1, CHUNK_ELEMENTS // vocab_size)
    for start in range(0, rows_MD.shape[0], size):
        yield rows_MD[start : start + size], labels_M[start : start + size]


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_MD: Tensor, weight_VD: Tensor, labels_M: Tensor, smoothing: float) -> Tensor:
        wants_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        wide = torch.promote_types(weight_VD.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden_MD.device)
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=wide) if wants_gradient else None
        grad_rows = []
        for rows_CD, labels_C in _chunks(hidden_MD, labels_M, weight_VD.shape[0]):
            valid_C, targets_C1 = labels_C != IGNORED, labels_C.clamp_min(0)[:, None]
            log_probs_CV = torch.log_softmax(_logits(rows_CD, weight_VD), dim=-1)
            loss_C = -(1 - smoothing) * log_probs_CV.gather(1, targets_C1).squeeze(1)
            if smoothing:
                loss_C = loss_C - smoothing * log_probs_CV.mean(1)
            total += (loss_C * valid_C).sum()
            if grad_weight_VD is not None:
                grad_CV = log_probs_CV.exp_()
                if smoothing:
                    grad_CV -= smoothing / grad_CV.shape[1]
                grad_CV.scatter_add_(1, targets_C1, torch.full_like(targets_C1, smoothing - 1, dtype=grad_CV.dtype))
                grad_CV *= valid_C[:, None]
                grad_rows.append((grad_CV @ weight_VD).to(hidden_MD.dtype))
                grad_weight_VD += grad_CV.mT @ rows_CD
        if grad_weight_VD is not None:
            ctx.save_for_backward(torch.cat(grad_rows), grad_weight_VD.to(weight_VD.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden_MD, grad_weight_VD = ctx.saved_tensors
        return grad_hidden_MD * grad_outputs[0], grad_weight_VD * grad_outputs[0], None, None
