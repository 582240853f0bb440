"""Encoder-decoders that exist already: T5, mT5 and BART, fine-tuned whole or by LoRA over weights kept in few bits.

In this order: build or load the network, make rows for new tokens, freeze, quantise, adapt. Under LoRA the rows of new
tokens are trained too, and the checkpoint of a run holds what is trained and nothing else.

Under autocast to bf16 all products are bf16 whatever `quantize` says. Norms, biases, adapters and what passes from
block to block are float32; the table of an adapted model is bfloat16 unless `quantize` is none. T5 and mT5 overflow in
fp16 (`refuses_fp16`).

Shapes: B batch, S source, T target, D width, V rows of the table, R rank.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from rtx_lab.models.adapters import (
    Adaptation,
    InputTable,
    OutputTable,
    Parts,
    adapt_linears,
    adapt_tables,
    new_rows,
)
from rtx_lab.models.pretrained_base import build_network
from rtx_lab.models.pretrained_checks import completed
from rtx_lab.models.quantised import freeze_linears
from rtx_lab.models.shared_source import read_source

DEFAULT_TARGETS = {
    ("t5", False): ("q", "k", "v", "o", "wi", "wo"),
    ("t5", True): ("q", "k", "v", "o", "wi_0", "wi_1", "wo"),
    ("mt5", False): ("q", "k", "v", "o", "wi", "wo"),
    ("mt5", True): ("q", "k", "v", "o", "wi_0", "wi_1", "wo"),
    ("bart", False): ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}
"""Every linear layer of the blocks, by architecture and whether its feed-forward is gated."""
_NO_ARGUMENTS = ("self", "__class__")
ARGUMENTS = "rtx_lab.json"
"""What an exported folder says of its model besides transformers' own config.json."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A source as the decoder reads it: states (B, S, D), and a mask (B, S) that is true at real tokens."""

    states: Tensor
    mask: Tensor

    def select(self, index: Tensor) -> Encoded:
        """The samples `index`, in that order; samples may be repeated."""
        return Encoded(self.states[index], self.mask[index])


@dataclass(frozen=True, slots=True)
class Head:
    """Logits are hidden @ weight_VD' + bias_V + low @ up_VR': for losses that never form all of them."""

    hidden: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    low: Tensor | None
    up_VR: Tensor | None


