"""The search space: `hydra.sweeper.params` and the command line, in Hydra's sweep grammar, as ranges to draw from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from hydra.types import HydraContext

from rtx_lab.core.errors import UsageError
from rtx_lab.sweep.grid import Point

_DIGITS = 5
"""Significant digits of a drawn number: short enough to type again, finer than any difference it makes."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One key of the space: numbers from `low` to `high`, both included, or `choices` with how each is typed."""

    key: str
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    spellings: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, trial: Any) -> Any:
        """Let an optuna trial draw a value."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if self.is_whole:
            return trial.suggest_int(self.key, self.low, self.high, step=self.step or 1, log=self.log)
        value = trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)
        return value if self.step else min(max(float(f"{value:.{_DIGITS}g}"), self.low), self.high)

    def override(self, value: Any) -> str:
        """The value as it is typed on the command line."""
        return f"{self.key}={self.spellings[self.choices.index(value)] if self.choices else value}"

    def extremes(self) -> tuple[Any, ...]:
        """Values that show whether the whole range is valid: both ends, or every choice."""
        return self.choices or (self.low, self.high)


@dataclass(frozen=True, slots=True)
class Space:
    """What is fixed, as typed, and what is searched."""

    fixed: Point
    dimensions: tuple[Dimension, ...]

    def point(self, values: Mapping[str, Any]) -> Point:
        """The overrides of one trial."""
        return (*self.fixed, *(dimension.override(values[dimension.key]) for dimension in self.dimensions))

    def words(self, values: Mapping[str, Any]) -> str:
        """What is searched, with the values of one trial."""
        return " ".join(dimension.override(values[dimension.key]) for dimension in self.dimensions)

    def corners(self) -> list[Point]:
        """Points in which every extreme of every dimension occurs; the first has the first extreme of each."""
        first = {dimension.key: dimension.extremes()[0] for dimension in self.dimensions}
        others = [{**first, d.key: value} for d in self.dimensions for value in d.extremes()[1:]]
        return [self.point(values) for values in (first, *others)]


def read_space(params: Mapping[str, Any], arguments: Sequence[str], context: HydraContext) -> Space:
    """Read the phase's ranges; the command line overrides each of them.

    `interval(a,b)` draws real numbers, `int(interval(a,b))` whole ones, `tag(log, interval(a,b))` on a logarithmic
    scale; `range(a,b)` excludes its end, as in Hydra; a list, `choice()` and `glob()` draw one of their values. Raises
    UsageError for what cannot be read or drawn from, and where nothing is left to search.
    """
    parser = OverridesParser.create(config_loader=context.config_loader)
    try:
        named = {o.key_or_group: o for o in parser.parse_overrides([f"{k}={_spell(v)}" for k, v in params.items()])}
        named |= {o.key_or_group: o for o in parser.parse_overrides(list(arguments))}
    except HydraException as error:
        raise UsageError(f"cannot read the search space: {str(error).splitlines()[0]}") from error
    swept = [override for override in named.values() if override.is_sweep_override()]
    fixed = tuple(str(o.input_line) for o in named.values() if not o.is_sweep_override())
    if not swept:
        raise UsageError("nothing to search: give a key a range, as optim.lr='tag(log,interval(1e-4,1e-2))'")
    return Space(fixed, tuple(_dimension(override) for override in swept))


def _spell(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _dimension(override: Override) -> Dimension:
    key, sweep = str(override.get_key_element()), override.value()
    if isinstance(sweep, IntervalSweep | RangeSweep):
        odd = sorted(set(sweep.tags) - {"log"})
        if odd:
            raise UsageError(f"`{override.input_line}`: the only tag of a range is log, got {', '.join(odd)}")
        dimension = _interval(key, sweep) if isinstance(sweep, IntervalSweep) else _range(key, sweep)
        _check(dimension, str(override.input_line))
        return dimension
    spellings = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if getattr(sweep, "shuffle", False):
        spellings = tuple(sorted(spellings))  # the order counts: an interrupted search must find it again
    return Dimension(key, choices=_choices(spellings), spellings=spellings)


def _choices(spellings: tuple[str, ...]) -> tuple[Any, ...]:
    """Numbers where all are, so that a dashboard can order them; else the words themselves."""
    for kind in (int, float):
        try:
            values = tuple(kind(spelling) for spelling in spellings)
        except ValueError:
            continue
        if len(set(values)) == len(spellings):
            return values
    return spellings


def _interval(key: str, sweep: IntervalSweep) -> Dimension:
    low, high = sweep.start, sweep.end
    if not (isinstance(low, int) and isinstance(high, int)):
        low, high = float(low or 0), float(high or 0)
    return Dimension(key, low, high, log="log" in sweep.tags)


def _range(key: str, sweep: RangeSweep) -> Dimension:
    start, stop, step = sweep.start or 0, sweep.stop if sweep.stop is not None else 0, sweep.step
    count = math.ceil((stop - start) / step - 1e-9) if step else 0
    ends = sorted((start, start + (count - 1) * step)) if count > 0 else (1, 0)
    return Dimension(key, ends[0], ends[1], step=abs(step), log="log" in sweep.tags)


def _check(dimension: Dimension, line: str) -> None:
    low, high = dimension.low, dimension.high
    if not (math.isfinite(low) and math.isfinite(high)) or low > high or (low == high and dimension.step is None):
        raise UsageError(f"`{line}` holds no range: give a lower and a higher end")
    if dimension.log and (low <= 0 or (dimension.step or 1) != 1):
        raise UsageError(f"`{line}`: a logarithmic range must begin above 0 and has no step")
