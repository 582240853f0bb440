"""What recursive denoisers share: the settings that stay with them, and the range checks of those."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from rtx_lab.models import ranges
from rtx_lab.nn.masking import SCHEDULES

SUPERVISIONS = ("newly_revealed", "all_masked")
GATE_TARGETS = ("counter", "token_error", "entropy")
DECODERS = ("linear", "transformer")


def keep_settings(model: nn.Module, given: Mapping[str, Any]) -> None:
    """Let every parameter that the model's class annotates, which is each that is no shape, stay an attribute."""
    for key in given.keys() & type(model).__annotations__.keys():
        setattr(model, key, given[key])


def check_chain(given: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the parameters of training and halting that every recursive denoiser takes."""
    problems: list[str] = []
    for key in ("max_chain_length", "min_chain_length", "total_steps", "max_steps"):
        problems += ranges.positive_integer(key, given[key])
    low, high, total = given["min_chain_length"], given["max_chain_length"], given["total_steps"]
    problems += ranges.at_most("min_chain_length", low, "max_chain_length", high)
    problems += ranges.at_most("max_chain_length", high, "total_steps", total)
    if given["backprop_steps"] is not None:
        problems += ranges.positive_integer("backprop_steps", given["backprop_steps"])
    problems += ranges.number("threshold", given["threshold"], below=1)
    problems += ranges.number("dropout", given["dropout"], below=1)
    for key in ("loss_weight_recon", "loss_weight_gate"):
        problems += ranges.number(key, given[key])
    problems += ranges.one_of("masking", given["masking"], SCHEDULES)
    problems += ranges.one_of("supervision", given["supervision"], SUPERVISIONS)
    return problems + ranges.one_of("gate_target", given["gate_target"], GATE_TARGETS)


def check_decoder(decoder_type: object, n_decoder_layers: object) -> list[str]:
    """Return what is wrong with the choice of decoder; null layers are none (linear) or one (transformer)."""
    problems = ranges.one_of("decoder_type", decoder_type, DECODERS)
    if n_decoder_layers is not None:
        problems += ranges.positive_integer("n_decoder_layers", n_decoder_layers)
    return problems


def count_decoder_layers(decoder_type: str, n_decoder_layers: int | None) -> int:
    """Return the layers between the state and the head; warns where layers were asked of a linear decoder."""
    if decoder_type == "transformer":
        return 1 if n_decoder_layers is None else n_decoder_layers
    if n_decoder_layers is not None:
        warnings.warn(
            f"model.n_decoder_layers={n_decoder_layers} has no effect: a linear decoder has no layers "
            "(model.decoder_type=transformer has)",
            stacklevel=3,
        )
    return 0
