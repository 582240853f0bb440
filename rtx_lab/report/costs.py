"""What a result costs: the test metric against parameters, FLOPs and time; memory against its forecast; speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

from rtx_lab.report import style
from rtx_lab.report.choice import is_share, leaf_of, named, quantity, rest_words, short_labels
from rtx_lab.report.document import Figure
from rtx_lab.report.groups import Group
from rtx_lab.report.runs import Run, is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 16
"""Settings of a figure that lists them one below the other."""
_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))


def draw_costs(groups: Sequence[Group], numbers: Mapping[int, int], folder: Path, suffix: str) -> list[Figure]:
    """Return the figures of cost for which there are numbers."""
    shown = [group for group in groups if group.done]
    kinds: list[tuple[str, str, Callable[[Run], float | None]]] = [
        ("parameters", "parameters", lambda run: run.metric("parameters")),
        ("flops", "FLOPs per optimizer step", flops),
        ("time", *_time_axis(shown)),
    ]
    figures = [_draw_trade(shown, numbers, *kind, folder, suffix) for kind in kinds]
    figures += [_draw_memory(shown, numbers, folder, suffix), _draw_speed(shown, folder, suffix)]
    return [figure for figure in figures if figure is not None]


def flops(run: Run) -> float | None:
    """Return the priced FLOPs of an optimizer step, None where the run carries no price or trains nothing."""
    price = run.result.get("price")
    value = price.get("flops_per_step") if isinstance(price, Mapping) else None
    return float(value) if is_number(value) and value > 0 else None


def speed(run: Run) -> float | None:
    """Return the median of the logged training speeds in tokens per second, without the first line, which warms up."""
    seen = [line["tokens_per_s"] for line in run.curve() if is_number(line.get("tokens_per_s"))]
    return median(seen[1:] or seen) if seen else None


def _time_axis(groups: Sequence[Group]) -> tuple[str, Callable[[Run], float | None]]:
    """The name of the time axis and how to read it, in the unit that suits the longest run."""
    longest = max((value for group in groups for value in group.values("time_s")), default=0.0)
    unit, seconds = next((u, s) for u, s in _UNITS if longest >= 2 * s or s == 1)

    def read(run: Run) -> float | None:
        spent = run.metric("time_s")
        return None if spent is None else spent / seconds

    return f"run time ({unit})", read


def _mean(group: Group, read: Callable[[Run], float | None]) -> float | None:
    values = [value for run in group.done if (value := read(run)) is not None]
    return fmean(values) if values else None


def _draw_trade(
    groups: Sequence[Group],
    numbers: Mapping[int, int],
    short: str,
    label: str,
    read: Callable[[Run], float | None],
    folder: Path,
    suffix: str,
) -> Figure | None:
    """The test metric against one cost: a point per setting, with its interval."""
    leaf = leaf_of(groups)
    key, stem = f"test/{leaf}", f"{leaf}_vs_{short}{suffix}"
    costs = {id(group): cost for group in groups if (cost := _mean(group, read)) is not None}
    placed = [group for group in groups if id(group) in costs and group.mean(key) is not None]
    if not placed:
        return None
    best, others = named(placed, numbers)
    names = short_labels(placed)
    figure, axes = style.sheet()
    style.scale_amounts(axes, "x", [costs[id(group)] for group in placed])
    for group in others:
        axes.plot(costs[id(group)], group.mean(key) or 0.0, "o", color=style.FAINT, markersize=4, zorder=1)
    for (number, group), place in zip(best, _apart([costs[id(group)] for _, group in best]), strict=True):
        _mark(axes, place, group, key, names[id(group)], number)
    if is_share(leaf):
        style.end_at_one(axes, "y")
    axes.set_xlabel(label)
    axes.set_ylabel(f"test {quantity(leaf)}")
    style.legend(figure, axes)
    style.save(figure, folder, stem)
    points = "; ".join(
        f"{names[id(group)]} {group.mean(key):.3f} at {style.compact(costs[id(group)])}" for _, group in best
    )
    return Figure(
        name=stem,
        caption=f"Test {quantity(leaf)} against {label}, mean over seeds; bar: 95 % interval; equal costs stand "
        f"side by side.{rest_words(others)}",
        alt=f"Scatter chart of test {quantity(leaf)} against {label}: {points}.",
    )


def _mark(axes: Axes, place: float, group: Group, key: str, name: str, number: int) -> None:
    """The mean of one setting, with its interval as a bar."""
    mean = group.mean(key) or 0.0
    low, high = group.interval(key) or (mean, mean)
    bars = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
    look = style.look(number) | {"linestyle": "none", "markersize": 7}
    axes.errorbar([place], [mean], bars, label=name, capsize=3, elinewidth=1.2, zorder=3, **look)


def _apart(values: Sequence[float]) -> list[float]:
    """Equal costs a little beside each other (2 % of the axis), so that no bar covers another."""
    low, high = min(values), max(values)
    wide = low > 0 and high / low >= 3
    step = 0.02 * (math.log(high / low) if wide else high - low or abs(high) or 1.0)
    moved = []
    for place, value in enumerate(values):
        shift = step * (values[:place].count(value) - (values.count(value) - 1) / 2)
        moved.append(value * math.exp(shift) if wide else value + shift)
    return moved


def _draw_memory(groups: Sequence[Group], numbers: Mapping[int, int], folder: Path, suffix: str) -> Figure | None:
    """Measured peak memory against the forecast, with the line on which both are equal."""
    pairs = {}
    for group in groups:
        told, seen = group.mean("predicted_peak_memory_gb"), group.mean("peak_memory_gb")
        if told is not None and seen is not None:
            pairs[id(group)] = (told, seen)
    placed = [group for group in groups if id(group) in pairs]
    if not placed:
        return None
    best, others = named(placed, numbers)
    names, stem = short_labels(placed), f"memory{suffix}"
    figure, axes = style.sheet(height_in=3.6)
    both = [value for pair in pairs.values() for value in pair]
    style.scale_amounts(axes, "x", both)
    style.scale_amounts(axes, "y", both)
    axes.axline((min(both), min(both)), (2 * max(both), 2 * max(both)), color=style.EDGE, linewidth=1, zorder=1)
    for group in others:
        axes.plot(*pairs[id(group)], "o", color=style.FAINT, markersize=4, zorder=2)
    for number, group in best:
        look = style.look(number) | {"linestyle": "none", "markersize": 7}
        axes.plot(*pairs[id(group)], label=names[id(group)], zorder=3, **look)
    axes.set_xlabel("predicted peak memory (GB)")
    axes.set_ylabel("measured peak memory (GB)")
    style.legend(figure, axes)
    style.save(figure, folder, stem)
    worst = max((abs(told - seen) / seen for told, seen in pairs.values() if seen), default=0.0)
    return Figure(
        name=stem,
        caption=f"Peak memory, measured against predicted; on the grey line both are equal.{rest_words(others)}",
        alt=f"Scatter chart of measured against predicted peak memory of {len(pairs)} settings; the largest error is "
        f"{100 * worst:.1f} %.",
    )


def _draw_speed(groups: Sequence[Group], folder: Path, suffix: str) -> Figure | None:
    """Training speed of each setting, one below the other."""
    speeds = {id(group): value for group in groups if (value := _mean(group, speed)) is not None}
    placed = [group for group in groups if id(group) in speeds]
    if not placed:
        return None
    shown, stem = placed[:MOST_ROWS], f"speed{suffix}"
    names = short_labels(placed)
    texts = [style.wrap(names[id(group)], 30) for group in shown]
    lines = max(text.count("\n") + 1 for text in texts)
    figure, axes = style.sheet(height_in=0.95 + len(texts) * (0.12 + 0.15 * lines))
    values = [speeds[id(group)] for group in shown]
    axes.barh(range(len(shown)), values, height=0.55, color=style.COLOURS[0])
    for place, value in enumerate(values):
        axes.annotate(
            style.compact(value), (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5
        )
    axes.margins(x=0.16)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_yticks(range(len(shown)), texts, fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    style.count(axes, "x")
    axes.set_xlabel("tokens per second")
    style.save(figure, folder, stem)
    left = f" The first {MOST_ROWS} of {len(placed)} settings." if len(placed) > MOST_ROWS else ""
    listed = "; ".join(f"{names[id(group)]} {style.compact(speeds[id(group)])}" for group in shown)
    return Figure(
        name=stem,
        caption=f"Training speed, median over the logged steps, mean over seeds.{left}",
        alt=f"Bar chart of training speed in tokens per second: {listed}.",
    )
