"""The control: an encoder-decoder transformer with as many parameters as a Connection Transformer of the same keys.

    x_BSD = encoder(token + position)            depth and inner width solved from the parameter count
    y_BTD = decoder(targets, memory = x)         the Connection Transformer's own decoder and tied output

Shapes: B batch, S source length, T target length, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from rtx_lab.core.errors import UsageError
from rtx_lab.models import counts
from rtx_lab.models.connection_transformer import ConnectionTransformer
from rtx_lab.nn.attention import Decoder, DecoderCache, Encoder
from rtx_lab.nn.embedding import Embedding
from rtx_lab.nn.memory import Memory

MOST_LAYERS = 12
"""Beyond this depth the inner width grows instead: the dense model's count would ask for hundreds of layers."""


def solve_encoder(num_parameters: int, d_model: int) -> tuple[int, int]:
    """Return the number of layers and the inner width of the encoder whose size is nearest to `num_parameters`.

    About 4 D wide for up to twelve layers, then wider. Raises UsageError where one narrow layer is already too large.
    """
    standard = counts.encoder_parameters(d_model, 1, 4 * d_model)
    num_layers = min(max(round(num_parameters / standard), 1), MOST_LAYERS)
    rest = num_parameters - counts.encoder_parameters(d_model, num_layers, 0)
    d_ff = round(rest / (num_layers * (2 * d_model + 1)))
    if d_ff < 1:
        raise UsageError(
            f"model: no transformer encoder of width {d_model} is as small as {num_parameters} parameters; "
            "choose a larger model.num_slots or model.bilinear_rank to match"
        )
    return num_layers, d_ff


class TransformerBaseline(nn.Module, PyTorchModelHubMixin, library_name="rtx_lab", license="apache-2.0"):
    """Pre-norm encoder-decoder matched to `ConnectionTransformer(...)` of the same keys, within 2 % and in fact closer.

    The keys that only a Connection Transformer has (slots, rank, connection, `num_encoder_layers`) say what to match.
    `max_steps` is 0: this model takes no reasoning steps. Raises UsageError as the other model does.
    """

    task = "rtx_lab.tasks.answer.AnswerTask"
    max_steps = 0

    def __init__(
        self,
        *,
        vocab_size: int | None = None,
        max_seq_len: int = 512,
        d_model: int,
        num_slots: int,
        bilinear_rank: int,
        connection: str = "diag",
        num_encoder_layers: int = 0,
        num_decoder_layers: int = 1,
        num_heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        with torch.device("meta"):  # counts without memory, and without touching the generator
            matched = ConnectionTransformer(
                vocab_size=vocab_size,
                max_seq_len=max_seq_len,
                d_model=d_model,
                num_slots=num_slots,
                bilinear_rank=bilinear_rank,
                max_reasoning_steps=1,
                connection=connection,
                num_encoder_layers=num_encoder_layers,
                num_decoder_layers=num_decoder_layers,
                num_heads=num_heads,
                dropout=dropout,
            )
        assert vocab_size is not None
        shared = counts.count_parameters(matched.embedding) + counts.count_parameters(matched.decoder)
        self.num_layers, self.d_ff = solve_encoder(counts.count_parameters(matched) - shared, d_model)
        self.embedding = Embedding(vocab_size, max_seq_len, d_model, dropout)
        self.encoder = Encoder(d_model, self.num_layers, num_heads, self.d_ff, dropout)
        self.decoder = Decoder(d_model, num_decoder_layers, num_heads, 4 * d_model, dropout)
        self._gradient_checkpointing = False

    @property
    def output_weight(self) -> Tensor:
        """(V, D): logits are hidden @ output_weight'."""
        return self.embedding.token

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training recomputes layers instead of keeping their activations."""
        return self._gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self._gradient_checkpointing = value
        self.encoder.gradient_checkpointing = value
        self.decoder.gradient_checkpointing = value

    def encode(self, source_BS: Tensor, mask_BS: Tensor) -> Memory:
        """Encode the source; mask is true at real tokens. The memory is one state per token."""
        states_BSD = self.encoder(self.embedding.source(source_BS), mask_BS)
        steps_B = torch.zeros(source_BS.shape[0], dtype=torch.int64, device=source_BS.device)
        return Memory(states=states_BSD, mask=mask_BS, steps=steps_B)

    def decode(self, memory: Memory, tokens_BT: Tensor, cache: DecoderCache | None = None, position: int = 0) -> Tensor:
        """Return hidden states (B, T, D) of target tokens that stand at `position`, `position` + 1, ..."""
        return self.decoder(self.embedding.target(tokens_BT, position), memory.states, memory.mask, cache)

    def auxiliary(self, memory: Memory, labels_BT: Tensor) -> Tensor:
        """Zero for every sample, (B,): nothing is supervised but the answer."""
        return memory.states.new_zeros(labels_BT.shape[0])

    def connection_strength(self) -> None:
        """None: this model has no pair maps."""

    def penalty(self) -> Tensor:
        """Zero: there are no pair maps."""
        return self.output_weight.new_zeros(())
