"""The Connection Transformer: a source compressed into slots that reason by pair maps, and a small decoder.

    x_BSD = encode(source)                       token + position, optionally self-attention
    h_BND = slots + compression(x)               tokens choose slots
    h     = LN(h + ReLU(connection(h)))          K times, weights shared; each sample halts at its own depth
    y_BTD = decoder(targets, memory = h)         logits = y @ output_weight'

Shapes: B batch, S source length, T target length, N slots, D width, K reasoning steps, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rtx_lab.models import ranges
from rtx_lab.nn import halting as halt
from rtx_lab.nn.attention import Decoder, DecoderCache, Encoder
from rtx_lab.nn.connections import CONNECTIONS, build_connection
from rtx_lab.nn.depths import sample_uniform
from rtx_lab.nn.embedding import Embedding
from rtx_lab.nn.memory import Memory
from rtx_lab.nn.slots import SLOTS, Compression

STEP_NORMS = ("shared", "per_step")


class ConnectionTransformer(nn.Module, PyTorchModelHubMixin, library_name="rtx_lab", license="apache-2.0"):
    """Encoder-decoder whose encoder iterates bilinear maps between slots, for as many steps as a sample needs.

    Raises UsageError, naming every wrong parameter at once. Deviations from the original (CT-2, encoder-decoder form):
    the influence has a constant scale, input and slots start at one size, halting is per sample and learnt from
    supervised readouts, source, target and output share one token table.
    """

    task = "rtx_lab.tasks.answer.AnswerTask"
    _gradient_checkpointing = False

    def __init__(
        self,
        *,
        vocab_size: int | None = None,
        max_seq_len: int = 512,
        d_model: int,
        num_slots: int,
        bilinear_rank: int,
        max_reasoning_steps: int,
        convergence_threshold: float = 0.01,
        connection: str = "diag",
        halting: str = "threshold",
        halting_criterion: str = "readout_kl",
        fixed_steps: int | None = None,
        step_norm: str = "shared",
        slots: str = "fixed",
        num_encoder_layers: int = 0,
        num_decoder_layers: int = 1,
        num_heads: int = 4,
        dropout: float = 0.0,
        readout_weight: float = 0.1,
        reasoning_cost_weight: float = 0.001,
        target_steps: float = 4,
        ponder_weight: float = 0.01,
        orthogonal_weight: float = 0.01,
    ) -> None:
        super().__init__()
        _check(locals())
        assert vocab_size is not None
        self.max_steps = fixed_steps or max_reasoning_steps
        self.readout_weight, self.orthogonal_weight = readout_weight, orthogonal_weight
        self.reasoning_cost_weight, self.target_steps = reasoning_cost_weight, target_steps
        self.embedding = Embedding(vocab_size, max_seq_len, d_model, dropout)
        self.encoder = _encoder(num_encoder_layers, d_model, num_heads, dropout)
        self.compression = Compression(num_slots, d_model, slots)
        self.connection = build_connection(connection, num_slots, d_model, bilinear_rank)
        self.step_norms = _step_norms(step_norm, d_model, self.max_steps)
        self.readout, self.measure = halt.Readout(d_model, num_heads), halt.build_measure(halting_criterion)
        self.halting = _halting(locals())
        self.decoder = Decoder(d_model, num_decoder_layers, num_heads, 4 * d_model, dropout)

    @property
    def output_weight(self) -> Tensor:
        """(V, D): logits are hidden @ output_weight'."""
        return self.embedding.token

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training recomputes reasoning steps and layers instead of keeping their activations."""
        return self._gradient_checkpointing

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        self._gradient_checkpointing = value
        self.decoder.gradient_checkpointing = value
        if self.encoder is not None:
            self.encoder.gradient_checkpointing = value

    def encode(self, source_BS: Tensor, mask_BS: Tensor) -> Memory:
        """Compress and reason; mask is true at real tokens.

        In training the state is taken at a depth drawn for each sample (threshold: uniformly; ponder: from its halting
        distribution), in evaluation where the sample halts. Traceable on fake tensors, without host sync.
        """
        x_BSD = self.embedding.source(source_BS)
        if self.encoder is not None:
            x_BSD = self.encoder(x_BSD, mask_BS)
        h_BND, attention_BSN = self.compression(x_BSD, mask_BS)
        states, changes_BK = self._reason(h_BND)
        trace = self._trace(states, changes_BK, sample_uniform(source_BS, mask_BS))
        outcome = self.halting(trace)
        memory = Memory(
            states=halt.take_at_depth(states, outcome.steps),
            mask=None,
            steps=outcome.steps,
            expected_steps=outcome.expected_steps,
            halting=outcome.halting,
            scores=outcome.scores,
        )
        if self.training:
            memory.log_probs = trace.log_probs_KBV
        else:
            memory.assignment = attention_BSN.argmax(-1)
        return memory

    def _reason(self, h_BND: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the states after 0..K steps and the measured change of each step (B, K)."""
        mix = self.connection.operator()
        states, changes = [h_BND], []
        for step in range(self.max_steps):
            norm = self.step_norms[step % len(self.step_norms)]
            if self.gradient_checkpointing and self.training:
                h_BND, change_B = checkpoint(self._step, h_BND, mix, norm, use_reentrant=False)
            else:
                h_BND, change_B = self._step(h_BND, mix, norm)
            states.append(h_BND)
            changes.append(change_B)
        return states, torch.stack(changes, dim=1)

    def _step(self, h_BND: Tensor, mix: Callable[[Tensor], Tensor], norm: nn.Module) -> tuple[Tensor, Tensor]:
        update_BND = mix(h_BND).relu_()
        new_BND = norm(h_BND + update_BND)
        return new_BND, self.measure(h_BND, update_BND, new_BND)

    def _trace(self, states: list[Tensor], changes_BK: Tensor, uniform_B: Tensor) -> halt.Trace:
        pooled_KBD = torch.stack([self.readout.pool(state) for state in states])
        log_probs_KBV = self.readout(pooled_KBD, self.output_weight)
        return halt.Trace(
            changes_BK=changes_BK, pooled_KBD=pooled_KBD, log_probs_KBV=log_probs_KBV, uniform_B=uniform_B
        )

    def decode(self, memory: Memory, tokens_BT: Tensor, cache: DecoderCache | None = None, position: int = 0) -> Tensor:
        """Return hidden states (B, T, D) of target tokens that stand at `position`, `position` + 1, ...

        Give an empty `DecoderCache()` with the first tokens and the same one with every further piece, to compute no
        token twice.
        """
        return self.decoder(self.embedding.target(tokens_BT, position), memory.states, memory.mask, cache)

    def auxiliary(self, memory: Memory, labels_BT: Tensor) -> Tensor:
        """Extra loss of each sample in nats per target token, (B,); zero in evaluation.

        Supervision of the readouts on the first label, (expected steps - target)^2, and the ponder divergence.
        """
        if memory.log_probs is None:
            return memory.states.new_zeros(memory.steps.shape[0])
        first_B = labels_BT[:, 0]
        index_KB1 = first_B.clamp_min(0)[:, None].expand(memory.log_probs.shape[0], -1, -1)
        nll_KB = -memory.log_probs.gather(2, index_KB1).squeeze(2) * (first_B >= 0)
        loss_B = self.halting.supervision(memory.halting, nll_KB, self.readout_weight)
        if memory.expected_steps is not None:
            loss_B = loss_B + self.reasoning_cost_weight * (memory.expected_steps - self.target_steps).square()
        return loss_B

    def connection_strength(self) -> Tensor:
        """(N, N) Frobenius norm of each pair map, from slot (row) to slot (column)."""
        return self.connection.strength().detach()

    def penalty(self) -> Tensor:
        """Weighted orthogonality regulariser of the pair maps, without dimensions; 0 when its weight is 0."""
        if not self.orthogonal_weight:
            return self.output_weight.new_zeros(())
        return self.orthogonal_weight * self.connection.penalty()


