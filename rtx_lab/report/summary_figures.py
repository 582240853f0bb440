"""ROUGE of every setting with its interval, beside the control that copies the first turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtx_lab.report import style
from rtx_lab.report.choice import experiment_names
from rtx_lab.report.document import Figure
from rtx_lab.report.groups import Group
from rtx_lab.report.pairing import read_answers
from rtx_lab.report.rouge import KINDS, name_of
from rtx_lab.report.summaries import CONTROL, CONTROL_NAME, control_span, tokens_told, watched_tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ROWS = 16
"""Settings of the figure, one below the other."""

Score = tuple[float, float, float]
"""Mean and its 95 % interval; the mean itself where there is none."""


def draw_summaries(groups: Sequence[Group], numbers: Mapping[int, int], folder: Path, suffix: str) -> list[Figure]:
    """Return the figure of the tokens that are monitored; none where nothing was summarised."""
    del numbers  # colours tell the three scores apart, rows the settings
    tokens = watched_tokens([group for group in groups if tokens_told(group)])
    return [_draw(tokens, groups, folder, f"rouge_{tokens}{suffix}")] if tokens else []


def _draw(tokens: str, groups: Sequence[Group], folder: Path, stem: str) -> Figure:
    counted = [group for group in groups if tokens in tokens_told(group)]
    shown, names = counted[:MOST_ROWS], experiment_names(counted)
    leaves = [f"{kind}_{tokens}" for kind in KINDS]
    rows = {names[id(group)]: [_score(group, leaf) for leaf in leaves] for group in shown}
    answers = read_answers(shown[:1], [f"{CONTROL}_{leaf}" for leaf in leaves])
    control = [control_span(shown[0], leaf, answers) for leaf in leaves]
    if any(control):
        rows[CONTROL_NAME] = [(one[0], *(one[1] or (one[0], one[0]))) if one else None for one in control]
    texts = [style.wrap(name, 26) for name in rows]
    lines = max(text.count("\n") + 1 for text in texts)
    figure, axes = style.sheet(height_in=0.95 + len(texts) * (0.24 + 0.14 * lines))
    _mark_rows(axes, list(rows.values()), leaves)
    axes.set_ylim(len(texts) - 0.5, -0.5)
    axes.set_yticks(range(len(texts)), texts, fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlim(left=0)
    style.end_at_one(axes, "x")
    axes.set_xlabel(f"test ROUGE (tokens: {tokens.replace('_', ' ')})")
    style.legend(figure, axes)
    style.save(figure, folder, stem)
    left = f" The first {MOST_ROWS} of {len(counted)} settings." if len(counted) > MOST_ROWS else ""
    told = "; ".join(f"{name} {', '.join(f'{one[0]:.3f}' for one in row if one)}" for name, row in rows.items())
    return Figure(
        name=stem,
        caption=f"ROUGE counted over {tokens.replace('_', ' ')}, mean over seeds; bar: 95 % interval.{left}",
        alt=f"Chart of test ROUGE-1, -2 and -L over {tokens.replace('_', ' ')}: {told}.",
    )


def _mark_rows(axes: Axes, rows: Sequence[Sequence[Score | None]], leaves: Sequence[str]) -> None:
    for place, leaf in enumerate(leaves):
        found = [(row + 0.2 * (place - 1), scores[place]) for row, scores in enumerate(rows)]
        told = [(height, score) for height, score in found if score is not None]
        means = [score[0] for _, score in told]
        bars = [[score[0] - score[1] for _, score in told], [score[2] - score[0] for _, score in told]]
        bars = [[max(0.0, length) for length in side] for side in bars]
        look: dict[str, Any] = style.look(place) | {"linestyle": "none", "markersize": 6}
        heights = [height for height, _ in told]
        name = name_of(leaf).partition(" ")[0]
        axes.errorbar(means, heights, xerr=bars, label=name, capsize=2.5, elinewidth=1.2, zorder=3, **look)


def _score(group: Group, leaf: str) -> Score | None:
    mean = group.mean(f"test/{leaf}")
    return None if mean is None else (mean, *(group.interval(f"test/{leaf}") or (mean, mean)))
