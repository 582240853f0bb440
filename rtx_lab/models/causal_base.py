"""Causal language models of transformers, from shapes alone or from a checkpoint.

Shapes come from the configuration, so that a model can be priced and checked without the checkpoint; one whose shapes
differ is refused, with the keys to set. Nothing is unpickled: only safetensors are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.models import ranges
from rtx_lab.models.quantised import STORAGES, freeze_linears, is_weightless

KEYS = {
    "architecture": "model_type", "d_model": "hidden_size", "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "head_dim": "head_dim",
    "d_ff": "intermediate_size", "embedding_rows": "vocab_size", "max_seq_len": "max_position_embeddings",
    "tied_head": "tie_word_embeddings", "rope_theta": "rope_theta", "norm_eps": "rms_norm_eps",
}  # fmt: skip
"""Our keys, and transformers' names in a config.json."""
SIZES = ("d_model", "n_layers", "n_heads", "n_kv_heads", "head_dim", "d_ff", "embedding_rows", "max_seq_len")
EMBEDDING_STD = 0.02
ADVICE = "model.checkpoint=<folder that holds it>"


def completed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a base model with nulls filled in. Raises UsageError, naming all that are out of range."""
    full = dict(given)
    if full["embedding_rows"] is None:
        full["embedding_rows"] = full["vocab_size"]
    if full["n_kv_heads"] is None:
        full["n_kv_heads"] = full["n_heads"]
    heads, width = full["n_heads"], full["d_model"]
    if full["head_dim"] is None and isinstance(heads, int) and isinstance(width, int) and heads > 0:
        full["head_dim"] = width // heads
    problems = [
        f"model.{key} is missing: give it, or take model=memgen_checkpoint with model.checkpoint=<folder>"
        for key in ("architecture", *SIZES)
        if full[key] is None and not (key == "head_dim" and heads is not None and width is not None)
    ]
    ranges.refuse(problems)
    known = [key for key in (*SIZES, "vocab_size") if full[key] is not None or key != "head_dim"]
    ranges.refuse([line for key in known for line in ranges.positive_integer(key, full[key])])
    problems = ranges.one_of("quantize", full["quantize"], STORAGES)
    problems += ranges.at_most("vocab_size", full["vocab_size"], "embedding_rows", full["embedding_rows"])
    problems += ranges.divides("n_kv_heads", full["n_kv_heads"], "n_heads", full["n_heads"])
    problems += ["model.head_dim must be even, since positions turn pairs"] * (int(full["head_dim"] or 0) % 2 == 1)
    ranges.refuse(problems)
    return full


def build_causal(given: Mapping[str, Any]) -> Any:
    """A causal language model in evaluation mode, frozen, kept as `quantize` says.

    `given`: what `completed` returns. Without a checkpoint, on the meta device and in a trace, weights are random or
    absent. Raises UsageError where the checkpoint has other shapes, RunError where it is neither here nor to be had.
    """
    import transformers

    weightless = is_weightless(torch.empty(0))
    if given["checkpoint"] is None or weightless:
        config = _config(given)
        network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    else:
        network = _from_checkpoint(given)
    network.requires_grad_(False)
    storage = given["quantize"]
    if storage != "none":
        freeze_linears(network.model, storage)
        _keep_tables_in_half(network)
    return network.eval()


def _keep_tables_in_half(network: Any) -> None:
    """Tables in bfloat16, everything else that is no packed layer in float32."""
    tables = {network.get_input_embeddings().weight, network.get_output_embeddings().weight}
    for weight in network.parameters():
        weight.data = weight.data.to(torch.bfloat16 if weight in tables else torch.float32)


def _config(given: Mapping[str, Any]) -> Any:
    import transformers

    kind = str(given["architecture"])
    names = {name: given[key] for key, name in KEYS.items() if key not in ("architecture", "rope_theta")}
    options = names | {"initializer_range": EMBEDDING_STD, "use_sliding_window": False, "pad_token_id": None}
    try:
        config = transformers.AutoConfig.for_model(kind, **options, bos_token_id=None, eos_token_id=None)
    except (ValueError, KeyError):
        raise UsageError(
            f"model.architecture={kind} is no model type of transformers: llama, qwen2, qwen3, mistral, ... are"
        ) from None
    theta = given["rope_theta"]
    if theta is not None:
        config.rope_theta = theta
        if isinstance(getattr(config, "rope_parameters", None), dict):
            config.rope_parameters = config.rope_parameters | {"rope_theta": theta}
    return config


def _from_checkpoint(given: Mapping[str, Any]) -> Any:
    import transformers

    place = given["checkpoint"]
    options: dict[str, Any] = {} if Path(place).is_dir() else {"revision": given["revision"]}
    kept = torch.float32 if given["quantize"] == "none" else torch.bfloat16
    try:
        config = transformers.AutoConfig.from_pretrained(place, **options)
    except Exception as error:  # whatever transformers and the hub raise
        raise RunError(
            f"{place} cannot be read ({_first(error)}): set model.checkpoint=<folder of the model>"
        ) from error
    _refuse_other_shapes(given, config)
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            place, dtype=kept, attn_implementation="sdpa", use_safetensors=True, **options
        )
    except Exception as error:
        raise RunError(
            f"the weights of {place} cannot be read ({_first(error)}): set model.checkpoint=<folder>"
        ) from error


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _refuse_other_shapes(given: Mapping[str, Any], config: Any) -> None:
    """Raise UsageError with every key to set; what a config.json leaves out is taken to agree."""
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        raise UsageError(f"{given['checkpoint']} looks back over a window only, and latent memory needs the whole text")
    differing = []
    for key, name in KEYS.items():
        value = getattr(config, name, None)
        if key in ("max_seq_len", "rope_theta", "norm_eps") or value is None or given[key] == value:
            continue
        differing.append(f"model.{key}={str(value).lower()}")
    if differing:
        raise UsageError(
            f"{given['checkpoint']} has other shapes than this model: take model=memgen_checkpoint, "
            f"or set {' '.join(differing)}"
        )


def body_of(network: Any) -> nn.Module:
    """The network without its head."""
    return network.model
