"""The networks of transformers that are adapted: T5, mT5 and BART, from shapes alone or from a checkpoint.

Shapes come from the configuration, so that a model can be priced and checked without the checkpoint; one whose shapes
differ is refused, with the keys to set. Nothing is unpickled: transformers reads safetensors, and an older checkpoint's
pytorch_model.bin through torch's reader of plain tensors (`weights_only`).
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data.hub import fetch
from rtx_lab.models.quantised import is_weightless
from rtx_lab.models.shared_bias import use_shared_bias
from rtx_lab.models.shared_source import use_shared_source

ARCHITECTURES = ("t5", "mt5", "bart")
_ROWS_MULTIPLE = 8
"""A table that grows gets a multiple of this many rows: products with odd sizes are slow on a GPU."""
_T5_KEYS = {
    "d_model": "d_model", "n_heads": "num_heads", "d_kv": "d_kv", "d_ff": "d_ff", "n_encoder_layers": "num_layers",
    "n_decoder_layers": "num_decoder_layers", "embedding_rows": "vocab_size", "pad_id": "pad_token_id",
    "eos_id": "eos_token_id", "decoder_start_id": "decoder_start_token_id",
}  # fmt: skip
_BART_KEYS = {
    "d_model": "d_model", "n_heads": "encoder_attention_heads", "d_ff": "encoder_ffn_dim",
    "n_encoder_layers": "encoder_layers", "n_decoder_layers": "decoder_layers", "embedding_rows": "vocab_size",
    "max_seq_len": "max_position_embeddings", "pad_id": "pad_token_id", "eos_id": "eos_token_id",
    "decoder_start_id": "decoder_start_token_id",
}  # fmt: skip


def table_rows(given: Mapping[str, Any]) -> int:
    """Rows of the vocabulary's table: the checkpoint's, or more where new tokens need them."""
    needed, there = given["vocab_size"], given["embedding_rows"]
    return there if needed <= there else -(-needed // _ROWS_MULTIPLE) * _ROWS_MULTIPLE


def build_network(given: Mapping[str, Any]) -> Any:
    """A T5, mT5 or BART of transformers in float32 with rows for new tokens, in evaluation mode.

    `given`: the arguments of PretrainedSeq2Seq, checked. Without a checkpoint, on the meta device and in a trace, the
    weights are random or absent. Raises UsageError where the checkpoint has other shapes, RunError where it is neither
    here nor to be had.
    """
    # under checkpointing transformers tells every layer that there is no cache; nobody asked for one
    logging.getLogger("transformers.modeling_layers").setLevel(logging.ERROR)
    network = _network(given)
    if given["architecture"] == "bart":
        use_shared_source(network)
    else:
        use_shared_bias(network)
        _use_one_kernel_gelu(network)
    return network.eval()


def _use_one_kernel_gelu(network: Any) -> None:
    """Compute the same function at once where transformers computes it in nine steps and keeps what each gives."""
    from transformers.activations import NewGELUActivation

    for module in network.modules():
        if isinstance(getattr(module, "act", None), NewGELUActivation):
            module.act = nn.GELU(approximate="tanh")


def _network(given: Mapping[str, Any]) -> Any:
    if is_weightless(torch.empty(0)):
        return _from_shapes(given)
    if given["checkpoint"] is None:
        with contextlib.nullcontext() if given["lora_rank"] is None else _fixed_draws():
            return _from_shapes(given)
    network = _from_checkpoint(given)
    before = network.get_input_embeddings().weight.shape[0]
    if table_rows(given) != before:
        network.config.tie_word_embeddings = given["tied_head"]  # T5 says True whatever it is, and would be tied now
        network.resize_token_embeddings(table_rows(given), mean_resizing=False)
        network.config.tie_word_embeddings = True
    with torch.no_grad():
        for weight in {network.get_input_embeddings().weight, network.lm_head.weight}:
            _start_at_mean(weight, given["tokenizer_size"])
    return network


@contextlib.contextmanager
def _fixed_draws() -> Iterator[None]:
    """Random weights that are adapted stand for a checkpoint: the same for every seed, as no run saves them."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def network_config(given: Mapping[str, Any], rows: int) -> Any:
    """The configuration that transformers builds a network of these shapes from."""
    import transformers

    ids = {"pad_token_id": given["pad_id"], "eos_token_id": given["eos_id"]}
    ids["decoder_start_token_id"] = given["decoder_start_id"]
    if given["architecture"] == "bart":
        return transformers.BartConfig(
            vocab_size=rows, d_model=given["d_model"], max_position_embeddings=given["max_seq_len"],
            encoder_layers=given["n_encoder_layers"], decoder_layers=given["n_decoder_layers"],
            encoder_attention_heads=given["n_heads"], decoder_attention_heads=given["n_heads"],
            encoder_ffn_dim=given["d_ff"], decoder_ffn_dim=given["d_ff"], dropout=given["dropout"],
            forced_eos_token_id=None, **ids, bos_token_id=given["bos_id"],
        )  # fmt: skip
    kind: Any = transformers.T5Config if given["architecture"] == "t5" else transformers.MT5Config
    return kind(
        vocab_size=rows, d_model=given["d_model"], d_kv=given["d_kv"], d_ff=given["d_ff"],
        num_layers=given["n_encoder_layers"], num_decoder_layers=given["n_decoder_layers"],
        num_heads=given["n_heads"], dropout_rate=given["dropout"],
        feed_forward_proj="gated-gelu" if given["gated"] else "relu", tie_word_embeddings=given["tied_head"], **ids,
    )  # fmt: skip


