"""What the arguments of a pretrained model may be, and what stands for those that are left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rtx_lab.models import ranges
from rtx_lab.models.pretrained_base import ARCHITECTURES
from rtx_lab.models.quantised import STORAGES


def completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with nulls filled in. Raises UsageError, naming every one that is out of range."""
    full = dict(given)
    for key in ("vocab_size", "embedding_rows"):
        full[key] = full["tokenizer_size"] if full[key] is None else full[key]
    if full["d_kv"] is None and full["architecture"] != "bart":
        full["d_kv"] = _divided(full["d_model"], full["n_heads"])
    _check(full)
    return full


def _divided(whole: Any, by: Any) -> Any:
    return whole // by if isinstance(whole, int) and isinstance(by, int) and by > 0 else None


def _check(given: dict[str, Any]) -> None:
    """Refuse every parameter out of range, all at once."""
    problems = ranges.one_of("architecture", given["architecture"], ARCHITECTURES)
    problems += ranges.one_of("quantize", given["quantize"], STORAGES)
    sizes = ("tokenizer_size", "vocab_size", "embedding_rows", "max_seq_len", "d_model", "n_heads", "d_ff")
    for key in (*sizes, "n_encoder_layers", "n_decoder_layers"):
        problems += ranges.positive_integer(key, given[key])
    problems += ranges.number("dropout", given["dropout"], below=1)
    problems += ranges.number("lora_dropout", given["lora_dropout"], below=1)
    for key in ("pad_id", "eos_id", "decoder_start_id"):
        problems += ranges.integer(key, given[key], least=0)
        problems += ranges.at_most(key, given[key], "tokenizer_size", given["tokenizer_size"])
    problems += ranges.at_most("tokenizer_size", given["tokenizer_size"], "vocab_size", given["vocab_size"])
    if given["architecture"] == "bart":
        problems += ranges.divides("n_heads", given["n_heads"], "d_model", given["d_model"])
        problems += ["model.gated is for t5 and mt5: BART has no gated feed-forward"] * bool(given["gated"])
    else:
        problems += ranges.positive_integer("d_kv", given["d_kv"])
    problems += _lora_problems(given)
    ranges.refuse(problems)


def _lora_problems(given: dict[str, Any]) -> list[str]:
    if given["lora_rank"] is not None:
        problems = ranges.positive_integer("lora_rank", given["lora_rank"])
        if given["lora_alpha"] is not None:
            problems += ranges.positive_number("lora_alpha", given["lora_alpha"])
        return problems
    problems = []
    if given["quantize"] != "none":
        problems.append(
            f"model.quantize={given['quantize']} freezes the weights: set model.lora_rank, or quantize=none"
        )
    if given["lora_targets"] is not None:
        problems.append("model.lora_targets says what LoRA adapts: set model.lora_rank, or leave it null")
    return problems
