"""From a phase's parameters and a command line to the points of a sweep, each a list of overrides."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import HydraContext

from rtx_lab.core.errors import UsageError

Point = tuple[str, ...]

STEPS = "budget.steps"


def expand(
    params: Mapping[str, Any],
    arguments: Sequence[str],
    context: HydraContext,
    also: Iterable[Mapping[str, Any]] = (),
) -> list[Point]:
    """Return the points of a phase's grid and of its further grids; the command line overrides each of them.

    A further grid that trains nothing (`budget.steps: 0`) stays untrained, however long the others are trained.
    Accepts what Hydra's basic sweeper accepts, in its order. Raises UsageError for what cannot be read.
    """
    parser = OverridesParser.create(config_loader=context.config_loader)
    typed = _parse(parser, list(arguments))
    points: dict[Point, None] = {}
    for grid in (params, *also):
        named = {o.key_or_group: o for o in _parse(parser, [f"{key}={_spell(value)}" for key, value in grid.items()])}
        untrained = {STEPS: named[STEPS]} if grid is not params and str(grid.get(STEPS)) == "0" else {}
        named |= {override.key_or_group: override for override in typed} | untrained
        points |= dict.fromkeys(itertools.product(*(_choices(override) for override in named.values())))
    return list(points)


def swept_keys(params: Mapping[str, Any], also: Iterable[Mapping[str, Any]] = ()) -> frozenset[str]:
    """The keys, groups left aside, of which a phase's grids list values, `choice(4)` included."""
    lines = [f"{key}={_spell(value)}" for grid in (params, *also) for key, value in grid.items() if "." in key]
    return frozenset(o.key_or_group for o in _parse(OverridesParser.create(), lines) if o.is_sweep_override())


def override_of(key: str, value: Any) -> str:
    """Write a value as the override that gives it back."""
    if isinstance(value, str):
        quoted = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + "\\" * bool(found[2]) + found[2], value)
        return f"{key}='{quoted}'"
    return f"{key}={_spell(value)}"


def _spell(value: Any) -> str:
    if value is None or isinstance(value, bool | list):
        return json.dumps(value)
    return str(value)


def _parse(parser: OverridesParser, lines: list[str]) -> list[Override]:
    try:
        return parser.parse_overrides(lines)
    except HydraException as error:
        raise UsageError(f"cannot read the sweep: {str(error).splitlines()[0]}") from error


def _choices(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [f"{override.get_key_element()}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise UsageError(
            f"`{override.input_line}` names no values to run: list them, or search with phase=optuna_search"
        )
    key = override.get_key_element()
    try:
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    except ValueError as error:
        raise UsageError(f"cannot read `{override.input_line}`: {error}") from error