def _encoder(num_layers: int, d_model: int, num_heads: int, dropout: float) -> Encoder | None:
    return Encoder(d_model, num_layers, num_heads, 4 * d_model, dropout) if num_layers else None


def _step_norms(step_norm: str, d_model: int, max_steps: int) -> nn.ModuleList:
    return nn.ModuleList(nn.LayerNorm(d_model) for _ in range(1 if step_norm == "shared" else max_steps))


def _halting(given: dict[str, Any]) -> halt.FixedHalting | halt.ThresholdHalting | halt.PonderHalting:
    """The way to halt that the constructor's parameters name."""
    return halt.build_halting(
        "none" if given["fixed_steps"] else given["halting"],
        criterion=given["halting_criterion"],
        threshold=given["convergence_threshold"],
        d_model=given["d_model"],
        max_steps=given["max_reasoning_steps"],
        target_steps=given["target_steps"],
        ponder_weight=given["ponder_weight"],
    )


def _check(given: dict[str, object]) -> None:
    """Refuse every parameter out of range, all at once."""
    problems: list[str] = []
    for key in (
        *("vocab_size", "max_seq_len", "d_model", "num_slots", "bilinear_rank"),
        *("max_reasoning_steps", "num_decoder_layers", "num_heads"),
    ):
        problems += ranges.positive_integer(key, given[key])
    problems += ranges.integer("num_encoder_layers", given["num_encoder_layers"], least=0)
    if given["fixed_steps"] is not None:
        problems += ranges.positive_integer("fixed_steps", given["fixed_steps"])
        problems += ranges.at_most(
            "fixed_steps", given["fixed_steps"], "max_reasoning_steps", given["max_reasoning_steps"]
        )
    problems += ranges.positive_number("convergence_threshold", given["convergence_threshold"])
    problems += ranges.number("target_steps", given["target_steps"], least=1)
    problems += ranges.number("dropout", given["dropout"], below=1)
    for key in ("readout_weight", "reasoning_cost_weight", "ponder_weight", "orthogonal_weight"):
        problems += ranges.number(key, given[key])
    choices = {
        "connection": CONNECTIONS,
        "halting": halt.HALTINGS,
        "halting_criterion": halt.CRITERIA,
        "step_norm": STEP_NORMS,
        "slots": SLOTS,
    }
    for key, options in choices.items():
        problems += ranges.one_of(key, given[key], options)
    if given["connection"] in ("dense", "core", "diag"):
        problems += ranges.at_most("bilinear_rank", given["bilinear_rank"], "d_model", given["d_model"])
    problems += ranges.divides("num_heads", given["num_heads"], "d_model", given["d_model"])
    ranges.refuse(problems)
