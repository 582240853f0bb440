"""What a swept setting does to the test metric: means with 95 % intervals and single seeds, one line per family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtx_lab.report import style
from rtx_lab.report.choice import is_share, leaf_of, quantity
from rtx_lab.report.document import Figure
from rtx_lab.report.groups import Factor, Group
from rtx_lab.report.runs import is_number
from rtx_lab.report.settings import symbol, value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Sheet

_SHORT = 13
"""Names of at most so many signs fit below an upright axis."""
_MOST_DOTTED = 2
"""Families whose single seeds are drawn; with more the dots of one lie on the bars of the next."""


def draw_effect(factor: Factor, folder: Path) -> Figure | None:
    """Return the test metric against the values of one factor, None where fewer than two values were measured."""
    leaf = leaf_of([group for family in factor.families for group in family])
    key = f"test/{leaf}"
    families = [[group for group in family if group.mean(key) is not None] for family in factor.families]
    families = [family for family in families if len(family) > 1]
    if not families:
        return None
    stem = f"{leaf}_by_{factor.key.replace('.', '_')}"
    if all(is_number(group.factors.get(factor.key)) for family in families for group in family):
        _numbers(factor, families, key, folder, stem)
    else:
        _words(factor, families, key, folder, stem)
    caption = (
        f"Test {quantity(leaf)} by {factor.title}; all else equal along a line. Mark: mean over seeds, "
        f"bar: 95 % interval{', small dots: single seeds' if len(families) <= _MOST_DOTTED else ''}."
    )
    return Figure(name=stem, caption=caption, alt=_alt(factor, families, key))


def _numbers(factor: Factor, families: list[list[Group]], key: str, folder: Path, stem: str) -> None:
    figure, axes = style.sheet()
    values = [float(group.factors[factor.key]) for family in families for group in family]
    style.scale(axes, "x", values)
    powers = axes.get_xscale() == "log"
    for number, (family, name) in enumerate(zip(families, _family_names(factor, families), strict=True)):
        shift = _shift(number, len(families))
        places = [_moved(float(group.factors[factor.key]), shift, values, powers) for group in family]
        _line(axes, places, family, key, number, name)
        if len(families) <= _MOST_DOTTED:
            _dots(axes, places, family, key, number)
    axes.set_xlabel(_axis_title(factor, families))
    axes.set_ylabel(f"test {quantity(key.partition('/')[2])}")
    _finish(figure, axes, families, key, folder, stem)


def _words(factor: Factor, families: list[list[Group]], key: str, folder: Path, stem: str) -> None:
    """Values without a measure of distance: side by side where their names are short, one below the other else."""
    order = list(dict.fromkeys(factor.text(group) for family in families for group in family))
    upright = len(order) <= 5 and max(map(style.breadth, order)) <= _SHORT
    height = style.HEIGHT_IN if upright else 1.3 + len(order) * (0.32 + 0.1 * min(len(families), style.MOST_LINES))
    figure, axes = style.sheet(height_in=height)
    for number, (family, name) in enumerate(zip(families, _family_names(factor, families), strict=True)):
        places = [order.index(factor.text(group)) + 4 * _shift(number, len(families)) for group in family]
        _line(axes, places, family, key, number, name, lying=not upright)
        if len(families) <= _MOST_DOTTED:
            _dots(axes, places, family, key, number, lying=not upright)
    texts = [style.wrap(text, _SHORT if upright else 26) for text in order]
    if upright:
        axes.set_xticks(range(len(order)), texts)
        axes.set_xlim(-0.5, len(order) - 0.5)
    else:
        axes.set_yticks(range(len(order)), texts)
        axes.set_ylim(len(order) - 0.5, -0.5)
    (axes.set_xlabel if upright else axes.set_ylabel)(factor.title)
    (axes.set_ylabel if upright else axes.set_xlabel)(f"test {quantity(key.partition('/')[2])}")
    _finish(figure, axes, families, key, folder, stem, side="y" if upright else "x")


def _finish(
    figure: Sheet, axes: Axes, families: list[list[Group]], key: str, folder: Path, stem: str, *, side: str = "y"
) -> None:
    if is_share(key.rpartition("/")[2]):
        style.end_at_one(axes, side)
    if len(families) > 1:
        style.legend(figure, axes)
    style.save(figure, folder, stem)


def _line(
    axes: Axes, places: Sequence[float], family: list[Group], key: str, number: int, name: str, *, lying: bool = False
) -> None:
    means = [group.mean(key) or 0.0 for group in family]
    spans = [group.interval(key) or (mean, mean) for group, mean in zip(family, means, strict=True)]
    below = [max(0.0, mean - low) for mean, (low, _) in zip(means, spans, strict=True)]
    above = [max(0.0, high - mean) for mean, (_, high) in zip(means, spans, strict=True)]
    bars = {"xerr" if lying else "yerr": (below, above)}
    named = number < style.MOST_LINES
    look: dict[str, Any] = style.look(number) if named else {"color": style.FAINT, "marker": "", "linestyle": "-"}
    look |= {"linestyle": "none"} if lying else {}
    points = (means, places) if lying else (places, means)
    label = name if named else None
    axes.errorbar(*points, **bars, label=label, capsize=3, elinewidth=1.2, zorder=3, **look)


def _dots(
    axes: Axes, places: Sequence[float], family: list[Group], key: str, number: int, *, lying: bool = False
) -> None:
    """The single seeds, a little beside the bar of their mean."""
    from matplotlib.transforms import ScaledTranslation

    away = (0, 5 / 72) if lying else (5 / 72, 0)
    beside = axes.transData + ScaledTranslation(*away, axes.figure.dpi_scale_trans)
    colour = style.look(number)["color"]
    for place, group in zip(places, family, strict=True):
        seeds = group.values(key) if len(group.done) > 1 else []
        dots = (seeds, [place] * len(seeds)) if lying else ([place] * len(seeds), seeds)
        axes.plot(*dots, ".", color=colour, markersize=4, alpha=0.6, transform=beside, zorder=2)


def _shift(number: int, count: int) -> float:
    """Families stand a little beside each other, so that no bar covers another; a share of the axis."""
    return 0.0 if count < 2 else 0.06 * (number / (count - 1) - 0.5)


def _moved(value: float, shift: float, values: Sequence[float], powers: bool) -> float:
    low, high = min(values), max(values)
    return value * (high / low) ** shift if powers else value + shift * (high - low)


def _axis_title(factor: Factor, families: list[list[Group]]) -> str:
    """Slots are also read as the ratio N/D, which is what the spec varies."""
    widths = {group.settings.get("model.d_model") for family in families for group in family}
    if factor.key != "model.num_slots" or len(widths) != 1 or not is_number(width := widths.pop()):
        return factor.title
    values = sorted({float(group.factors[factor.key]) for family in families for group in family})
    return f"{factor.title}; N/D from {values[0] / width:g} to {values[-1] / width:g}"


def _family_names(factor: Factor, families: list[list[Group]]) -> list[str]:
    """What sets each family apart: settings that are one within every family, those of the study before others."""
    firsts = [family[0] for family in families]
    apart = [key for key in firsts[0].settings if key != factor.key and _sets_apart(key, families)]
    keys = [key for key in apart if key in firsts[0].factors] or apart[:2]
    names = []
    for group in firsts:
        parts = [(symbol(key), value_text(group.settings.get(key))) for key in keys]
        names.append(", ".join(f"{sign}={text}" if sign else text for sign, text in parts) or group.label)
    return names


def _sets_apart(key: str, families: list[list[Group]]) -> bool:
    values = [{str(group.settings.get(key)) for group in family} for family in families]
    return all(len(found) == 1 for found in values) and len(set.union(*values)) > 1


def _alt(factor: Factor, families: list[list[Group]], key: str) -> str:
    family = families[0]
    points = ", ".join(f"{group.mean(key):.3f} at {factor.text(group)}" for group in family)
    more = f"; {len(families) - 1} further lines" if len(families) > 1 else ""
    return f"Chart of {key} by {factor.title}: {points}{more}."
