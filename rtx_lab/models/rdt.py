"""The Recursive Denoising Transformer: one core applied again and again until a gate finds no noise left.

    h_0 = input_processor(sqrt(D) E[tokens])     pre-norm blocks, rotary positions, last norm
    h   = core(h, noise)                         AdaLN blocks, weights shared by all recursions
    noise = gate(h)                              in [0, 1], never rising
    y   = output_processor(h)                    logits = y @ E' + b

Shapes: B batch, L length, D width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from rtx_lab.models import chain, flops, ranges
from rtx_lab.models.class_head import class_head
from rtx_lab.nn.adaln import RecursiveCore, normalise
from rtx_lab.nn.gates import MonotoneGate
from rtx_lab.nn.rotary import RotaryStack, attention_mask, rotary_table
from rtx_lab.nn.thought import Thought


class RecursiveDenoiser(nn.Module, PyTorchModelHubMixin, library_name="rtx_lab", license="apache-2.0"):
    """Denoises a text by recursion in its hidden states; tokens are read once, at the end.

    The published later version (RDT-2), with these deviations: AdaLN really starts at zero; the carried state is
    normalised (`carry_norm`; without it its size grows with every recursion); the gate's zero passes gradients. Options
    of ours: `reinject` takes the mean of the normalised state and the processed input before every recursion (their sum
    would double the first, where both are the same, and learns more slowly), `commit` says that confident tokens are
    written into that input between recursions. `backprop_steps=k` cuts the state from its gradient after every k
    recursions, so that no gradient flows back through more than k. `decoder_type=transformer` is an output processor
    of `n_decoder_layers` blocks (null: one), `linear` a norm alone.

    Raises UsageError, naming every wrong parameter at once.
    """

    task = "rtx_lab.tasks.denoise.DenoiseTask"
    objective = "chain"
    max_steps: int
    total_steps: int
    min_chain_length: int
    max_chain_length: int
    threshold: float
    masking: str
    supervision: str
    gate_target: str
    reinject: bool
    carry_norm: bool
    commit: bool
    backprop_steps: int | None
    noise_mixing_steps: int
    loss_weight_recon: float
    loss_weight_gate: float
    num_classes: int
    _gradient_checkpointing = False

    def __init__(
        self,
        *,
        vocab_size: int | None = None,
        max_seq_len: int = 512,
        d_model: int,
        n_heads: int,
        d_ff: int,
        n_input_layers: int = 1,
        n_encoder_layers: int,
        decoder_type: str = "transformer",
        n_decoder_layers: int | None = None,
        gate_hidden_dim: int = 128,
        gate_num_heads: int = 4,
        dropout: float = 0.1,
        max_chain_length: int = 2,
        min_chain_length: int = 1,
        total_steps: int = 20,
        max_steps: int = 20,
        threshold: float = 0.05,
        masking: str = "linear",
        supervision: str = "newly_revealed",
        gate_target: str = "counter",
        reinject: bool = False,
        carry_norm: bool = True,
        commit: bool = False,
        backprop_steps: int | None = None,
        noise_mixing_steps: int = 0,
        loss_weight_recon: float = 1.0,
        loss_weight_gate: float = 1.0,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        _check(given)
        chain.keep_settings(self, given)
        self._build(given)

    def _build(self, given: dict[str, Any]) -> None:
        vocab_size, d_model, n_heads, d_ff = (given[key] for key in ("vocab_size", "d_model", "n_heads", "d_ff"))
        num_output_layers = chain.count_decoder_layers(given["decoder_type"], given["n_decoder_layers"])
        self.depths = given["n_input_layers"], given["n_encoder_layers"], num_output_layers
        self.sizes = d_model, d_ff, given["gate_num_heads"], given["gate_hidden_dim"]
        num_input, num_core, num_output = self.depths
        shape = n_heads, d_ff, given["dropout"]
        # variance 1/D: logits start with unit variance, and so does sqrt(D) times a token's row
        self.token = nn.Parameter(torch.randn(vocab_size, d_model) / math.sqrt(d_model))
        self.output_bias = nn.Parameter(torch.zeros(vocab_size))
        self.positions = rotary_table(given["max_seq_len"], d_model // n_heads)
        self.dropout = nn.Dropout(given["dropout"])
        self.input_processor = RotaryStack(d_model, num_input, *shape)
        self.core = RecursiveCore(d_model, num_core, *shape)
        self.gate = MonotoneGate(d_model, given["gate_num_heads"], given["gate_hidden_dim"], given["dropout"])
        self.output_processor = RotaryStack(d_model, num_output, *shape)
        self.class_head = class_head(d_model, given["num_classes"])

    @property
    def output_weight(self) -> Tensor:
        """(V, D): logits are hidden @ output_weight' + output_bias."""
        return self.token

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training recomputes blocks instead of keeping their activations."""
        return self._gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self._gradient_checkpointing = value
        for part in (self.input_processor, self.core, self.output_processor):
            part.gradient_checkpointing = value

    def begin(self, tokens_BL: Tensor, real_BL: Tensor | None) -> Thought:
        """Process the input and read the gate once; real is true at real tokens, None where nothing is padded."""
        input_BLD = self._process(tokens_BL, real_BL)
        noise_B, pooled_BD = self.gate.start(input_BLD, real_BL)
        return Thought(input_BLD, noise_B, pooled_BD, input_BLD, real_BL)

    def advance(self, thought: Thought, noise_B: Tensor | None = None, fresh_BL: Tensor | None = None) -> Thought:
        """Recur once, at noise level (B,) in [0, 1] or, without one, at the gate's own estimate, detached.

        fresh_BL (B, L) are the tokens to re-inject from now on. Raises ValueError where the model re-injects nothing.
        """
        hidden_BLD, num_linked = thought.hidden_BLD, thought.num_linked
        if num_linked == self.backprop_steps:
            hidden_BLD, num_linked = hidden_BLD.detach(), 0
        told_B = thought.noise_B.detach() if noise_B is None else noise_B.to(thought.noise_B.dtype)
        input_BLD, real_BL = thought.input_BLD, thought.real_BL
        if fresh_BL is not None:
            if not self.reinject:
                raise ValueError("fresh tokens have no way into a model that re-injects nothing: set model.reinject")
            input_BLD = self._process(fresh_BL, real_BL)
        if self.reinject:
            hidden_BLD = 0.5 * (normalise(hidden_BLD) + input_BLD)
        rotation, mask = self.positions(hidden_BLD.shape[1]), attention_mask(real_BL)
        hidden_BLD = self.core(hidden_BLD, told_B * self.total_steps, rotation, mask)
        if self.carry_norm:
            hidden_BLD = normalise(hidden_BLD)
        noise_B, pooled_BD = self.gate.step(hidden_BLD, real_BL, thought.noise_B, thought.pooled_BD)
        return Thought(hidden_BLD, noise_B, pooled_BD, input_BLD, real_BL, num_linked + 1)

    def read(self, hidden_BLD: Tensor, real_BL: Tensor | None) -> Tensor:
        """Return what the head reads, (B, L, D)."""
        return self.output_processor(hidden_BLD, self.positions(hidden_BLD.shape[1]), attention_mask(real_BL))

    def _process(self, tokens_BL: Tensor, real_BL: Tensor | None) -> Tensor:
        x_BLD = nn.functional.embedding(tokens_BL, self.token) * math.sqrt(self.sizes[0])
        return self.input_processor(self.dropout(x_BLD), self.positions(tokens_BL.shape[1]), attention_mask(real_BL))

    def flops(self, length: int, steps: float, num_read: float) -> float:
        """Return the forward FLOPs of one text of `length` tokens, alone in its batch.

        `steps` recursions, one output pass, `num_read` rows at the head in all. A model that commits tokens reads and
        processes its input once more between two recursions.
        """
        (d_model, d_ff, gate_heads, gate_hidden), (num_input, num_core, num_output) = self.sizes, self.depths
        block = flops.block_flops(length, d_model, d_ff)
        gate = flops.monotone_gate_flops(length, d_model, gate_heads, gate_hidden)
        step = num_core * block + flops.noise_flops(d_model, num_core) + gate
        passes = 1 + (max(steps - 1, 0) if self.commit else 0)
        ends = passes * (num_input + num_output) * block
        return ends + gate + steps * step + flops.head_flops(num_read, d_model, self.token.shape[0])


def _check(given: dict[str, Any]) -> None:
    """Refuse every parameter out of range, all at once."""
    problems: list[str] = []
    for key in ("vocab_size", "max_seq_len", "n_encoder_layers", "gate_hidden_dim", "gate_num_heads"):
        problems += ranges.positive_integer(key, given[key])
    problems += ranges.integer("n_input_layers", given["n_input_layers"], least=0)
    for key in ("noise_mixing_steps", "num_classes"):
        problems += ranges.integer(key, given[key], least=0)
    problems += ranges.block(given["d_model"], given["n_heads"], given["d_ff"])
    problems += ranges.divides("gate_num_heads", given["gate_num_heads"], "d_model", given["d_model"])
    problems += chain.check_decoder(given["decoder_type"], given["n_decoder_layers"])
    problems += chain.check_chain(given)
    for key in ("reinject", "carry_norm", "commit"):
        problems += ranges.boolean(key, given[key])
    if given["commit"] is True and given["reinject"] is False:
        problems.append("model.commit needs model.reinject=true: committed tokens have no other way into the recursion")
    ranges.refuse(problems)
