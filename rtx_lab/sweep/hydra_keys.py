"""Hydra's own keys on a command line: Hydra lets `+hydra.foo=1` pass in silence, and names no likeness for a typo."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from rtx_lab.core.errors import UsageError


def refuse_unknown(hydra: DictConfig) -> None:
    """Raise UsageError for overrides of a composed `hydra` node that name no key of its schema."""
    overrides = OverridesParser.create().parse_overrides(list(hydra.overrides.hydra))
    problems = unknown(hydra, (override.key_or_group for override in overrides))
    if problems:
        raise UsageError(*problems)


def unknown(hydra: DictConfig, keys: Iterable[str]) -> list[str]:
    """A sentence for each key `hydra.a.b` that no schema along its path knows; free mappings take any key."""
    found = (_unknown_part(hydra, key) for key in keys if key.startswith("hydra."))
    return [problem for problem in found if problem]


def _unknown_part(hydra: DictConfig, key: str) -> str:
    node, path = hydra, "hydra"
    for part in key.split(".")[1:]:
        kind = OmegaConf.get_type(node)
        if kind is None or not dataclasses.is_dataclass(kind):
            return ""
        known = [field.name for field in dataclasses.fields(kind)]
        if known == ["_target_"]:  # a base: the options of a plugin's own group, as its samplers, bring their keys
            return ""
        if part not in known:
            near = difflib.get_close_matches(part, known, n=1)
            hint = f"did you mean `{path}.{near[0]}`?" if near else f"{path} knows {', '.join(known)}"
            return f"unknown key `{key}`: {hint}"
        path, below = f"{path}.{part}", node._get_node(part)
        if not isinstance(below, DictConfig) or below._is_none():
            return ""
        node = below
    return ""
