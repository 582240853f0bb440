"""How the arms of a latent-memory study compare, and where the trigger fires."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtx_lab.report import style
from rtx_lab.report.document import Figure
from rtx_lab.report.memory_arms import STAGES, TRIGGER
from rtx_lab.report.memory_records import NUM_PLACES, Shares, by_number, by_place
from rtx_lab.report.memory_table import name_of
from rtx_lab.report.memory_tests import JudgedMemory, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 24
"""Arms of the figure that sets them one below the other."""


def draw_memory(judged: Sequence[JudgedMemory], folder: Path) -> dict[str, list[Figure]]:
    """Write the drawings of all studies below `folder`/figures and return them by the heading of the study."""
    drawn: dict[str, list[Figure]] = {}
    with style.drawing():
        for place, one in enumerate(judged):
            suffix = "" if place == 0 else f"_{place + 1}"
            found = [_draw_arms(one, folder, f"memory_accuracy{suffix}"), _draw_fires(one, folder, f"trigger{suffix}")]
            drawn[name_of(judged, place)] = [figure for figure in found if figure is not None]
    return drawn


def _draw_arms(judged: JudgedMemory, folder: Path, stem: str) -> Figure | None:
    """Accuracy with its interval, one arm below the other; stages are filled, controls hollow."""
    measured = [line for line in judged.lines if line.arm.is_measured]
    if not measured:
        return None
    shown = measured[:MOST_ROWS]
    texts = [style.wrap(line.arm.label, 32) for line in shown]
    lines = sum(text.count("\n") + 1 for text in texts)
    figure, axes = style.sheet(height_in=1.0 + 0.1 * len(texts) + 0.16 * lines)
    named: set[str] = set()
    for place, line in enumerate(shown):
        _mark_arm(axes, line, place, named)
    axes.set_ylim(len(texts) - 0.5, -0.5)
    axes.set_yticks(range(len(texts)), texts, fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    style.end_at_one(axes, "x")
    axes.set_xlabel("test accuracy")
    style.legend(figure, axes)
    style.save(figure, folder, stem)
    told = "; ".join(f"{line.arm.label} {_accuracy(line):.3f}" for line in shown)
    left = f" The first {MOST_ROWS} of {len(measured)} arms." if len(measured) > MOST_ROWS else ""
    return Figure(
        name=stem,
        caption=f"Test accuracy of every stage and control, mean over seeds; bar: 95 % interval. Bars that overlap do "
        f"not say that two arms are equal: the paired tests stand in the table.{left}",
        alt=f"Chart of test accuracy: {told}.",
    )


def _mark_arm(axes: Axes, line: Line, place: int, named: set[str]) -> None:
    mean = _accuracy(line)
    group = line.arm.group
    low, high = (group.interval("test/accuracy") if group else None) or (mean, mean)
    is_control = line.arm.kind not in STAGES and line.arm.kind != "base"
    name = "control" if is_control else "stage"
    look: dict[str, Any] = style.look(1 if is_control else 0) | {"linestyle": "none", "markersize": 7}
    if is_control:
        look |= {"markerfacecolor": "white", "markeredgecolor": look["color"], "markeredgewidth": 1.4}
    bars = [[max(0.0, mean - low)], [max(0.0, high - mean)]]
    label = None if name in named else name
    axes.errorbar([mean], [place], xerr=bars, label=label, capsize=2.5, elinewidth=1.2, zorder=3, **look)
    named.add(name)


def _accuracy(line: Line) -> float:
    return (line.arm.group.mean("test/accuracy") if line.arm.group else None) or 0.0


def _draw_fires(judged: JudgedMemory, folder: Path, stem: str) -> Figure | None:
    """The share of decisions that insert, by the number of the decision and by the place in the answer."""
    found = [(line, by_number(line.answered), by_place(line.answered)) for line in judged.lines if _decides(line)]
    found = [one for one in found if one[1]][: style.MOST_LINES]
    if not found:
        return None
    figure, (left, right) = style.panels(1, 2, height_in=2.9, width_in=style.WIDTH_IN + 1.4)
    for number, (line, numbers, places) in enumerate(found):
        _curve(left, numbers, list(numbers), style.look(number), line.arm.label)
        _curve(right, places, [(place + 0.5) / NUM_PLACES for place in places], style.look(number), None)
    for axes in (left, right):
        axes.set_ylim(-0.03, 1.03)
    style.count_whole(left, "x")
    right.set_xlim(0, 1)
    left.set_xlabel("decision (0: the first)")
    right.set_xlabel("place in the answer")
    left.set_ylabel("share that inserts")
    style.legend(figure, left)
    style.save(figure, folder, stem)
    return Figure(
        name=stem,
        caption="Where the trigger fires: the share of its decisions that insert latents, left by the number of the "
        f"decision in its answer, right by where in the answer it was taken (0 its start, 1 its end, in {NUM_PLACES} "
        "parts, the end of the prompt left out); bar: 95 % interval (Wilson), decisions taken as independent.",
        alt=f"Chart of the share of decisions that insert: {_alt(found)}.",
    )


def _decides(line: Line) -> bool:
    return line.arm.kind == TRIGGER and line.arm.is_measured


def _curve(axes: Axes, counts: Shares, places: Sequence[float], look: Mapping[str, Any], label: str | None) -> None:
    from rtx_lab.scoring.intervals import wilson_interval

    shares = [inserted / decided for decided, inserted in counts.values()]
    spans = [wilson_interval(inserted, decided) for decided, inserted in counts.values()]
    below = [max(0.0, share - low) for share, (low, _) in zip(shares, spans, strict=True)]
    above = [max(0.0, high - share) for share, (_, high) in zip(shares, spans, strict=True)]
    axes.errorbar(places, shares, yerr=[below, above], label=label, capsize=2.5, elinewidth=1.0, zorder=3, **look)


def _alt(found: Sequence[tuple[Line, Shares, Shares]]) -> str:
    told = []
    for line, numbers, _ in found:
        shares = ", ".join(f"{inserted / decided:.2f} at {key}" for key, (decided, inserted) in numbers.items())
        told.append(f"{line.arm.label}: {shares}")
    return "; ".join(told)
