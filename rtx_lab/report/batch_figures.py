"""The pictures of a batch study: memory against speed, the course of training, and the table as a picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rtx_lab.report import style
from rtx_lab.report.batch_arms import Arm, BatchStudy
from rtx_lab.report.batch_tables import target_words
from rtx_lab.report.choice import quantity
from rtx_lab.report.document import Figure
from rtx_lab.report.learning import over_seeds
from rtx_lab.report.pairing import lower_is_better
from rtx_lab.report.wording import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = list[tuple[float, float, float, float]]
"""Place, mean over seeds, lowest and highest seed."""

MOST_ARMS = style.MOST_LINES
"""Arms that a figure names; the tables have all."""


def draw_batch_study(study: BatchStudy, folder: Path, suffix: str) -> list[Figure]:
    """Return the figures for which there are numbers, written below `folder`/figures."""
    drawn = [draw(study, folder, suffix) for draw in (_draw_trade, _draw_curves)]
    return [figure for figure in drawn if figure is not None]


def memory_words(study: BatchStudy) -> str:
    """Return what memory means on the device of a study."""
    return "memory of the process" if study.on_cpu else "allocated memory"


def _draw_trade(study: BatchStudy, folder: Path, suffix: str) -> Figure | None:
    """Samples per second over peak memory: a mark per arm, larger for a larger micro-batch, intervals over seeds."""
    placed = [arm for arm in study.finished if None not in (arm.mean("peak_allocated_gb"), arm.mean("samples_per_s"))]
    if not placed:
        return None
    stem, shown = f"memory_vs_speed{suffix}", placed[:MOST_ARMS]
    figure, axes = style.sheet(height_in=3.6)
    largest = max((arm.micro_batch or 1) for arm in shown)
    for place, arm in enumerate(shown):
        x, y = arm.mean("peak_allocated_gb") or 0.0, arm.mean("samples_per_s") or 0.0
        size = 6 + 8 * ((arm.micro_batch or 1) / largest) ** 0.5
        look: dict[str, Any] = style.look(place) | {"linestyle": "none", "markersize": size}
        bars = {"xerr": _bar(arm, "peak_allocated_gb"), "yerr": _bar(arm, "samples_per_s")}
        axes.errorbar([x], [y], label=arm.name, capsize=3, elinewidth=1.1, zorder=3, **bars, **look)
        if arm.num_oom:
            ring = {"markerfacecolor": "none", "markeredgecolor": style.COLOURS[1], "markeredgewidth": 1.6}
            axes.plot([x], [y], "o", markersize=size + 8, zorder=4, **ring)
    axes.margins(0.18)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"peak {memory_words(study)} (GB)")
    axes.set_ylabel("training speed (samples/s)")
    style.legend(figure, axes)
    style.save(figure, folder, stem)
    ringed = " A ring: memory ran out on the way." if any(arm.num_oom for arm in shown) else ""
    told = "; ".join(
        f"{arm.name} {number(arm.mean('samples_per_s'), 1)} samples/s at {number(arm.mean('peak_allocated_gb'), 2)} GB"
        for arm in shown
    )
    return Figure(
        name=stem,
        caption=f"Training speed against peak {memory_words(study)}, mean over seeds; bars: 95 % interval; a larger "
        f"mark: a larger micro-batch.{ringed}{_rest(placed)}",
        alt=f"Scatter chart of training speed against peak memory: {told}.",
    )


def _bar(arm: Arm, key: str) -> list[list[float]] | None:
    mean, span = arm.mean(key), arm.interval(key)
    return None if span is None or mean is None else [[mean - span[0]], [span[1] - mean]]


def _draw_curves(study: BatchStudy, folder: Path, suffix: str) -> Figure | None:
    """Loss, score, memory over the course of training, and what a minute brought."""
    shown = study.finished[:MOST_ARMS]
    if not any(line for arm in shown for run in arm.lines for line in run):
        return None
    stem, score = f"training_curves{suffix}", quantity(study.leaf)
    figure, (loss, course, memory, gain) = style.panels(2, 2, height_in=6.0, width_in=8.4)
    _lines(loss, shown, lambda arm: over_seeds(arm.lines, "loss"))
    loss.set(xlabel="optimizer step", ylabel="training loss (nats per token)")
    by_time = _lines(course, shown, _course)
    if not by_time:
        _lines(course, shown, lambda arm: over_seeds(arm.lines, f"validation/{study.leaf}"))
    course.set(xlabel="minutes of training" if by_time else "optimizer step", ylabel=f"validation {score}")
    if study.target is not None:
        course.axhline(study.target, color=style.EDGE, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    _lines(memory, shown, lambda arm: over_seeds(arm.lines, "peak_memory_gb"))
    memory.set(xlabel="optimizer step", ylabel=f"{memory_words(study)}, peak so far (GB)")
    memory.set_ylim(bottom=0)
    brought = "fall" if lower_is_better(study.leaf) else "gain"
    _bars(gain, shown, "gain_per_min", f"{brought} per minute in\n{score}")
    style.count_whole(loss, "x")
    style.count_whole(memory, "x")
    style.legend(figure, loss)
    style.save(figure, folder, stem)
    ends = "; ".join(f"{arm.name} best {number(arm.mean('best_score'))}" for arm in shown)
    target = f" Dotted: {target_words(study)}." if study.target is not None else ""
    return Figure(
        name=stem,
        caption=f"Training loss, validation {score} over time, the peak of {memory_words(study)} so far, and {brought} "
        f"per minute until the best evaluation (bar: 95 % interval); line: mean over seeds, band: lowest to highest "
        f"seed.{target}{_rest(study.finished)}",
        alt=f"Four charts of the course of training: {ends}.",
    )


def _lines(axes: Axes, arms: Sequence[Arm], read: Callable[[Arm], Points]) -> bool:
    """One line with its band for each arm; return whether there was any."""
    found = [(place, arm, points) for place, arm in enumerate(arms) if (points := read(arm))]
    for place, arm, points in found:
        x, mean, low, high = (list(column) for column in zip(*points, strict=True))
        look = style.look(place)
        axes.plot(x, mean, label=arm.name, markevery=max(1, len(x) // 8), zorder=3, **look)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0, zorder=2)
    return bool(found)


def _course(arm: Arm) -> Points:
    """The score by the mean time at which the seeds were evaluated at a step; steps that all seeds reached."""
    seen: dict[float, list[tuple[float, float]]] = defaultdict(list)
    for looks in arm.looks:
        for look in looks:
            if look.time_s is not None:
                seen[look.step].append((look.time_s / 60, look.score))
    points = []
    for _, both in sorted(seen.items()):
        if len(both) == len(arm.looks):
            minutes, scores = zip(*both, strict=True)
            points.append((fmean(minutes), fmean(scores), min(scores), max(scores)))
    return points


def _bars(axes: Axes, arms: Sequence[Arm], key: str, label: str) -> None:
    for place, arm in enumerate(arms):
        mean = arm.mean(key)
        if mean is None:
            axes.text(place, 0, "not\nmeasured", ha="center", va="bottom", fontsize=8, color=style.EDGE)
            continue
        axes.bar([place], [mean], width=0.6, color=style.COLOURS[place % len(style.COLOURS)], zorder=2)
        bar = _bar(arm, key)
        if bar is not None:
            axes.errorbar([place], [mean], yerr=bar, color=style.INK, capsize=3, elinewidth=1.1, zorder=3)
        axes.annotate(f"{mean:.3g}", (place, mean), xytext=(9, 2), textcoords="offset points", fontsize=8.5)
    axes.set_xticks(range(len(arms)), [style.wrap(arm.name, 14) for arm in arms], fontsize=8.5)
    axes.set_xlim(-0.6, len(arms) - 0.4)
    axes.grid(False, axis="x")
    axes.set_ylabel(label)


def _rest(arms: Sequence[Arm]) -> str:
    return f" The first {MOST_ARMS} of {len(arms)} arms." if len(arms) > MOST_ARMS else ""
