"""The single-pass encoder under the baselines: MLM, CMLM (mask-predict) and MDLM (masked diffusion).

    x = encoder(sqrt(D) E[tokens])               pre-norm blocks, rotary positions, last norm
    logits = x @ E'

The three differ in what is masked in training and in how a text is filled in, not in their network.

Shapes: B batch, L length, D width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from rtx_lab.models import flops, ranges
from rtx_lab.models.class_head import class_head
from rtx_lab.nn.masking import NOISE_SCHEDULES
from rtx_lab.nn.rotary import RotaryStack, attention_mask, rotary_table

OBJECTIVES = ("mlm", "cmlm", "mdlm")
SAMPLERS = ("ancestral", "cached")


class MaskedLanguageModel(nn.Module, PyTorchModelHubMixin, library_name="rtx_lab", license="apache-2.0"):
    """An encoder with a tied head without bias.

    `mask_ratio` is the share that `mlm` masks; `num_iterations` the passes of `cmlm`; `num_sampling_steps`, `sampler`
    and `noise_schedule` (alpha = cos(pi t / 2)^2 or 1 - t) belong to `mdlm`. `num_classes` above 0 adds a head for the
    class of a whole text. Raises UsageError, naming every wrong parameter at once.
    """

    task = "rtx_lab.tasks.denoise.DenoiseTask"
    output_bias = None

    def __init__(
        self,
        *,
        vocab_size: int | None = None,
        max_seq_len: int = 512,
        d_model: int,
        n_heads: int,
        d_ff: int,
        n_encoder_layers: int,
        dropout: float = 0.1,
        objective: str = "mlm",
        mask_ratio: float = 0.15,
        num_iterations: int = 10,
        num_sampling_steps: int = 50,
        sampler: str = "cached",
        noise_schedule: str = "cosine",
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        _check(locals())
        assert vocab_size is not None
        self.objective, self.mask_ratio, self.num_iterations = objective, mask_ratio, num_iterations
        self.num_sampling_steps, self.sampler, self.noise_schedule = num_sampling_steps, sampler, noise_schedule
        self.max_steps = {"mlm": 1, "cmlm": num_iterations, "mdlm": num_sampling_steps}[objective]
        self.sizes, self.num_classes = (n_encoder_layers, d_model, d_ff), num_classes
        self.token = nn.Parameter(torch.randn(vocab_size, d_model) / math.sqrt(d_model))
        self.positions = rotary_table(max_seq_len, d_model // n_heads)
        self.dropout = nn.Dropout(dropout)
        self.encoder = RotaryStack(d_model, n_encoder_layers, n_heads, d_ff, dropout)
        self.class_head = class_head(d_model, num_classes)

    @property
    def output_weight(self) -> Tensor:
        """(V, D): logits are hidden @ output_weight'."""
        return self.token

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training recomputes blocks instead of keeping their activations."""
        return self.encoder.gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self.encoder.gradient_checkpointing = value

    def encode(self, tokens_BL: Tensor, real_BL: Tensor | None) -> Tensor:
        """Return what the head reads, (B, L, D); real is true at real tokens, None where nothing is padded."""
        x_BLD = nn.functional.embedding(tokens_BL, self.token) * math.sqrt(self.token.shape[1])
        return self.encoder(self.dropout(x_BLD), self.positions(tokens_BL.shape[1]), attention_mask(real_BL))

    def flops(self, length: int, steps: float, num_read: float) -> float:
        """Return the forward FLOPs of `steps` passes over one text, with `num_read` rows at the head in all."""
        num_layers, d_model, d_ff = self.sizes
        passes = steps * num_layers * flops.block_flops(length, d_model, d_ff)
        return passes + flops.head_flops(num_read, d_model, self.token.shape[0])


def _check(given: dict[str, Any]) -> None:
    """Refuse every parameter out of range, all at once."""
    problems: list[str] = []
    for key in ("vocab_size", "max_seq_len", "n_encoder_layers", "num_iterations", "num_sampling_steps"):
        problems += ranges.positive_integer(key, given[key])
    problems += ranges.integer("num_classes", given["num_classes"], least=0)
    problems += ranges.block(given["d_model"], given["n_heads"], given["d_ff"])
    problems += ranges.number("dropout", given["dropout"], below=1)
    problems += ranges.share("mask_ratio", given["mask_ratio"])
    problems += ranges.one_of("objective", given["objective"], OBJECTIVES)
    problems += ranges.one_of("sampler", given["sampler"], SAMPLERS)
    problems += ranges.one_of("noise_schedule", given["noise_schedule"], NOISE_SCHEDULES)
    ranges.refuse(problems)
