"""What a report says of a latent-memory study: one table over stages and controls, what LTPO moved, what it cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

from rtx_lab.report.document import Figure, Section, Table
from rtx_lab.report.groups import Group
from rtx_lab.report.lineage import ARROW
from rtx_lab.report.memory_arms import chain_of, trains
from rtx_lab.report.memory_tests import JudgedMemory, Line, gap_of, points, say_controls, say_stages
from rtx_lab.report.wording import number, probability

CSV = "memory_table.csv"
TITLE = "Latent memory"

_ANSWERS = (
    "Accuracy: the last number of the answer is the right one; strict: only the number behind `####` or in a box "
    "counts. In brackets 95 % intervals; of a mean: Wilson over the items or Student's t over the seeds, the wider. "
    "Difference: this line minus the one it is held against, in points of accuracy, over the same items, McNemar's "
    "exact test, p corrected by Holm's method over the whole report. A stage is held against the stage before, a "
    "control against the stage that it controls. Right to wrong: right there, wrong here; mean over seeds. Inserted: "
    "share of the decisions that inserted latents. Latents, tokens, seconds: per answer. Cut: stopped by a limit."
)
_COLUMNS = (
    "setting", "seeds", "accuracy", "strict", "against", "difference", "p", "right to wrong", "wrong to right",
    "inserted", "latents", "tokens", "seconds", "cut",
)  # fmt: skip
_NUMERIC = frozenset({*_COLUMNS} - {"setting", "against"})
_SCALARS = (
    "test/n", "test/accuracy", "test/accuracy_low", "test/accuracy_high", "test/accuracy_strict",
    "test/accuracy_strict_low", "test/accuracy_strict_high", "test/latents_per_answer", "test/tokens_per_answer",
    "test/seconds_per_answer", "test/share_cut", "predicted_peak_memory_gb", "peak_memory_gb", "time_s",
)  # fmt: skip


def memory_sections(judged: Sequence[JudgedMemory], figures: Mapping[str, Sequence[Figure]]) -> list[Section]:
    """Return one section for each study: what each part adds in words, then the tables and drawings."""
    sections = []
    for place, one in enumerate(judged):
        tables = [_answers_table(one), _movement_table(one), _stages_table(one)]
        if len(judged) > 1:  # the files of the tables are named by their titles
            tables = [replace(table, title=f"{table.title}, {name_of(judged, place)}") for table in tables]
        sections.append(
            Section(
                title=name_of(judged, place),
                paragraphs=[*say_stages([one]), *say_controls(one)],
                tables=[table for table in tables if table.rows],
                figures=list(figures.get(name_of(judged, place), ())),
            )
        )
    return sections


def memory_texts(judged: Sequence[JudgedMemory]) -> dict[str, str]:
    """Return the table over stages and controls in full precision by file name; nothing without a study."""
    if not judged:
        return {}
    columns = ["study", "arm", "setting", "phase", "weights", "problem", "seeds"]
    columns += [key.removeprefix("test/") for key in _SCALARS]
    columns += ["against", "difference", "difference_low", "difference_high", "p", "p_holm", "right_to_wrong"]
    columns += ["wrong_to_right", "insertion_rate", "ltpo_first", "ltpo_best", "ltpo_gain", "ltpo_gain_low"]
    columns += ["ltpo_gain_high", "ltpo_moved", "ltpo_steps"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for place, one in enumerate(judged):
        for line in one.lines:
            row = [name_of(judged, place), *_csv_row(line)]
            writer.writerow(["" if cell is None else cell for cell in row])
    return {CSV: text.getvalue()}


def name_of(judged: Sequence[JudgedMemory], place: int) -> str:
    """Return the heading of a study, with its model and data where there are several."""
    study = judged[place].study
    return TITLE if len(judged) == 1 else f"{TITLE} {place + 1}: {study.model} on {study.dataset}"


def _answers_table(judged: JudgedMemory) -> Table:
    rows = [[line.arm.label, *_measured(line), *_tested(line), *_costs(line)] for line in judged.lines]
    measured = [line.arm.group for line in judged.lines if line.arm.group is not None]
    counts = sorted({number(items, 0) for group in measured if (items := group.mean("test/n")) is not None})
    note = f"{_ANSWERS} Test items: {', '.join(counts) or 'none'}."
    return Table(title="Stages and controls", columns=_COLUMNS, rows=rows, note=note, numeric=_NUMERIC)


def _measured(line: Line) -> list[str]:
    group = line.arm.group
    if group is None or not line.arm.is_measured:
        return ["-" if group is None else _seeds(group), line.arm.problem, "-"]
    span = group.interval("test/accuracy")
    score = number(group.mean("test/accuracy")) + (f" [{number(span[0])}, {number(span[1])}]" if span else "")
    return [_seeds(group), score, number(group.mean("test/accuracy_strict"))]


def _tested(line: Line) -> list[str]:
    if line.against is None:
        return ["-"] * 5
    missing = "" if line.against.is_measured else " (missing)"
    gap, change = gap_of(line), line.turned
    told = ["-", "-"]
    if gap is not None and line.test is not None:
        p = probability(line.test.p).removeprefix("p ").removeprefix("= ")
        told = [f"{points(gap[0])} [{points(gap[1])}, {points(gap[2])}]", p]
    turned = [_count(change and change.right_to_wrong), _count(change and change.wrong_to_right)]
    return [f"{line.against.label}{missing}", *told, *turned]


def _costs(line: Line) -> list[str]:
    group = line.arm.group
    if group is None or not line.arm.is_measured:
        return ["-"] * 5
    cells = [number(line.rate, 2), number(group.mean("test/latents_per_answer"), 1)]
    cells += [number(group.mean("test/tokens_per_answer"), 1), number(group.mean("test/seconds_per_answer"), 3)]
    return [*cells, number(group.mean("test/share_cut"), 3)]


def _seeds(group: Group) -> str:
    done, total = len(group.done), len(group.runs)
    return str(done) if done == total else f"{done} of {total}"


def _count(value: float | None) -> str:
    return number(value, 0 if value is None or value == int(value) else 1)


def _movement_table(judged: JudgedMemory) -> Table:
    columns = ("setting", "answers", "reward before", "after", "gain", "95 % of gain", "moved", "steps", "changed")
    rows = []
    for line in judged.lines:
        found = line.moved
        if found is None:
            continue
        span = "-" if found.gain_span is None else " to ".join(f"{bound:+.3f}" for bound in found.gain_span)
        cells = [line.arm.label, str(found.num_answers), number(found.first), number(found.best), f"{found.gain:+.3f}"]
        rows.append([*cells, span, number(found.moved), number(found.steps, 1), number(line.changed)])
    note = (
        "Reward as the objective defines it, mean over the insertions of an answer, before the first step and of the "
        "latents that were kept; moved: the length of their change, in lengths of the latents. Changed: share of the "
        "items whose answer is another text than without LTPO."
    )
    numeric = frozenset({*columns} - {"setting", "95 % of gain"})
    return Table(title="What LTPO moved", columns=columns, rows=rows, note=note, numeric=numeric)


def _stages_table(judged: JudgedMemory) -> Table:
    """One line for each phase: peak memory, forecast and measured, and how long its runs took."""
    phases: dict[str, list[Group]] = {}
    for group in judged.study.groups:
        phases.setdefault(str(group.settings.get("phase")), []).append(group)
    rows = []
    for phase in sorted(phases, key=lambda name: (_depth(phases[name]), name)):
        members = phases[phase]
        told, seen, spent = (
            [value for group in members for value in group.values(key)]
            for key in ("predicted_peak_memory_gb", "peak_memory_gb", "time_s")
        )
        runs = [run for group in members for run in group.runs]
        done = sum(run.status == "done" for run in runs)
        peaks = [number(max(told, default=None), 2), number(max(seen, default=None), 2)]
        minutes = [sum(spent) / 60, max(spent) / 60] if spent else [None, None]
        rows.append([phase, f"{done} of {len(runs)}", *peaks, *(number(one, 1) for one in minutes)])
    columns = ("stage", "runs done", "peak predicted (GB)", "peak measured (GB)", "minutes, all runs", "longest run")
    note = "The largest peak of the stage's finished runs; GB are 2^30 bytes."
    numeric = frozenset(columns[2:])
    return Table(title="Memory and time by stage", columns=columns, rows=rows, note=note, numeric=numeric)


def _depth(groups: Sequence[Group]) -> tuple[int, bool]:
    """How many phases trained before this one; training before evaluation."""
    first = groups[0].settings
    return min(len(chain_of(group)) for group in groups), not trains(first)


def _csv_row(line: Line) -> list[object]:
    arm, group = line.arm, line.arm.group
    phase = group.settings.get("phase") if group else None
    cells: list[object] = [arm.kind, arm.label, phase, ARROW.join(arm.chain), arm.problem]
    cells.append(len(group.done) if group else 0)
    cells += [group.mean(key) if group else None for key in _SCALARS]
    gap, test = gap_of(line), line.test
    cells += [line.against.label if line.against else None, *(gap or (None, None, None))]
    cells += [test.difference.p, test.p] if test is not None and test.difference is not None else [None, None]
    cells += [line.turned.right_to_wrong, line.turned.wrong_to_right] if line.turned else [None, None]
    cells.append(line.rate)
    moved = line.moved
    if moved is None:
        return [*cells, *[None] * 6]
    return [*cells, moved.first, moved.best, moved.gain, *(moved.gain_span or (None, None)), moved.moved, moved.steps]
