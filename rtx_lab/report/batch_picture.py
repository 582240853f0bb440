"""The summary of a batch study as a picture of a table, for slides and messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rtx_lab.report import style
from rtx_lab.report.batch_arms import Arm, BatchStudy
from rtx_lab.report.batch_tables import NOT_MEASURED
from rtx_lab.report.choice import quantity
from rtx_lab.report.pairing import lower_is_better
from rtx_lab.report.wording import number

_MARKS = {
    "samples_per_s": "#90EE90",
    "best_score": "#FFB6C1",
    "gain_per_min": "#87CEEB",
    "peak_allocated_gb": "#FFE08A",
}
"""The colour of the best cell in a column: fastest, best score, most gained per minute, least memory."""

_COLUMNS = (
    ("seeds", "", 0),
    ("peak GB", "peak_allocated_gb", 3),
    ("steps/s", "steps_per_s", 3),
    ("samples/s", "samples_per_s", 1),
    ("best score", "best_score", 3),
    ("gain/min", "gain_per_min", 4),
    ("minutes", "total_min", 2),
    ("out of\nmemory", "oom", 0),
)


def draw_table(study: BatchStudy, folder: Path, stem: str) -> None:
    """Write the table of all arms as figures/<stem>.png and .svg below `folder`; the best cells are coloured."""
    from matplotlib.transforms import Bbox

    figure, axes = style.sheet(height_in=1.35 + 0.42 * len(study.arms), width_in=10.5)
    axes.set_axis_off()
    head = ["arm", *(title for title, _, _ in _COLUMNS)]
    texts = [
        [style.wrap(arm.name, 30), *(_text(arm, key, digits) for _, key, digits in _COLUMNS)] for arm in study.arms
    ]
    widths = [0.26, *([0.74 / len(_COLUMNS)] * len(_COLUMNS))]
    table = axes.table(cellText=[head, *texts], colWidths=widths, cellLoc="center", bbox=Bbox.unit())
    table.auto_set_font_size(False)
    table.set_fontsize(10)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor(style.GRID)
        if row == 0:
            cell.set_facecolor("#f2f3f4")
        elif column == 0:
            cell.get_text().set_horizontalalignment("left")
            cell.PAD = 0.04
    for row, column, colour in _best_cells(study):
        table[row + 1, column].set_facecolor(colour)
    axes.set_title(
        f"{study.model} on {study.dataset}, {study.global_batch} samples a step; score: {quantity(study.leaf)} on "
        f"validation{', the less the better' if lower_is_better(study.leaf) else ''}", fontsize=10.5,
    )  # fmt: skip
    figure.supxlabel(
        "coloured: the best mean of its column, unless all are equal; batch_optimization_report.md tells what is real",
        fontsize=8.5, color=style.EDGE,
    )  # fmt: skip
    style.save(figure, folder, stem)


def _text(arm: Arm, key: str, digits: int) -> str:
    if key == "oom":
        return NOT_MEASURED if arm.num_oom is None else str(arm.num_oom)
    value = arm.mean(key) if key else float(len(arm.measures))
    return "not\nmeasured" if value is None else f"{value:.0f}" if digits == 0 else number(value, digits)


def _best_cells(study: BatchStudy) -> Sequence[tuple[int, int, str]]:
    """Row, column and colour of the best cells of each marked column: those that read like the best.

    None where fewer than two arms were measured, or where all read alike.
    """
    found = []
    for column, (_, key, digits) in enumerate(_COLUMNS, start=1):
        least = key == "peak_allocated_gb" or (key == "best_score" and lower_is_better(study.leaf))
        told = {row: value for row, arm in enumerate(study.arms) if (value := arm.mean(key)) is not None}
        if key not in _MARKS or len(told) < 2:
            continue
        texts = {row: _text(study.arms[row], key, digits) for row in told}
        best = texts[min(told, key=lambda row: told[row] if least else -told[row])]
        if len(set(texts.values())) > 1:
            found += [(row, column, _MARKS[key]) for row, text in texts.items() if text == best]
    return found
