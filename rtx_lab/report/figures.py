"""All figures of a report, by the section in which they stand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rtx_lab.report import style
from rtx_lab.report.choice import by_dataset, number_groups
from rtx_lab.report.costs import draw_costs
from rtx_lab.report.denoising_curves import draw_denoising
from rtx_lab.report.depths import draw_depths
from rtx_lab.report.document import Figure
from rtx_lab.report.effects import draw_effect
from rtx_lab.report.groups import Factor, Group
from rtx_lab.report.learning import draw_learning
from rtx_lab.report.runs import Run
from rtx_lab.report.strengths import draw_strengths
from rtx_lab.report.summary_figures import draw_summaries

_SUBJECTS: dict[str, Callable[[Sequence[Group], Mapping[int, int], Path, str], list[Figure]]] = {
    "learning": draw_learning,
    "summaries": draw_summaries,
    "denoising": draw_denoising,
    "steps": draw_depths,
    "connections": draw_strengths,
    "cost": draw_costs,
}


def draw(
    runs: Sequence[Run], groups: Sequence[Group], factors: Sequence[Factor], folder: Path
) -> dict[str, list[Figure]]:
    """Write every figure for which there are numbers as `folder`/figures/<name>.png and .svg; return them by section.

    The sections are learning, summaries, denoising, factors, steps, connections and cost; one without figures is an
    empty list. Figures of several datasets are drawn apart. The same runs give the same bytes.
    """
    known = {run.path for run in runs}
    present = [group for group in groups if any(run.path in known for run in group.runs)]
    datasets = by_dataset(present)
    with style.drawing():
        drawn = {name: [] for name in (*_SUBJECTS, "factors")}
        for dataset, members in datasets.items():
            suffix = f"_{_file_part(dataset)}" if len(datasets) > 1 else ""
            numbers = number_groups(members)
            for name, draw_subject in _SUBJECTS.items():
                drawn[name] += draw_subject(members, numbers, folder, suffix)
        effects = (draw_effect(factor, folder) for factor in factors if factor.key != "phase")  # that is in summaries
        drawn["factors"] = [figure for figure in effects if figure is not None]
    return drawn


def _file_part(text: str) -> str:
    return re.sub(r"\W+", "_", text)