def _kind(architecture: str) -> Any:
    import transformers

    return {
        "t5": transformers.T5ForConditionalGeneration,
        "mt5": transformers.MT5ForConditionalGeneration,
        "bart": transformers.BartForConditionalGeneration,
    }[architecture]


def _from_shapes(given: Mapping[str, Any]) -> Any:
    network = _kind(given["architecture"])(network_config(given, table_rows(given)))
    if not given["tied_head"]:  # transformers ties whatever it makes; a head of its own starts at unit variance
        network.lm_head.weight = nn.Parameter(network.lm_head.weight.detach() * given["d_model"] ** -0.5)
    return network


def _from_checkpoint(given: Mapping[str, Any]) -> Any:
    checkpoint, revision = given["checkpoint"], given["revision"]
    local = Path(checkpoint).is_dir()
    advice = "model.checkpoint=<folder that holds it>"
    if local:
        config = Path(checkpoint) / "config.json"
    else:
        config = fetch(checkpoint, "config.json", kind="model", revision=revision, advice=advice)
    _refuse_other_shapes(given, _read(config), checkpoint)
    dropout = "dropout" if given["architecture"] == "bart" else "dropout_rate"
    options = {"dtype": torch.float32, dropout: given["dropout"]} | ({} if local else {"revision": revision})
    try:
        network = _kind(given["architecture"]).from_pretrained(checkpoint, **options)
    except Exception as error:  # whatever transformers, the hub and the readers of files raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"the weights of {checkpoint} cannot be read ({first}): set {advice}") from error
    tied = network.lm_head.weight is network.get_input_embeddings().weight
    if tied != given["tied_head"]:
        raise UsageError(f"{checkpoint} has other shapes than this model: set model.tied_head={str(tied).lower()}")
    return network


def _read(config: Path) -> dict[str, Any]:
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{config} cannot be read: model.checkpoint names a hub id or a model's folder") from error
    if not isinstance(found, dict):
        raise UsageError(f"{config} holds no configuration: model.checkpoint names a hub id or a model's folder")
    return found


def _refuse_other_shapes(given: Mapping[str, Any], config: Mapping[str, Any], checkpoint: str) -> None:
    """Raise UsageError with every key to set; what a config.json leaves out is taken to agree."""
    differing: list[str] = []
    if config.get("model_type", given["architecture"]) != given["architecture"]:
        raise UsageError(
            f"{checkpoint} is a {config['model_type']} and model.architecture is {given['architecture']}: "
            f"known are {', '.join(ARCHITECTURES)}"
        )
    bart = given["architecture"] == "bart"
    known = {key: config.get(name) for key, name in (_BART_KEYS if bart else _T5_KEYS).items()}
    if not bart and "feed_forward_proj" in config:
        known["gated"] = str(config["feed_forward_proj"]).startswith("gated")
    for key, value in known.items():
        if value is not None and value != given[key]:
            differing.append(f"model.{key}={str(value).lower()}")
    if differing:
        raise UsageError(f"{checkpoint} has other shapes than this model: set {' '.join(differing)}")


def _start_at_mean(weight: Tensor, first_new: int) -> None:
    """Start rows that no text has trained near the mean of those that some has, each a little apart."""
    known, new = weight[:first_new], weight[first_new:]
    if len(new):
        apart = torch.randn(new.shape, generator=torch.Generator().manual_seed(0))
        new.copy_(known.mean(0) + 0.02 * known.std(0) * apart.to(weight))
