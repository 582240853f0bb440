"""The report of a study: a pure function of its run directories, byte for byte the same when written again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import write_text
from rtx_lab.report import sections
from rtx_lab.report.choice import leaf_of
from rtx_lab.report.denoising import denoising_section
from rtx_lab.report.document import Document, Figure, Section
from rtx_lab.report.expectations import Verdict, compare_expected, judge
from rtx_lab.report.exports import comparisons_csv, results_csv, to_latex
from rtx_lab.report.figures import draw
from rtx_lab.report.findings import Comparison, compare_factors, correct, pair_of
from rtx_lab.report.groups import Factor, Group, find_factors, group_runs, labels_of
from rtx_lab.report.headlines import say_findings, write_headlines
from rtx_lab.report.html import render
from rtx_lab.report.markdown import to_markdown
from rtx_lab.report.outcomes import Outcome, damaged, read_expectations, read_studies, without_result
from rtx_lab.report.pairing import read_answers
from rtx_lab.report.runs import Run, load_runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """All that a report speaks of, computed once."""

    runs: list[Run]
    missing: list[Outcome]
    groups: list[Group]
    factors: list[Factor]
    leaf: str
    comparisons: list[Comparison]
    verdicts: list[Verdict]


def write_report(path: Path) -> Path:
    """Write `<path>/report/` from the runs at or below `path` and return that folder.

    It holds report.md, report.html, results.csv, comparisons.csv, figures/ and tables/; what else lies there, as the
    files of `versus.write_versus`, stays. Raises UsageError without any run.
    """
    build_report(path)
    return path / "report"


def build_report(path: Path) -> Document:
    """Write the report as `write_report` does and return what it says."""
    study, folder = read_study(path), path / "report"
    document = compose(study, path.resolve().name, draw(study.runs, study.groups, study.factors, folder))
    texts = {
        "report.md": to_markdown(document),
        "report.html": render(document, folder),
        "results.csv": results_csv(study.runs, study.groups),
        "comparisons.csv": comparisons_csv(study.comparisons),
    }
    tables = [table for section in document.sections for table in section.tables]
    texts |= {f"tables/{_file_name(table.title)}.tex": to_latex(table) for table in tables}
    figures = {figure.name for section in document.sections for figure in section.figures}
    _remove_others(folder, {*texts, *(f"figures/{name}.{kind}" for name in figures for kind in ("png", "svg"))})
    for name, text in texts.items():
        write_text(folder / name, text)
    return document


def read_study(path: Path) -> Study:
    """Read the runs at or below `path`, group them, compare what was varied and judge what was expected."""
    runs, studies = load_runs(path), read_studies(path)
    missing = without_result(runs, studies)
    if not runs and not missing:
        raise UsageError(f"there are no runs at or below {path}: give a run, a phase folder or multirun")
    labels = labels_of(runs, *studies)
    groups = group_runs(runs, labels)
    factors, leaf, rows = find_factors(groups, labels), leaf_of(groups), read_expectations(runs, studies)
    comparisons = correct(_compare(groups, factors, rows, leaf))
    return Study(
        runs=runs,
        missing=missing,
        groups=groups,
        factors=factors,
        leaf=leaf,
        comparisons=comparisons,
        verdicts=[judge(row, groups, comparisons) for row in rows],
    )


def compose(study: Study, name: str, figures: Mapping[str, Sequence[Figure]]) -> Document:
    """Return the document on a study: headlines first, then the sections that have something to say."""
    groups, comparisons = study.groups, study.comparisons
    headlines = write_headlines(
        study.runs, study.missing, groups, study.factors, comparisons, study.verdicts, study.leaf
    )
    num_tests = len({pair_of(one) for one in comparisons if one.difference is not None})
    sentences = [line for line in say_findings(study.factors, comparisons) if line not in headlines]
    by_factor = list(figures.get("factors", ()))
    parts: list[Section | None] = [
        sections.jobs_section(study.runs, study.missing, groups),
        sections.results_section(groups, study.leaf, figures),
        denoising_section(groups, figures),
        sections.comparisons_section(comparisons, sentences),
        sections.expectations_section(study.verdicts) if study.verdicts else None,
        Section(title="By factor", figures=by_factor) if by_factor else None,
        sections.steps_section(groups, figures),
        sections.connections_section(groups, figures),
        sections.cost_section(groups, figures),
        sections.failures_section(study.missing, damaged(study.runs)),
        sections.method_section(num_tests),
    ]
    return Document(title=f"Report: {name}", headlines=headlines, sections=[part for part in parts if part])


def _compare(
    groups: Sequence[Group], factors: Sequence[Factor], rows: Sequence[Mapping[str, Any]], leaf: str
) -> list[Comparison]:
    leaves = {leaf, "avg_reasoning_steps", *(str(row.get("metric", "")).rpartition("/")[2] for row in rows)}
    answers = read_answers(groups, sorted(leaves - {""}))
    found = compare_factors(factors, leaf, answers)
    known = {pair_of(one) for one in found}
    return [*found, *(one for one in compare_expected(rows, groups, answers) if pair_of(one) not in known)]


def _file_name(title: str) -> str:
    return re.sub(r"\W+", "_", title.lower()).strip("_")


def _remove_others(folder: Path, kept: set[str]) -> None:
    """Take away the drawings and tables of an earlier report that this one does not have."""
    for pattern in ("figures/*.png", "figures/*.svg", "tables/*.tex"):
        for path in folder.glob(pattern):
            if path.relative_to(folder).as_posix() not in kept:
                path.unlink()
