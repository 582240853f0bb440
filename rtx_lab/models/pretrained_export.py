"""A trained T5, mT5 or BART as files that plain transformers and peft read.

Both start from the base model in float32, not from what `quantize` left of it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtx_lab.core.errors import UsageError
from rtx_lab.models.adapters import AdaptedLinear
from rtx_lab.models.pretrained import PretrainedSeq2Seq, adaptation
from rtx_lab.models.pretrained_base import build_network


def export_merged(model: PretrainedSeq2Seq, folder: Path) -> list[str]:
    """Write one model with the adapters added to its weights; return the Python lines that load it."""
    network = build_network(model.arguments)
    if model.adapted:
        _merge(model, network)
    else:
        network.load_state_dict({name: value.cpu() for name, value in model.network.state_dict().items()})
    network.save_pretrained(folder)
    return [
        "from transformers import AutoModelForSeq2SeqLM",
        f'model = AutoModelForSeq2SeqLM.from_pretrained("{folder}")',
    ]


def export_adapter(model: PretrainedSeq2Seq, folder: Path) -> list[str]:
    """Write the adapters alone, as peft saves them; return the Python lines that load them onto their base model.

    A base of random weights is written beside them, into `base`. Raises UsageError where there are no adapters, and
    where the vocabulary's table has both adapters and new tokens, which peft does not know.
    """
    inputs, outputs = _tables(model)
    if inputs.rows is not None and (inputs.lora_A is not None or outputs.lora_A is not None):
        raise UsageError(
            "peft cannot hold new tokens and adapters of the same table: export the merged model, or train without "
            "shared, embed_tokens and lm_head in model.lora_targets"
        )
    network = build_network(model.arguments)
    lines = _base(model, network, folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        wrapped = _wrapped(model, network)
        _fill(model, wrapped)
        wrapped.save_pretrained(folder, save_embedding_layers=False)
    return ["from peft import PeftModel", *lines, f'model = PeftModel.from_pretrained(base, "{folder}")']


def _tables(model: PretrainedSeq2Seq) -> tuple[Any, Any]:
    """The input and the output side of the vocabulary's table."""
    if not model.adapted:
        raise UsageError("this model was trained whole and has no adapters: export the merged model")
    return model.network.get_input_embeddings(), model.network.lm_head


@torch.no_grad()
def _merge(model: PretrainedSeq2Seq, network: Any) -> None:
    """Add every low-rank product to the weight it stands beside, and set the rows of new tokens."""
    for name, layer in model.network.named_modules():
        if isinstance(layer, AdaptedLinear):
            network.get_submodule(name).weight += _product(layer)
    inputs, outputs = _tables(model)
    sides = [(inputs, network.get_input_embeddings().weight)]
    if outputs.weight is not inputs.weight:
        sides.append((outputs, network.lm_head.weight))
    for side, weight in sides:
        if side.rows is not None:
            weight[side.first_new : side.first_new + len(side.rows)] = side.rows.cpu()
        if side.lora_A is not None:
            weight += _product(side)


def _product(layer: Any) -> Tensor:
    return (layer.scale * (layer.lora_B.double() @ layer.lora_A.double())).float().cpu()


def _base(model: PretrainedSeq2Seq, network: Any, folder: Path) -> list[str]:
    """The lines that make the base model; where no checkpoint holds it, write it."""
    given = model.arguments
    place, options = given["checkpoint"], f', revision="{given["revision"]}"'
    if place is None:
        network.save_pretrained(folder / "base")
        place, options = folder / "base", ""
    lines = [
        "from transformers import AutoModelForSeq2SeqLM",
        f'base = AutoModelForSeq2SeqLM.from_pretrained("{place}"{options}, dtype="float32")',
    ]
    rows = network.config.vocab_size
    if given["checkpoint"] is not None and rows != given["embedding_rows"]:
        lines += ["base.config.tie_word_embeddings = False"] * (not given["tied_head"])  # or resizing would tie it
        lines.append(f"base.resize_token_embeddings({rows}, mean_resizing=False)")
    return lines


def _wrapped(model: PretrainedSeq2Seq, network: Any) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    given, how = model.arguments, adaptation(model.arguments)
    inputs, outputs = _tables(model)
    tied = inputs.weight is outputs.weight
    targets = {target for target in how.targets if target not in ("shared", "embed_tokens", "lm_head")}
    targets |= {"embed_tokens"} if inputs.lora_A is not None else set()
    targets |= {"lm_head"} if outputs.lora_A is not None else set()
    new = list(range(given["tokenizer_size"], given["vocab_size"]))
    indices: dict[str, list[int]] = {}
    if new and tied:
        indices = {"shared": new}
    elif new:  # peft takes sides with equal lists for tied, whatever the weights say
        indices = {"embed_tokens": new, "lm_head": [*new, new[0]]}
    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM, r=how.rank, lora_alpha=how.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=how.dropout, target_modules=sorted(targets), trainable_token_indices=indices or None,
    )  # fmt: skip
    return get_peft_model(network, config)


@torch.no_grad()
def _fill(model: PretrainedSeq2Seq, wrapped: Any) -> None:
    """Copy the trained tensors to where peft keeps them."""
    inputs, outputs = _tables(model)
    own = dict(model.network.named_modules())
    for name, layer in wrapped.base_model.model.named_modules():
        source: Any = outputs if name == "lm_head" else inputs if name.endswith("embed_tokens") else own.get(name)
        if "default" in getattr(layer, "lora_A", {}):
            layer.lora_A["default"].weight.copy_(source.lora_A)
            layer.lora_B["default"].weight.copy_(source.lora_B)
        if "default" in getattr(layer, "lora_embedding_A", {}):
            layer.lora_embedding_A["default"].copy_(source.lora_B.T)
            layer.lora_embedding_B["default"].copy_(source.lora_A.T)
        if "default" in getattr(layer, "trainable_tokens_delta", {}):
            rows = (outputs if name.startswith("lm_head") else inputs).rows
            delta = layer.trainable_tokens_delta["default"]
            delta.copy_(torch.cat([rows, rows[:1]])[: len(delta)])
