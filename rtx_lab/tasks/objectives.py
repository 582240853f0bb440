"""The losses of the denoisers, each a sum over the tokens that were hidden from the model.

One head call covers all chain steps, and only rows that the loss reads are gathered before it. Nothing here waits for
the device: how many chain steps and rows there are is told by shapes.

Shapes: B samples, L segment length, l chain steps, R rows per chain step, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rtx_lab.core.types import Batch
from rtx_lab.nn.cross_entropy import IGNORED, linear_cross_entropy, prediction_quality
from rtx_lab.nn.masking import hashed_normal, hashed_uniform, masked_positions, reveal_order, target_positions

NOISE_JITTER = 0.1 / 20
"""Spread of the noise level that training adds to the true one, in units of the whole noise (RDT: .1 of 20)."""
Loss = tuple[Tensor, dict[str, Tensor]]


def hide(batch: Batch, mask_id: int) -> tuple[Tensor, Tensor]:
    """Return the corrupted tokens (B, L) and the order (B, L) in which tokens become visible."""
    order_BL = reveal_order(hashed_uniform(batch["seed"], batch["tokens"].shape[1]), batch["maskable"])
    return _masked(batch, order_BL, 0, mask_id), order_BL


def _masked(batch: Batch, order_BL: Tensor, step: int, mask_id: int) -> Tensor:
    hidden_BL = masked_positions(order_BL, batch["maskable"], batch["visible"][:, step])
    return torch.where(hidden_BL, mask_id, batch["tokens"])


def masked_loss(model: Any, batch: Batch, mask_id: int) -> Loss:
    """The weighted cross entropy of the hidden tokens after one pass: MLM, CMLM, and the NELBO of MDLM."""
    noisy_BL, order_BL = hide(batch, mask_id)
    hidden_BLD = model.encode(noisy_BL, batch.get("real"))
    rows_BlRD, labels_BlR = _rows(hidden_BLD[:, None], batch, order_BL)
    loss = _head(model, rows_BlRD, labels_BlR, mask_id, batch["weight"][:, None, None].expand_as(labels_BlR))
    return loss, {"recon_loss": loss.detach()}


def chain_loss(model: Any, batch: Batch, mask_id: int) -> Loss:
    """The cross entropy of the targets of all chain steps, and what the gate gets wrong about the noise that is left.

    The gate's squared error, a mean over a sample's chain steps, counts as often as the sample has targets, so that
    both terms are per target whatever the cut. Noise is counted from 0 to 1, the original's from 0 to 20.
    """
    noisy_BL, order_BL = hide(batch, mask_id)
    thought = model.begin(noisy_BL, batch.get("real"))
    gates, states = [thought.noise_B], []
    length = batch["visible"].shape[1] - 1
    for step in range(length):
        fresh_BL = _masked(batch, order_BL, step, mask_id) if model.commit and step else None
        thought = model.advance(thought, _noise(batch, thought.noise_B, step), fresh_BL)
        gates.append(thought.noise_B)
        states.append(thought.hidden_BLD)
    real_BL = batch.get("real")
    read_lBLD = model.read(torch.cat(states), None if real_BL is None else real_BL.repeat(length, 1))
    read_BlLD = read_lBLD.view(length, *noisy_BL.shape, -1).transpose(0, 1)
    rows_BlRD, labels_BlR = _rows(read_BlLD, batch, order_BL)
    recon = _head(model, rows_BlRD, labels_BlR, mask_id, None)
    wanted = _gate_target(model, batch, rows_BlRD.detach(), labels_BlR, mask_id)
    gate_B = (torch.stack(gates, dim=1) - wanted).square().mean(1)
    gate = (gate_B * batch["size"]).sum()
    total = model.loss_weight_recon * recon + model.loss_weight_gate * gate
    return total, {"recon_loss": recon.detach(), "gate_loss": gate.detach()}


def _noise(batch: Batch, guess_B: Tensor, step: int) -> Tensor:
    """What the core is told: early in training the true noise with some jitter, later the gate's own guess."""
    jitter_B = hashed_normal(batch["seed"], batch["visible"].shape[1])[:, step] * NOISE_JITTER
    mix_B = batch["mix"]
    return (mix_B * (batch["noise"][:, step] + jitter_B) + (1 - mix_B) * guess_B.detach()).to(guess_B.dtype)


def _gate_target(model: Any, batch: Batch, rows_BlRD: Tensor, labels_BlR: Tensor, mask_id: int) -> Tensor:
    """(B, l+1): the noise by the counter, or what is measured of the guesses, times the share that is hidden."""
    if model.gate_target == "counter":
        return batch["noise"]
    judged_BlR = labels_BlR != IGNORED
    wrong_BlR, entropy_BlR = prediction_quality(
        rows_BlRD, model.output_weight, labels_BlR, bias_V=model.output_bias, excluded=mask_id
    )
    measured_BlR = wrong_BlR if model.gate_target == "token_error" else entropy_BlR
    share_Bl = (measured_BlR * judged_BlR).sum(2) / judged_BlR.sum(2).clamp_min(1)
    hidden_B1 = batch["noise"][:, :1]
    return torch.cat([hidden_B1, hidden_B1 * share_Bl], dim=1)


def _rows(hidden_BlLD: Tensor, batch: Batch, order_BL: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden states (B, l, R, D) that the loss reads, and their labels (B, l, R)."""
    rank_BlR = batch["target_rank"]
    place_BlR = target_positions(order_BL, rank_BlR)
    b, steps, rows = place_BlR.shape
    tokens_BlL = batch["tokens"][:, None].expand(b, steps, -1)
    labels_BlR = torch.where(rank_BlR < 0, IGNORED, tokens_BlL.gather(2, place_BlR))
    index_BlRD = place_BlR[..., None].expand(b, steps, rows, hidden_BlLD.shape[-1])
    return hidden_BlLD.gather(2, index_BlRD), labels_BlR


def _head(model: Any, rows: Tensor, labels: Tensor, mask_id: int, row_weight: Tensor | None) -> Tensor:
    return linear_cross_entropy(
        rows, model.output_weight, labels, bias_V=model.output_bias, excluded=mask_id, row_weight=row_weight
    )


LOSSES: dict[str, Callable[[Any, Batch, int], Loss]] = {
    "chain": chain_loss,
    "mlm": masked_loss,
    "cmlm": masked_loss,
    "mdlm": masked_loss,
}
