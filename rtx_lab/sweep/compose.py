"""Compose the configurations of a sweep: Hydra once for each choice of groups, plain assignment for the values.

Hydra takes some 60 ms a job, which is half a minute for 512; values that are merely assigned need no defaults list.
"""

from __future__ import annotations

import copy
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rtx_lab.core.schema import plain_of
from rtx_lab.sweep.grid import Point


class Composer:
    """Composes points of one sweep; equal choices of groups are composed by Hydra once."""

    def __init__(self, context: HydraContext, master: DictConfig) -> None:
        self._loader, self._master = context.config_loader, master
        self._groups = set(self._loader.list_groups(""))
        self._parser = OverridesParser.create(config_loader=self._loader)
        self._bases: dict[Point, DictConfig] = {}
        self._plain: dict[Point, dict[str, Any]] = {}
        self._parsed: dict[str, Override] = {}
        self._assigned: dict[tuple[Point, str], Any] = {}

    def compose(self, point: Point) -> dict[str, Any]:
        """Return what Hydra would compose for this point, without its `hydra` node, as plain values.

        Raises Hydra's and OmegaConf's own errors, and UsageError for what cannot be resolved.
        """
        overrides = [self._parse(line) for line in point]
        base = tuple(str(override.input_line) for override in overrides if self._needs_hydra(override))
        if any(_depends(override) for override in overrides) or self._interpolates(base):
            return plain_of(self._base(point))
        plain = copy.deepcopy(self._plain_base(base))
        for override in overrides:
            if not self._needs_hydra(override):
                section, _, name = override.key_or_group.rpartition(".")
                _at(plain, section)[name] = copy.deepcopy(self._value(base, override))
        return plain

    def _value(self, base: Point, override: Override) -> Any:
        """What the key holds after this override, in OmegaConf's types."""
        asked = (base, str(override.input_line))
        if asked not in self._assigned:
            config = copy.deepcopy(self._base(base))
            _assign(config, override)
            *sections, name = override.key_or_group.split(".")
            self._assigned[asked] = _at(plain_of(config), ".".join(sections))[name]
        return self._assigned[asked]

    def _plain_base(self, base: Point) -> dict[str, Any]:
        if base not in self._plain:
            self._plain[base] = plain_of(self._base(base))
        return self._plain[base]

    def _interpolates(self, base: Point) -> bool:
        """Whether a value of the config refers to another, so that assigning one may change the other."""
        raw = OmegaConf.to_container(self._base(base)) if base not in self._plain else {}
        return "${" in str(raw)

    def _base(self, point: Point) -> DictConfig:
        if point not in self._bases:
            self._bases[point] = _without_hydra(self._loader.load_sweep_config(self._master, list(point)))
        return self._bases[point]

    def _parse(self, line: str) -> Override:
        if line not in self._parsed:
            self._parsed[line] = self._parser.parse_override(line)
        return self._parsed[line]

    def _needs_hydra(self, override: Override) -> bool:
        key = override.key_or_group
        return override.package is not None or key in self._groups or "/" in key or key.startswith("hydra.")


def _depends(override: Override) -> bool:
    """Whether its effect depends on the other overrides: additions, deletions, merged mappings, interpolations."""
    added = override.is_add() or override.is_delete() or override.is_force_add()
    return added or isinstance(override.value(), dict) or "${" in str(override.input_line)


def _at(tree: dict[str, Any], key: str) -> dict[str, Any]:
    for part in key.split(".") if key else ():
        tree = tree[part]
    return tree


def _assign(config: DictConfig, override: Override) -> None:
    try:
        OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    except OmegaConfBaseException as error:
        raise ConfigCompositionException(f"Error merging override {override.input_line}") from error


def _without_hydra(config: DictConfig) -> DictConfig:
    with open_dict(config):
        del config["hydra"]
    return config
