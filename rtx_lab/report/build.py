"""The report of a study: a pure function of its run directories, byte for byte the same when written again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import write_text
from rtx_lab.report import batch_study, experiment_summary, sections
from rtx_lab.report.batch_arms import BatchStudy, find_batch_studies, is_untrained
from rtx_lab.report.batch_tests import compare_scores
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
from rtx_lab.report.lineage import join_seeds
from rtx_lab.report.markdown import to_markdown
from rtx_lab.report.memory_arms import find_memory_studies
from rtx_lab.report.memory_figures import draw_memory
from rtx_lab.report.memory_table import CSV as MEMORY_CSV
from rtx_lab.report.memory_table import memory_sections, memory_texts
from rtx_lab.report.memory_tests import JudgedMemory, compare_arms, judge_lines, read_lines, say_stages
from rtx_lab.report.outcomes import Outcome, damaged, read_expectations, read_studies, without_result
from rtx_lab.report.pairing import read_answers
from rtx_lab.report.runs import Run, load_runs, study_of
from rtx_lab.report.summaries import find_experiments, summaries_section


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
    batches: list[batch_study.Judged]
    memories: list[JudgedMemory]


def write_report(path: Path) -> Path:
    """Write `<path>/report/` from the runs at or below `path` and return that folder.

    It holds report.md, report.html, results.csv, comparisons.csv, figures/ and tables/, for a batch study the files of
    `rtx_lab.report.batch_study` and for a phase with stages those of `experiment_summary`; what else lies there, as the
    files of `versus.write_versus`, stays. Raises UsageError without any run.
    """
    build_report(path)
    return path / "report"


def build_report(path: Path) -> Document:
    """Write the report as `write_report` does and return what it says."""
    study, folder = read_study(path), path / "report"
    figures = draw(study.runs, study.groups, study.factors, folder) | batch_study.draw_batches(study.batches, folder)
    figures |= draw_memory(study.memories, folder)
    document = compose(study, path.resolve().name, figures)
    texts = {
        "report.md": to_markdown(document),
        "report.html": render(document, folder),
        "results.csv": results_csv(study.runs, study.groups),
        "comparisons.csv": comparisons_csv(study.comparisons),
        **batch_study.batch_texts(study.batches, figures),
        **memory_texts(study.memories),
        **experiment_summary.summary_texts(study_of(path), study.runs, study.missing),
    }
    tables = [table for section in document.sections for table in section.tables]
    texts |= {f"tables/{_file_name(table.title)}.tex": to_latex(table) for table in tables}
    batch_study.copy_pictures(study.batches, folder)
    drawn = {figure.name for section in document.sections for figure in section.figures}
    _remove_others(folder, {*texts, *(f"figures/{name}.{kind}" for name in drawn for kind in ("png", "svg"))})
    for name, text in texts.items():
        write_text(folder / name, text)
    return document


def read_study(path: Path) -> Study:
    """Read the runs at or below `path`, group them, compare what was varied and judge what was expected."""
    runs, studies = join_seeds(load_runs(path)), read_studies(path)
    missing = without_result(runs, studies)
    if not runs and not missing:
        raise UsageError(f"there are no runs at or below {path}: give a run, a phase folder or multirun")
    labels = labels_of(runs, *studies)
    groups = group_runs([run for run in runs if not is_untrained(run)], labels)
    untrained = group_runs([run for run in runs if is_untrained(run)], labels)
    batches = find_batch_studies([*groups, *untrained], labels)
    stages = {str(stage) for one in studies for stage in one.get("stages") or []}
    memories = [read_lines(one) for one in find_memory_studies(groups, stages)]
    factors = [*find_factors(groups, labels), *find_experiments(groups, labels)]
    leaf, rows = leaf_of(groups), read_expectations(runs, studies)
    comparisons = correct(_compare(groups, factors, rows, leaf, batches, memories))
    return Study(
        runs=runs,
        missing=missing,
        groups=groups,
        factors=factors,
        leaf=leaf,
        comparisons=comparisons,
        verdicts=[judge(row, groups, comparisons) for row in rows],
        batches=batch_study.judge_studies(batches, comparisons),
        memories=judge_lines(memories, comparisons),
    )


def compose(study: Study, name: str, figures: Mapping[str, Sequence[Figure]]) -> Document:
    """Return the document on a study: headlines first, then the sections that have something to say."""
    groups, comparisons = study.groups, study.comparisons
    headlines = write_headlines(
        study.runs, study.missing, groups, study.factors, comparisons, study.verdicts, study.leaf
    )
    headlines += say_stages(study.memories)
    num_tests = len({pair_of(one) for one in comparisons if one.difference is not None})
    sentences = [line for line in say_findings(study.factors, comparisons) if line not in headlines]
    by_factor = list(figures.get("factors", ()))
    parts: list[Section | None] = [
        sections.jobs_section(study.runs, study.missing, groups),
        *memory_sections(study.memories, figures),
        sections.results_section(groups, study.leaf, figures),
        *batch_study.batch_sections(study.batches, figures),
        summaries_section(groups, figures),
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
    groups: Sequence[Group],
    factors: Sequence[Factor],
    rows: Sequence[Mapping[str, Any]],
    leaf: str,
    batches: Sequence[BatchStudy],
    memories: Sequence[JudgedMemory],
) -> list[Comparison]:
    leaves = {
        leaf,
        *(study.leaf for study in batches),
        *(("accuracy",) if memories else ()),
        "avg_reasoning_steps",
        *(str(row.get("metric", "")).removeprefix("test/") for row in rows),
    }
    answers = read_answers(groups, sorted(leaves - {""}))
    found = compare_factors(factors, leaf, answers)
    planned = compare_scores(batches, answers), compare_arms(memories, answers)
    for more in (*planned, compare_expected(rows, groups, answers)):
        known = {pair_of(one) for one in found}
        found += [one for one in more if pair_of(one) not in known]
    return found


def _file_name(title: str) -> str:
    return re.sub(r"\W+", "_", title.lower()).strip("_")


def _remove_others(folder: Path, kept: set[str]) -> None:
    """Take away the drawings, tables and further texts of an earlier report that this one does not have."""
    others = (batch_study.MARKDOWN, batch_study.CSV, MEMORY_CSV, experiment_summary.TEXT, experiment_summary.DATA)
    for pattern in ("figures/*.png", "figures/*.svg", "tables/*.tex", *others):
        for path in folder.glob(pattern):
            if path.relative_to(folder).as_posix() not in kept:
                path.unlink()
