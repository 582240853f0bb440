"""How denoisers do: accuracy, loss and steps by the share of hidden tokens, and quality against arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rtx_lab.report import style
from rtx_lab.report.choice import named, quantity, rest_words, short_labels
from rtx_lab.report.document import Figure
from rtx_lab.report.groups import Group

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[float, float, float, float]
"""Place on the axis, mean over seeds, and its 95 % interval; the mean itself where there is none."""

HALF = 50
"""Percent hidden at which quality is set against arithmetic, after fixed numbers of steps too."""

_LEAVES = ("accuracy", "loss")
_OWN = {"markerfacecolor": "white", "markersize": 8.5, "markeredgewidth": 1.6, "linestyle": "none"}
"""The number of steps that a model takes by itself is a hollow mark, fixed numbers are filled ones."""


def hidden_percents(group: Group) -> list[int]:
    """Return the shares of hidden tokens, in percent, at which the finished runs of a group filled in the test texts.

    Empty for a setting that is no denoiser.
    """
    return _numbers_behind(group, "test/mask/")


def draw_denoising(groups: Sequence[Group], numbers: Mapping[int, int], folder: Path, suffix: str) -> list[Figure]:
    """Return the figures on denoising for which there are numbers."""
    shown = [group for group in groups if hidden_percents(group)]
    figures = [_draw_by_hidden(shown, numbers, leaf, folder, f"denoising_{leaf}{suffix}") for leaf in _LEAVES]
    figures.append(_draw_by_hidden(shown, numbers, "avg_reasoning_steps", folder, f"denoising_steps{suffix}"))
    figures += [_draw_by_flops(shown, numbers, leaf, folder, f"denoising_{leaf}_vs_flops{suffix}") for leaf in _LEAVES]
    return [figure for figure in figures if figure is not None]


def unigram(groups: Sequence[Group]) -> dict[int, float]:
    """Return, by percent hidden, how often the most frequent token is the right guess; mean over the groups."""
    found: dict[int, list[float]] = {}
    for group in groups:
        for percent in hidden_percents(group):
            value = group.mean(f"test/mask/{percent}/unigram_accuracy")
            found.setdefault(percent, []).extend([] if value is None else [value])
    return {percent: fmean(values) for percent, values in sorted(found.items()) if values}


def _numbers_behind(group: Group, prefix: str) -> list[int]:
    keys = {key for run in group.done for key in (run.result.get("metrics") or {}) if key.startswith(prefix)}
    return sorted({int(part) for key in keys if (part := key.removeprefix(prefix).partition("/")[0]).isdecimal()})


def _point(group: Group, place: float, key: str) -> list[Point]:
    mean = group.mean(key)
    return [] if mean is None else [(place, mean, *(group.interval(key) or (mean, mean)))]


def _by_hidden(group: Group, leaf: str) -> list[Point]:
    return [one for percent in hidden_percents(group) for one in _point(group, percent, f"test/mask/{percent}/{leaf}")]


def _at_flops(group: Group, part: str, leaf: str) -> list[Point]:
    """The point of `mask/50` or `fixed/<steps>` over its FLOPs, none where one of the two is not known."""
    flops = group.mean(f"test/{part}/flops")
    return _point(group, flops, f"test/{part}/{leaf}") if flops else []


def _draw_by_hidden(
    groups: Sequence[Group], numbers: Mapping[int, int], leaf: str, folder: Path, stem: str
) -> Figure | None:
    """One line per setting by percent hidden, with its interval; steps of models that take more than one pass alone."""
    curves = {id(group): curve for group in groups if (curve := _by_hidden(group, leaf))}
    if leaf == "avg_reasoning_steps":
        curves = {key: curve for key, curve in curves.items() if max(mean for _, mean, *_ in curve) > 1}
    shown = [group for group in groups if id(group) in curves]
    if not shown:
        return None
    figure, axes = style.sheet()
    best, others = named(shown, numbers)
    names = short_labels(shown)
    for group in others:
        axes.plot(*_columns(curves[id(group)])[:2], color=style.FAINT, linewidth=0.8, zorder=1)
    for number, group in best:
        _line(axes, curves[id(group)], names[id(group)], style.look(number), 0.18)
    guess = unigram(shown) if leaf == "accuracy" else {}
    if guess:
        label = "most frequent token"
        axes.plot(list(guess), list(guess.values()), "--", color=style.EDGE, linewidth=1.2, label=label, zorder=2)
    axes.set_ylim(bottom=0)
    if leaf == "accuracy":
        style.end_at_one(axes, "y")
    axes.set_xlim(-4, 104)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("hidden tokens (%)")
    what = "steps per text" if leaf == "avg_reasoning_steps" else f"test {quantity(leaf)}"
    axes.set_ylabel(what)
    style.legend(figure, axes)
    style.save(figure, folder, stem)
    dashed = " Dashed: always guessing the most frequent token." if guess else ""
    ends = "; ".join(f"{names[id(group)]} {_ends(curves[id(group)])}" for _, group in best)
    return Figure(
        name=stem,
        caption=f"{what[0].upper()}{what[1:]} by the share of hidden tokens; line: mean over seeds, band: 95 % "
        f"interval.{dashed}{rest_words(others)}",
        alt=f"Line chart of {what} by the share of hidden tokens: {ends}.",
    )


def _draw_by_flops(
    groups: Sequence[Group], numbers: Mapping[int, int], leaf: str, folder: Path, stem: str
) -> Figure | None:
    """Quality over arithmetic: a line through fixed numbers of steps, a hollow mark where the model itself stops."""
    routes = {id(group): _route(group, leaf) for group in groups}
    lines, own = ({key: route[part] for key, route in routes.items()} for part in (0, 1))
    shown = [group for group in groups if lines[id(group)]]
    if not shown:
        return None
    figure, axes = style.sheet()
    best, others = named(shown, numbers)
    names = short_labels(shown)
    style.scale_amounts(axes, "x", [one[0] for group in shown for one in lines[id(group)] + own[id(group)]])
    for group in others:
        axes.plot(*_columns(lines[id(group)])[:2], color=style.FAINT, linewidth=0.8, marker=".", zorder=1)
    for number, group in best:
        look = style.look(number)
        if len(lines[id(group)]) > 1:
            _line(axes, lines[id(group)], names[id(group)], look, 0.13)
        else:
            _mark(axes, lines[id(group)][0], names[id(group)], look | {"linestyle": "none", "markersize": 7})
        for point in own[id(group)]:
            _mark(axes, point, None, look | _OWN | {"markeredgecolor": look["color"]})
    if any(own[id(group)] for _, group in best):
        axes.plot([], [], "o", color=style.INK, label="as many steps as it takes by itself", **_OWN)
    if leaf == "accuracy":
        style.end_at_one(axes, "y")
    axes.set_xlabel("FLOPs per text")
    axes.set_ylabel(f"test {quantity(leaf)}, half hidden")
    style.legend(figure, axes)
    style.save(figure, folder, stem)
    points = "; ".join(f"{names[id(group)]} {_stations(lines[id(group)])}" for _, group in best)
    return Figure(
        name=stem,
        caption=_flops_caption(leaf, best, own) + rest_words(others),
        alt=f"Chart of test {quantity(leaf)} at half hidden over FLOPs per text: {points}.",
    )


def _route(group: Group, leaf: str) -> tuple[list[Point], list[Point]]:
    """The points after fixed numbers of steps, and the one of as many as the model takes by itself.

    Where there are no two of the former, the latter is all there is to draw.
    """
    steps = _numbers_behind(group, "test/fixed/")
    points = [one for count in steps for one in _at_flops(group, f"fixed/{count}", leaf)]
    alone = _at_flops(group, f"mask/{HALF}", leaf)
    return (points, alone) if len(points) > 1 else (alone or points, [])


def _flops_caption(leaf: str, best: Sequence[tuple[int, Group]], own: Mapping[int, list[Point]]) -> str:
    text = f"Test {quantity(leaf)} with half of the tokens hidden over the FLOPs of one text, mean over seeds; bar and "
    text += "band: 95 % interval."
    curved = [group for _, group in best if own[id(group)]]
    if curved:
        steps = sorted({count for group in curved for count in _numbers_behind(group, "test/fixed/")})
        text += f" Connected marks: {', '.join(map(str, steps))} steps or passes, from left to right; hollow mark: as "
        text += "many as the model takes by itself."
    if len(curved) < len(best):
        text += " Single marks: models of one pass, or without fixed numbers of steps."
    if leaf == "loss" and any(group.settings.get("model.objective") in ("cmlm", "mdlm") for group in curved):
        text += " The loss of mask-predict and diffusion is that of their first pass, whatever follows."
    return text


def _line(axes: Axes, points: Sequence[Point], name: str, look: Mapping[str, Any], alpha: float) -> None:
    """A line through the means and a band of their intervals."""
    place, mean, low, high = _columns(points)
    axes.plot(place, mean, label=name, zorder=3, **look)
    axes.fill_between(place, low, high, color=look["color"], alpha=alpha, linewidth=0, zorder=2)


def _mark(axes: Axes, point: Point, name: str | None, look: Mapping[str, Any]) -> None:
    place, mean, low, high = point
    bar = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
    axes.errorbar([place], [mean], bar, fmt="none", ecolor=look["color"], capsize=2.5, elinewidth=1, zorder=3)
    axes.plot([place], [mean], label=name, zorder=4, **look)


def _columns(points: Sequence[Point]) -> list[list[float]]:
    return [list(column) for column in zip(*points, strict=True)]


def _ends(points: Sequence[Point]) -> str:
    first, last = points[0], points[-1]
    return f"{first[1]:.3g} at {first[0]:g} % to {last[1]:.3g} at {last[0]:g} %"


def _stations(points: Sequence[Point]) -> str:
    return ", ".join(f"{mean:.3g} at {style.compact(place)}" for place, mean, *_ in points)
