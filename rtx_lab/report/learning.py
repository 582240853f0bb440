"""Learning curves: loss and the monitored metric against the optimizer step, mean and band over seeds.

What was measured once is a marker with a bar from the lowest to the highest seed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rtx_lab.report import style
from rtx_lab.report.choice import leaf_of, named, quantity, rest_words, short_labels
from rtx_lab.report.document import Figure
from rtx_lab.report.groups import Group
from rtx_lab.report.runs import is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = list[tuple[float, float, float, float]]
"""Step, mean, lowest and highest seed."""

_APART_PT = 8.0
"""Between the markers of settings that were measured once, at the same step as a rule."""

_MARKS = 8
"""Markers along a curve: enough to tell it by shape, few enough to see the curve."""


def draw_learning(groups: Sequence[Group], numbers: Mapping[int, int], folder: Path, suffix: str) -> list[Figure]:
    """Return the curves of training loss and of the monitored validation metric; none where nothing was logged."""
    lines = {id(group): [run.curve() for run in group.runs] for group in groups}
    leaf = leaf_of(groups)
    metric = f"validation/{leaf}"
    short = f"validation_{leaf}" if leaf == "loss" else leaf  # training loss has that name
    kinds = [
        ("loss", "loss", "training loss (nats per token)"),
        (metric, short, f"validation {quantity(leaf)}"),
    ]
    figures = []
    for key, name, label in kinds:
        curves = {number: curve for number, runs in lines.items() if (curve := over_seeds(runs, key))}
        shown = [group for group in groups if id(group) in curves]
        if shown:
            figures.append(_draw(shown, curves, numbers, label, folder, f"learning_{name}{suffix}"))
    return figures


def over_seeds(runs: Sequence[Sequence[dict[str, Any]]], key: str) -> Curve:
    """Return one curve of several runs' lines: at every logged step the mean and the extremes over the runs there."""
    values: dict[float, list[float]] = defaultdict(list)
    for lines in runs:
        for line in lines:
            if is_number(line.get(key)) and is_number(line.get("step")):
                values[line["step"]].append(line[key])
    return [(step, fmean(found), min(found), max(found)) for step, found in sorted(values.items())]


def _draw(
    groups: Sequence[Group], curves: dict[int, Curve], numbers: Mapping[int, int], label: str, folder: Path, stem: str
) -> Figure:
    figure, axes = style.sheet()
    best, others = named(groups, numbers)
    names = short_labels(groups)
    for group in others:
        step, mean, _, _ = zip(*curves[id(group)], strict=True)
        axes.plot(step, mean, color=style.FAINT, linewidth=0.8, marker="." if len(step) == 1 else "", zorder=1)
    single = [id(group) for _, group in best if len(curves[id(group)]) == 1]
    for number, group in best:
        if id(group) in single:
            away_pt = _APART_PT * (single.index(id(group)) - (len(single) - 1) / 2)
            _point(axes, curves[id(group)][0], number, names[id(group)], away_pt)
        else:
            _line(axes, curves[id(group)], number, names[id(group)])
    heights = [value for curve in curves.values() for _, *three in curve for value in three]
    if stem.startswith(("learning_loss", "learning_validation_loss")) and heights:
        style.scale_amounts(axes, "y", heights)
    if all(len(curve) == 1 for curve in curves.values()):
        steps = sorted({curve[0][0] for curve in curves.values()})
        axes.set_xlim(steps[0] - 1, steps[-1] + 1)
        axes.set_xticks(steps)
    else:
        style.count_whole(axes, "x")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(label)
    style.legend(figure, axes)
    style.save(figure, folder, stem)
    caption = f"{label[0].upper()}{label[1:]} by optimizer step; line: mean over seeds, band: lowest to highest seed."
    caption += " Measured once: a marker, its bar from lowest to highest seed." if single else ""
    return Figure(
        name=stem, caption=caption + rest_words(others), alt=_alt([group for _, group in best], curves, names, label)
    )


def _line(axes: Axes, curve: Curve, number: int, name: str) -> None:
    step, mean, low, high = (list(column) for column in zip(*curve, strict=True))
    look = style.look(number)
    axes.plot(step, mean, label=name, markevery=max(1, len(step) // _MARKS), zorder=3, **look)
    axes.fill_between(step, low, high, color=look["color"], alpha=0.15, linewidth=0, zorder=2)


def _point(axes: Axes, point: tuple[float, float, float, float], number: int, name: str, away_pt: float) -> None:
    from matplotlib.transforms import ScaledTranslation

    step, mean, low, high = point
    beside = axes.transData + ScaledTranslation(away_pt / 72, 0, axes.figure.dpi_scale_trans)
    bar = ([mean - low], [high - mean]) if low < high else None
    look: dict[str, Any] = style.look(number) | {"linestyle": "none", "transform": beside}
    axes.errorbar([step], [mean], yerr=bar, label=name, capsize=3, elinewidth=1.2, zorder=3, **look)
    axes.update_datalim([(step, low), (step, high)])  # what is moved aside does not widen the axes by itself


def _alt(best: Sequence[Group], curves: dict[int, Curve], names: dict[int, str], label: str) -> str:
    ends = "; ".join(f"{names[id(group)]} ends at {curves[id(group)][-1][1]:.3g}" for group in best)
    return f"Line chart of {label} against the optimizer step: {ends}."
