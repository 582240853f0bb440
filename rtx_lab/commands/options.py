"""Which option of `conf/` stands for a part of a settled configuration: `model=rdt_tiny`, not the name of its class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtx_lab.commands.doctor import conf_folder


def option_of(group: str, node: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The option of a group with the target of `node`, of several the one most alike, and its values.

    None where there is none.
    """
    found = {path.stem: read_option(path) for path in sorted((conf_folder() / group).glob("*.yaml"))}
    alike = {
        name: (node.keys() <= option.keys(), sum(option.get(key) == value for key, value in node.items()))
        for name, option in found.items()
        if option.get("_target_") == node.get("_target_")
    }
    return max(((name, found[name]) for name in alike), key=lambda pair: alike[pair[0]], default=None)


def read_option(path: Path) -> dict[str, Any]:
    """The values of an option, those of the options that it extends among them; empty where it cannot be read."""
    import yaml

    try:
        own = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError):
        return {}
    bases, values = own.pop("defaults", []), {}
    for base in bases if "_self_" in bases else [*bases, "_self_"]:
        values |= own if base == "_self_" else read_option(path.parent / f"{str(base).partition('@')[0]}.yaml")
    return values
