"""The batch study of a report: its section, and the files that carry its name.

Beside report.md lie batch_optimization_report.md, batch_optimization_results.csv, memory_vs_speed.png,
training_curves.png and summary_table.png; of several studies in one report the pictures of the second and further
ones have a number behind their name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rtx_lab.core.errors import RunError
from rtx_lab.report import style
from rtx_lab.report.batch_advice import advise
from rtx_lab.report.batch_arms import BatchStudy
from rtx_lab.report.batch_figures import draw_batch_study
from rtx_lab.report.batch_picture import draw_table
from rtx_lab.report.batch_tables import (
    batch_csv,
    memory_table,
    out_of_memory_table,
    price_table,
    score_table,
    speed_table,
    time_table,
)
from rtx_lab.report.batch_tests import CostTest, compare_costs, of_study
from rtx_lab.report.document import Document, Figure, Section, Table
from rtx_lab.report.findings import Comparison
from rtx_lab.report.markdown import to_markdown

MARKDOWN, CSV = "batch_optimization_report.md", "batch_optimization_results.csv"
PICTURES = ("memory_vs_speed", "training_curves", "summary_table")
_PICTURE = re.compile(rf"({'|'.join(PICTURES)})(_\d+)?\.png")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A study with the tests between its arms."""

    study: BatchStudy
    scores: list[Comparison]
    costs: list[CostTest]


def judge_studies(studies: Sequence[BatchStudy], comparisons: Sequence[Comparison]) -> list[Judged]:
    """Return the studies with their tests; `comparisons` are those of the whole report, corrected."""
    return [
        Judged(study=study, scores=of_study(study, comparisons), costs=compare_costs(study)) for study in studies
    ]  # fmt: skip


def draw_batches(judged: Sequence[Judged], folder: Path) -> dict[str, list[Figure]]:
    """Write the pictures of all studies below `folder`/figures and return those that a page shows, by `name_of`."""
    drawn: dict[str, list[Figure]] = {}
    with style.drawing():
        for number, one in enumerate(judged):
            drawn[name_of(judged, number)] = draw_batch_study(one.study, folder, _suffix(number))
            draw_table(one.study, folder, f"{PICTURES[-1]}{_suffix(number)}")
    return drawn


def batch_sections(judged: Sequence[Judged], figures: Mapping[str, Sequence[Figure]]) -> list[Section]:
    """Return one section for each study: the recommendation first, then the tables and pictures."""
    return [
        Section(
            title=name_of(judged, number),
            paragraphs=advise(one.study, one.scores, one.costs),
            tables=_tables(judged, number),
            figures=list(figures.get(name_of(judged, number), ())),
        )
        for number, one in enumerate(judged)
    ]


def batch_texts(judged: Sequence[Judged], figures: Mapping[str, Sequence[Figure]]) -> dict[str, str]:
    """Return the texts of the batch study by file name; none without a study."""
    if not judged:
        return {}
    sections = []
    for number, one in enumerate(judged):
        prefix = f"{name_of(judged, number)}: " if len(judged) > 1 else ""
        advice = advise(one.study, one.scores, one.costs)
        sections += [
            Section(title=f"{prefix}What was compared", paragraphs=_say_study(one.study)),
            Section(title=f"{prefix}Recommendations", paragraphs=advice),
            Section(title=f"{prefix}In numbers", tables=_tables(judged, number),
                    figures=list(figures.get(name_of(judged, number), ()))),
        ]  # fmt: skip
    sections.append(Section(title="How this was computed", paragraphs=_METHOD))
    headlines = [advise(one.study, one.scores, one.costs)[0] for one in judged]
    document = Document(title="Batch size and accumulation", headlines=headlines, sections=sections)
    return {MARKDOWN: to_markdown(document), CSV: batch_csv([one.study for one in judged])}


def copy_pictures(judged: Sequence[Judged], folder: Path) -> None:
    """Put the pictures beside the report under their own names; take away those of an earlier report."""
    wanted = {f"{stem}{_suffix(number)}.png" for number in range(len(judged)) for stem in PICTURES}
    for path in sorted(folder.glob("*.png")):
        if _PICTURE.fullmatch(path.name) and path.name not in wanted:
            path.unlink()
    for name in sorted(wanted):
        source, target = folder / "figures" / name, folder / name
        if not source.is_file():
            target.unlink(missing_ok=True)
            continue
        beside = target.with_name(f".{name}")
        try:
            beside.write_bytes(source.read_bytes())
            beside.replace(target)
        except OSError as error:
            raise RunError(f"cannot write {target}: {error.strerror}; free space or change its permissions") from error


def name_of(judged: Sequence[Judged], number: int) -> str:
    """Return the heading of a study, with its model and data where there are several."""
    study = judged[number].study
    if len(judged) == 1:
        return "Batch study"
    return f"Batch study {number + 1}: {study.model} on {study.dataset}, global batch {study.global_batch}"


def _suffix(number: int) -> str:
    return "" if number == 0 else f"_{number + 1}"


def _tables(judged: Sequence[Judged], number: int) -> list[Table]:
    study, several = judged[number].study, len(judged) > 1
    tables = [memory_table(study), out_of_memory_table(study), speed_table(study), time_table(study)]
    tables = [table for table in (*tables, score_table(study), price_table(study)) if table.rows]
    return [replace(table, title=f"{table.title}, batch study {number + 1}") for table in tables] if several else tables


def _say_study(study: BatchStudy) -> list[str]:
    names = ", ".join(arm.name for arm in study.arms)
    seeds = sorted({run.seed for arm in study.arms for run in arm.group.runs})
    total = f" with {study.global_batch} samples in every optimizer step" if study.global_batch else ""
    told = (
        f"{study.model} on {study.dataset}{total}; micro-batch x accumulation: {names}; "
        f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}."
    )
    if study.differ_otherwise:
        told += " The arms differ in more than how a step is cut; what else stands in their names."
    return [told]


_METHOD = [
    "The loss of a step is one sum over all its micro-batches, divided once, so that how a step is cut does not change "
    "the gradient.",
    "Scores: paired tests over the test items as in the whole report (bootstrap over items; with several seeds a t "
    "test with the variance over items and seeds as well, the larger p counts), corrected by Holm's method over all "
    "comparisons of the report.",
    "Speed, memory and time: paired by seed; bootstrap over seeds and Student's t over their differences, the larger p "
    "counts, corrected by Holm's method over all cost tests of the study. Below .05 a difference is called shown.",
    "The recommendation: no arm that was shown to reach a worse score, none that ran out of memory where another did "
    "not, of the rest the fastest; among arms whose speed cannot be told apart, the one with the least peak memory.",
]
