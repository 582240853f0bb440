"""What a model's connections look like: the strength from slot to slot as a map, and the histogram of strengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rtx_lab.core.rundir import read_json
from rtx_lab.report import style
from rtx_lab.report.choice import best_groups, named, rest_words, short_labels
from rtx_lab.report.document import Figure
from rtx_lab.report.groups import Group

MOST_MAPS = 4
"""Strength maps of a report: one for each of the best settings."""


def draw_strengths(groups: Sequence[Group], numbers: Mapping[int, int], folder: Path, suffix: str) -> list[Figure]:
    """Return maps of the best settings and one histogram; nothing where no run kept a connections.json."""
    kept = {id(group): found for group in groups if (found := _kept(group)) is not None}
    shown = [group for group in groups if id(group) in kept]
    if not shown:
        return []
    names = short_labels(shown)
    best, others = named(shown, numbers)
    figures = [
        _draw_map(kept[id(group)], names[id(group)], folder, f"connections{suffix}_{number}")
        for number, group in enumerate(best_groups(shown, MOST_MAPS), start=1)
    ]
    curves = [(number, names[id(group)], _relative(kept[id(group)]["histogram"])) for number, group in best]
    faint = [_relative(kept[id(group)]["histogram"]) for group in others]
    return [*figures, _draw_histogram(curves, faint, rest_words(others), folder, f"connection_strengths{suffix}")]


def _kept(group: Group) -> dict[str, Any] | None:
    """The connections.json of the first seed that has a whole one."""
    for run in group.done:
        found = read_json(run.path / "connections.json") or {}
        if found.get("strength") and {"low", "high", "counts"} <= set(found.get("histogram") or {}):
            return found
    return None


def _draw_map(kept: dict[str, Any], name: str, folder: Path, stem: str) -> Figure:
    import numpy as np

    figure, axes = style.sheet(height_in=4.1)
    strength = np.array(kept["strength"], dtype=float)  # None becomes not-a-number, which stays white
    slots, cell = kept["num_slots"], kept["slots_per_cell"]
    axes.grid(False)
    image = axes.imshow(
        strength, cmap="cividis", interpolation="nearest", extent=(-0.5, slots - 0.5, slots - 0.5, -0.5), vmin=0
    )
    axes.spines[:].set_visible(False)
    axes.locator_params(integer=True, nbins=6)
    axes.set_xlabel("to slot")
    axes.set_ylabel("from slot")
    axes.set_title(style.wrap(name, 52))
    figure.colorbar(image, ax=axes, shrink=0.85, label="strength (norm of the pair map)").outline.set_visible(False)
    style.save(figure, folder, stem)
    block = f" Each cell is the mean over a block of {cell} x {cell} slots." if cell > 1 else ""
    return Figure(
        name=stem,
        caption=f"Connection strength from slot to slot, {name}, first seed, at the judged weights.{block}",
        alt=f"Heat map of the connection strength between {slots} slots of {name}.",
    )


def _relative(histogram: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Edges as multiples of the mean strength, and the share of connections per unit: comparable between sizes."""
    counts, low, high = histogram["counts"], histogram["low"] or 0.0, histogram["high"] or 0.0
    total, width = sum(counts), (high - low) / len(counts)
    mean = sum(count * (low + (place + 0.5) * width) for place, count in enumerate(counts)) / total if total else 0.0
    if mean <= 0 or width <= 0:
        return [0.5, 1.5], [1.0 if mean > 0 else 0.0]
    edges = [(low + place * width) / mean for place in range(len(counts) + 1)]
    return edges, [count * mean / (total * width) for count in counts]


def _draw_histogram(
    curves: Sequence[tuple[int, str, tuple[list[float], list[float]]]],
    faint: Sequence[tuple[list[float], list[float]]],
    rest: str,
    folder: Path,
    stem: str,
) -> Figure:
    figure, axes = style.sheet()
    for edges, heights in faint:
        axes.stairs(heights, edges, color=style.FAINT, linewidth=0.8)
    for number, name, (edges, heights) in curves:
        look = style.look(number)
        axes.stairs(heights, edges, color=look["color"], linestyle=look["linestyle"], linewidth=1.6, label=name)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("connection strength (multiples of its mean)")
    axes.set_ylabel("density of connections")
    style.legend(figure, axes)
    style.save(figure, folder, stem)
    widest = max(curves, key=lambda curve: curve[2][0][-1])
    return Figure(
        name=stem,
        caption=f"How strengths spread around their mean, first seed of each setting.{rest}",
        alt=f"Histogram of connection strengths; the strongest stands at {widest[2][0][-1]:.2g} times the mean "
        f"({widest[1]}).",
    )
