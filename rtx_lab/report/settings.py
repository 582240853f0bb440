"""The settings of a run as flat keys, and the words that a report uses for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rtx_lab.core.rundir import UNSIGNED, UNSIGNED_NESTED

Settings = dict[str, Any]
"""Dotted key -> value; `model`, `dataset` and their like stand for the last part of `_target_` in snake case."""

_NAMES = {
    "model.num_slots": ("slots N", "N"),
    "model.d_model": ("width D", "D"),
    "model.bilinear_rank": ("rank r", "r"),
    "model.convergence_threshold": ("halting threshold tau", "tau"),
    "model.max_reasoning_steps": ("reasoning steps at most", "K"),
    "model.connection": ("connection", ""),
    "model.halting": ("halting", ""),
    "model": ("model", ""),
    "dataset": ("dataset", ""),
    "phase": ("phase", ""),
    "optim": ("optimizer", ""),
    "optim.lr": ("learning rate", "lr"),
    "budget.global_batch": ("global batch (examples)", "batch"),
    "budget.micro_batch": ("micro-batch (examples)", "micro-batch"),
    "budget.steps": ("optimizer steps", "steps"),
    "hardware.name": ("hardware", ""),
    "hardware.precision": ("precision", ""),
    "dataset.num_train": ("training examples", "examples"),
}


def title(key: str) -> str:
    """Return a key in words: `model.num_slots` -> `slots N`; keys without a name of their own lose their section."""
    return _NAMES[key][0] if key in _NAMES else key.rpartition(".")[2].replace("_", " ")


def symbol(key: str) -> str:
    """Return the sign before a value (`N`), empty for keys whose value speaks for itself (`dense`)."""
    return _NAMES[key][1] if key in _NAMES else key.rpartition(".")[2]


def flatten(config: Mapping[str, Any]) -> Settings:
    """Return all that enters the signature of a run but its seed.

    A model that takes a fixed number of reasoning steps has no threshold: both are one setting, whose value then reads
    `fixed 4 steps`.
    """
    flat: Settings = {}
    for key, value in config.items():
        if key in UNSIGNED or key == "seed":
            continue
        unsigned = UNSIGNED_NESTED.get(key, ())
        if isinstance(value, Mapping):
            value = {name: item for name, item in value.items() if name not in unsigned}
        flat |= dict(_leaves(key, value))
    return _join_halting(_without_usual_eval_batch(_without_idle(flat)))


def _leaves(key: str, value: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield key, tuple(map(str, value)) if isinstance(value, list) else value
        return
    for name, item in value.items():
        if name == "_target_":
            yield key, snake(str(item))
        elif name != "_partial_":
            yield from _leaves(f"{key}.{name}", item)


def snake(target: str) -> str:
    """Return the last part of a dotted path in snake case: `rtx_lab.models.rdt.Rdt` -> `rdt`."""
    leaf = target.rpartition(".")[2]
    return "".join(f"_{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(leaf))


def _without_idle(flat: Settings) -> Settings:
    """What nothing reads: how LTPO would move latents where it is off, how often an insertion not drawn would be."""
    off = flat.get("ltpo.enabled") is False
    drawn = flat.get("task.insert") == "random"
    return {
        key: value
        for key, value in flat.items()
        if not (off and key.startswith("ltpo.")) and (drawn or key != "task.insert_share")
    }


def _without_usual_eval_batch(flat: Settings) -> Settings:
    """Twice what a micro-batch holds is how the evaluation's batch is settled: nobody has set it."""
    eval_batch, micro = flat.get("budget.eval_batch"), flat.get("budget.micro_batch")
    if isinstance(micro, int) and eval_batch == 2 * micro:
        return {key: value for key, value in flat.items() if key != "budget.eval_batch"}
    return flat


def _join_halting(flat: Settings) -> Settings:
    steps = flat.pop("model.fixed_steps", None)
    if steps is None and flat.get("model.halting") == "none":
        steps = flat.get("model.max_reasoning_steps")
    if steps is not None:
        flat |= {"model.convergence_threshold": f"fixed {steps} steps", "model.halting": "threshold"}
    return flat


def value_text(value: Any) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def label_of(labels: Mapping[str, str], key: str, value: Any) -> str:
    """Return the name that a phase gave to a value (`4to1_compression`), empty without one; 1 and 1.0 are alike."""
    for spelled, label in labels.items():
        name, _, text = spelled.partition("=")
        if name == "model.fixed_steps":
            name, text = "model.convergence_threshold", f"fixed {text} steps"
        if name == key and (text == value_text(value) or _as_number(text) == value):
            return str(label)
    return ""


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
