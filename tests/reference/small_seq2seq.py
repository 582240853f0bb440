"""T5, mT5 and BART of a few thousand weights, batches of ids without meaning, and their logits written out."""

from typing import Any

import torch
from torch.nn import functional as F

from rtx_lab.models.pretrained import PretrainedSeq2Seq

B, S, T = 6, 9, 7
SIZES = {
    "tokenizer_size": 53, "d_model": 16, "n_heads": 2, "d_ff": 24, "n_encoder_layers": 2, "n_decoder_layers": 2,
    "max_seq_len": 64, "dropout": 0.0,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "t5": {"architecture": "t5"},
    "t5_gated": {"architecture": "t5", "gated": True, "tied_head": False},
    "mt5": {"architecture": "mt5", "gated": True, "tied_head": False, "d_kv": 4},
    "bart": {"architecture": "bart", "pad_id": 3, "bos_id": 0, "eos_id": 1, "decoder_start_id": 1},
}
LORA = {"lora_rank": 4, "vocab_size": 56}


def small(kind: str, seed: int = 0, **changes: Any) -> PretrainedSeq2Seq:
    """A model with random weights; LoRA's B is drawn as well, so that it does something."""
    torch.manual_seed(seed)
    model = PretrainedSeq2Seq(**{**SIZES, **KINDS[kind], **changes})
    for name, value in model.named_parameters():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(value, std=0.1)
    return model


def batch_of(model: PretrainedSeq2Seq, seed: int = 0, size: int = B) -> dict[str, torch.Tensor]:
    """Ragged sources and targets, padded on the right; new tokens among them."""
    generator = torch.Generator().manual_seed(seed)
    high = model.arguments["vocab_size"]
    source = torch.randint(4, high, (size, S), generator=generator)
    labels = torch.randint(4, high, (size, T), generator=generator)
    source[:, 0] = labels[:, 0] = high - 1
    source_lengths = torch.randint(1, S + 1, (size, 1), generator=generator)
    lengths = torch.randint(1, T + 1, (size, 1), generator=generator)
    mask = torch.arange(S) < source_lengths
    labels = labels.masked_fill(torch.arange(T) >= lengths, -100)
    start = torch.full((size, 1), model.decoder_start_id)
    decoder_input = torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == -100, model.pad_id)], 1)
    return {
        "source": source.masked_fill(~mask, model.pad_id), "source_mask": mask,
        "decoder_input": decoder_input, "labels": labels,
    }  # fmt: skip


def logits_of(model: PretrainedSeq2Seq, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """All logits (B, T, V), from what `head` says they are."""
    hidden = model.decode(model.encode(batch["source"], batch["source_mask"]), batch["decoder_input"])
    head = model.head(hidden)
    logits = F.linear(head.hidden.to(head.weight_VD.dtype), head.weight_VD).to(hidden.dtype)
    if head.bias_V is not None:
        logits = logits + head.bias_V
    if head.low is not None and head.up_VR is not None:
        logits = logits + head.low @ head.up_VR.T
    return logits


def loss_of(model: PretrainedSeq2Seq, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The cross entropy summed over the labels that count."""
    logits = logits_of(model, batch)
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100, reduction="sum")


def gradients(model: PretrainedSeq2Seq) -> torch.Tensor:
    """All gradients as one vector; they are dropped."""
    found = torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad(set_to_none=True)
    return found
