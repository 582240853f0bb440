"""Names that a phase gives to values, as `model.num_slots=64 at model.d_model=256: 4to1_compression`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def label_of(labels: Mapping[str, Any], override: str, config: Mapping[str, Any]) -> str | None:
    """The name of an override's value in this config; None where it has none, or where its condition does not hold."""
    for key, text in labels.items():
        if key.partition(" at ")[0] == override and holds(key, config):
            return str(text)
    return None


def holds(key: str, config: Mapping[str, Any]) -> bool:
    """Whether the condition after ` at ` is true of a config; a label without one always holds."""
    condition = key.partition(" at ")[2]
    if not condition:
        return True
    path, _, wanted = condition.partition("=")
    value: Any = config
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return str(value) == wanted