class PretrainedSeq2Seq(nn.Module):
    """A T5, mT5 or BART of transformers behind this project's interface.

    `checkpoint`: hub id or folder, None for random weights. `tokenizer_size` ids are known to the checkpoint's
    tokenizer; those from there to `vocab_size` are new. `embedding_rows`: rows of the checkpoint's table. `lora_rank`
    None trains everything; `lora_targets` None means every linear layer of the blocks; `quantize` says how frozen
    weights are kept (`rtx_lab.models.quantised`). Raises UsageError, naming every wrong parameter at once.
    """

    task = "rtx_lab.tasks.summarise.SummariseTask"
    max_steps = 1

    def __init__(
        self,
        *,
        architecture: str,
        checkpoint: str | None = None,
        revision: str = "main",
        tokenizer: str | None = None,
        tokenizer_size: int,
        vocab_size: int | None = None,
        embedding_rows: int | None = None,
        max_seq_len: int = 1024,
        d_model: int,
        n_heads: int,
        d_kv: int | None = None,
        d_ff: int,
        n_encoder_layers: int,
        n_decoder_layers: int,
        gated: bool = False,
        tied_head: bool = True,
        pad_id: int = 0,
        bos_id: int | None = None,
        eos_id: int = 1,
        decoder_start_id: int = 0,
        dropout: float = 0.1,
        lora_rank: int | None = None,
        lora_alpha: float | None = None,
        lora_dropout: float = 0.0,
        lora_targets: Sequence[str] | None = None,
        quantize: str = "none",
    ) -> None:
        super().__init__()
        self.arguments = given = completed({key: value for key, value in locals().items() if key not in _NO_ARGUMENTS})
        self.pad_id, self.eos_id, self.decoder_start_id = pad_id, eos_id, decoder_start_id
        self.refuses_fp16 = architecture != "bart"
        self.adapted = lora_rank is not None
        self.network = build_network(given)
        if self.adapted:
            self._adapt(quantize)
        self._hidden_scale = _hidden_scale(self.network.config)
        self.train()

    def _adapt(self, quantize: str) -> None:
        given, network = self.arguments, self.network
        network.requires_grad_(False)
        how = adaptation(given)
        blocks = network.model if given["architecture"] == "bart" else network
        head, network.lm_head = network.lm_head, nn.Identity()  # the table is no layer to quantise or adapt as one
        freeze_linears(blocks, quantize)
        adapt_linears(blocks, how)
        inputs, outputs = _tables(network.get_input_embeddings(), head, given)
        adapt_tables(inputs, outputs, how)
        blocks.shared = blocks.encoder.embed_tokens = blocks.decoder.embed_tokens = inputs
        network.lm_head = outputs

    @property
    def gradient_checkpointing(self) -> bool:
        """Whether training recomputes blocks instead of keeping their activations."""
        return any(layer.gradient_checkpointing for layer in self._blocks())

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, value: bool) -> None:
        for layer in self._blocks():  # not the attentions of T5, which would then want gradients of constant biases
            layer.gradient_checkpointing = value
            layer._gradient_checkpointing_func = partial(recompute, use_reentrant=False)

    def _blocks(self) -> list[Any]:
        stacks = self.network.get_encoder(), self.network.get_decoder()
        name = "layers" if self.arguments["architecture"] == "bart" else "block"
        return [layer for stack in stacks for layer in getattr(stack, name)]

    def encode(self, source_BS: Tensor, mask_BS: Tensor) -> Encoded:
        """Read the sources; the mask is true at real tokens. Nothing waits for the device."""
        found = self.network.get_encoder()(input_ids=source_BS, attention_mask=mask_BS.bool()[:, None, None])
        return Encoded(found.last_hidden_state, mask_BS.bool())

    def decode(self, encoded: Encoded, decoder_input_BT: Tensor) -> Tensor:
        """Return what the head reads, (B, T, D), from the target so far, which begins with `decoder_start_id`."""
        length = decoder_input_BT.shape[1]
        past_TT = torch.ones(length, length, dtype=torch.bool, device=decoder_input_BT.device).tril()
        found = self.network.get_decoder()(
            input_ids=decoder_input_BT, attention_mask=past_TT[None, None], use_cache=False,
            encoder_hidden_states=encoded.states, encoder_attention_mask=encoded.mask[:, None, None],
        )  # fmt: skip
        return found.last_hidden_state if self._hidden_scale == 1.0 else found.last_hidden_state * self._hidden_scale

    def head(self, hidden: Tensor) -> Head:
        """What a loss needs for the logits of `hidden` (..., D)."""
        head, bias_1V = self.network.lm_head, getattr(self.network, "final_logits_bias", None)
        parts = head.parts(hidden) if self.adapted else Parts(head.weight, None, None)
        return Head(hidden, parts.weight_VD, None if bias_1V is None else bias_1V[0], parts.low, parts.up_VR)

    @torch.no_grad()
    def write(
        self,
        encoded: Encoded,
        *,
        num_beams: int = 1,
        max_new_tokens: int,
        min_new_tokens: int = 0,
        length_penalty: float = 1.0,
        no_repeat_ngram_size: int = 0,
        early_stopping: bool = False,
    ) -> Tensor:
        """Write a text for every source that was read, by transformers' greedy or beam search, without chance.

        Returns ids (B, up to max_new_tokens) behind the start: each text with its end, then pad.
        """
        from transformers import GenerationConfig
        from transformers.modeling_outputs import BaseModelOutput

        given = self.arguments
        never = [*range(given["vocab_size"], self.network.config.vocab_size)]  # rows that no id stands for
        never += [self.pad_id] * (self.pad_id != self.eos_id)
        beams = {"length_penalty": length_penalty, "early_stopping": early_stopping} if num_beams > 1 else {}
        config = GenerationConfig(
            num_beams=num_beams, do_sample=False, max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens or None, no_repeat_ngram_size=no_repeat_ngram_size or None,
            pad_token_id=self.pad_id, eos_token_id=self.eos_id, bos_token_id=given["bos_id"],
            decoder_start_token_id=self.decoder_start_id, suppress_tokens=never or None, use_cache=True, **beams,
        )  # fmt: skip
        self.network.generation_config = GenerationConfig()  # a checkpoint's own settings would fill in what is None
        shape: Any = BaseModelOutput(last_hidden_state=encoded.states[..., :1])  # type: ignore[arg-type]  # all it asks
        ids = self.network.generate(
            encoder_outputs=shape, attention_mask=encoded.mask.long(), generation_config=config,
            past_key_values=read_source(self.network, encoded.states),
        )  # fmt: skip
        is_end = (
            ids[:, 1:] == self.eos_id
        )  # transformers fills what its beams leave with pad, or where that is 0 with end
        return ids[:, 1:].masked_fill(is_end.cumsum(1) - is_end.long() > 0, self.pad_id)

    def save_pretrained(self, folder: Path) -> None:
        """Write a folder that plain transformers loads, adapters merged, and that `from_pretrained` opens again."""
        from rtx_lab.models.pretrained_export import export_merged

        export_merged(self, folder)
        merged = {"tokenizer_size": self.arguments["vocab_size"], "embedding_rows": self.network.config.vocab_size}
        whole = {"revision": "main", "lora_rank": None, "lora_alpha": None, "lora_targets": None, "quantize": "none"}
        arguments = self.arguments | merged | whole | {"checkpoint": None, "tokenizer": None}
        (folder / ARGUMENTS).write_text(json.dumps(arguments, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: Path) -> PretrainedSeq2Seq:
        """Open what `save_pretrained` wrote."""
        arguments = json.loads((folder / ARGUMENTS).read_text(encoding="utf-8"))
        return cls(**arguments | {"checkpoint": str(folder)})

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Every tensor, or of an adapted model those that are trained: adapters and the rows of new tokens."""
        if not self.adapted:
            return super().state_dict(*args, **kwargs)
        return {name: value.detach() for name, value in self.named_parameters() if value.requires_grad}

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Set what `state_dict` gives. Raises RuntimeError where names or shapes differ, as torch does."""
        if not self.adapted:
            return super().load_state_dict(state_dict, strict, assign)
        own = self.state_dict()
        if strict and own.keys() != state_dict.keys():
            raise RuntimeError(f"other tensors than the adapters: {sorted(own.keys() ^ state_dict.keys())}")
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def adaptation(given: dict[str, Any]) -> Adaptation:
    """How the arguments of an adapted model ask for LoRA; alpha is twice the rank unless it is given."""
    rank, alpha = given["lora_rank"], given["lora_alpha"]
    targets = given["lora_targets"] or DEFAULT_TARGETS[given["architecture"], given["gated"]]
    alpha = 2.0 * rank if alpha is None else float(alpha)
    return Adaptation(rank=rank, alpha=alpha, dropout=given["lora_dropout"], targets=tuple(targets))


def _hidden_scale(config: Any) -> float:
    """What the decoder's output is multiplied with before the head: T5 v1.0, whose table is tied, shrinks it."""
    return config.d_model**-0.5 if config.model_type == "t5" and config.scale_decoder_outputs else 1.0


def _tables(embedding: Any, head: Any, given: dict[str, Any]) -> tuple[InputTable, OutputTable]:
    """Both sides of the table with the rows of new tokens taken out of it; one set of rows where they are tied."""
    dtype = torch.float32 if given["quantize"] == "none" else torch.bfloat16
    first, num_new = given["tokenizer_size"], given["vocab_size"] - given["tokenizer_size"]
    factor = float(getattr(embedding, "embed_scale", 1.0) or 1.0)
    tied = head.weight is embedding.weight
    rows = new_rows(embedding.weight, first, num_new)
    head_rows = rows if tied else new_rows(head.weight, first, num_new)
    weight = nn.Parameter(embedding.weight.detach().to(dtype), requires_grad=False)
    head_weight = weight if tied else nn.Parameter(head.weight.detach().to(dtype), requires_grad=False)
    head_weight.data[first : first + num_new] = 0.0
    return InputTable(weight, first, rows, factor), OutputTable(head_weight, first, head_rows)
