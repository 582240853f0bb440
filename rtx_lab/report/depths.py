"""How many reasoning steps a model takes: their histogram, and their mean by the difficulty of a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rtx_lab.report import style
from rtx_lab.report.choice import named, rest_words, short_labels
from rtx_lab.report.document import Figure
from rtx_lab.report.groups import Group

_HISTOGRAM = "test/steps_histogram/"
_DIFFICULTY = "test/difficulty/"


def draw_depths(groups: Sequence[Group], numbers: Mapping[int, int], folder: Path, suffix: str) -> list[Figure]:
    """Return histogram and mean by difficulty of the reasoning steps on the test questions, where steps were taken."""
    figures = []
    histograms = {id(group): found for group in groups if len(found := _values(group, _HISTOGRAM)) > 1}
    shown = [group for group in groups if id(group) in histograms]
    if shown:
        figures.append(_draw_histogram(shown, numbers, histograms, folder, f"steps_histogram{suffix}"))
    means = {id(group): found for group in groups if len(found := _by_difficulty(group)) > 1}
    shown = [group for group in groups if id(group) in means]
    if shown:
        figures.append(_draw_difficulty(shown, numbers, means, folder, f"steps_by_difficulty{suffix}"))
    return figures


def _values(group: Group, prefix: str) -> dict[float, float]:
    """Metrics named by a number behind `prefix`, as number -> mean over seeds."""
    names = {key for run in group.done for key in (run.result.get("metrics") or {}) if key.startswith(prefix)}
    found = {_number(key.removeprefix(prefix)): group.mean(key) for key in names}
    return {number: mean for number, mean in sorted(found.items()) if number == number and mean is not None}


def _by_difficulty(group: Group) -> dict[float, tuple[float, float, float]]:
    """Difficulty -> mean of steps over seeds, with the lowest and the highest seed."""
    names = {key for run in group.done for key in (run.result.get("metrics") or {}) if key.startswith(_DIFFICULTY)}
    found = {}
    for key in (name for name in names if name.endswith("/avg_reasoning_steps")):
        number, mean = _number(key.split("/")[2]), group.mean(key)
        if number == number and mean is not None:
            seeds = group.values(key)
            found[number] = (mean, min(seeds), max(seeds))
    return dict(sorted(found.items()))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _draw_histogram(
    groups: Sequence[Group], numbers: Mapping[int, int], shares: dict[int, dict[float, float]], folder: Path, stem: str
) -> Figure:
    figure, axes = style.sheet()
    best, others = named(groups, numbers)
    names = short_labels(groups)
    for group in others:
        axes.plot(*_percent(shares[id(group)]), color=style.FAINT, linewidth=0.8, zorder=1)
    for number, group in best:
        axes.plot(*_percent(shares[id(group)]), label=names[id(group)], zorder=3, **style.look(number))
    style.count_whole(axes, "x")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("reasoning steps taken")
    axes.set_ylabel("test questions (%)")
    style.legend(figure, axes)
    style.save(figure, folder, stem)
    tops = "; ".join(
        f"{names[id(group)]} most often {max(s := shares[id(group)], key=s.__getitem__):g}" for _, group in best
    )
    return Figure(
        name=stem,
        caption="Share of the test questions by the number of reasoning steps taken, mean over seeds."
        + rest_words(others),
        alt=f"Histogram of reasoning steps: {tops}.",
    )


def _draw_difficulty(
    groups: Sequence[Group],
    numbers: Mapping[int, int],
    means: dict[int, dict[float, tuple[float, float, float]]],
    folder: Path,
    stem: str,
) -> Figure:
    figure, axes = style.sheet()
    best, others = named(groups, numbers)
    names = short_labels(groups)
    for group in others:
        found = means[id(group)]
        axes.plot(list(found), [mean for mean, _, _ in found.values()], color=style.FAINT, linewidth=0.8, zorder=1)
    for number, group in best:
        found, look = means[id(group)], style.look(number)
        mean, low, high = (list(column) for column in zip(*found.values(), strict=True))
        axes.plot(list(found), mean, label=names[id(group)], zorder=3, **look)
        axes.fill_between(list(found), low, high, color=look["color"], alpha=0.13, linewidth=0, zorder=2)
    style.count_whole(axes, "x")
    axes.set_xlabel("difficulty of the question")
    axes.set_ylabel("mean reasoning steps")
    style.legend(figure, axes)
    style.save(figure, folder, stem)
    rises = "; ".join(f"{names[id(group)]} {_ends(means[id(group)])}" for _, group in best)
    return Figure(
        name=stem,
        caption="Mean reasoning steps by difficulty; line: mean over seeds, band: lowest to highest seed."
        + rest_words(others),
        alt=f"Line chart of mean reasoning steps by difficulty, easiest to hardest: {rises}.",
    )


def _percent(shares: dict[float, float]) -> tuple[list[float], list[float]]:
    return list(shares), [100 * share for share in shares.values()]


def _ends(found: dict[float, tuple[float, float, float]]) -> str:
    first, *_, last = found.values()
    return f"{first[0]:.2f} to {last[0]:.2f}"
