"""Two sides in full: what differs in their settings, what they reached, and where they answer differently."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from rtx_lab.core.errors import UsageError
from rtx_lab.report.document import Section, Table
from rtx_lab.report.findings import Comparison, compare_pair
from rtx_lab.report.groups import Group
from rtx_lab.report.outcomes import short
from rtx_lab.report.pairing import Answers, column_of, read_answers
from rtx_lab.report.runs import Run
from rtx_lab.report.settings import flatten, title, value_text
from rtx_lab.report.wording import limit_text, number, probability, seeds_words, words

LEAVES = ("accuracy", "f1", "loss", "avg_reasoning_steps")
"""What is compared item by item where the predictions hold it."""


def find_side(name: str, runs: Sequence[Run], groups: Sequence[Group]) -> Group:
    """Return the group of this label, or the run of this name or folder as a group of its own.

    Raises UsageError with the nearest name when there is none, and for a run that did not finish.
    """
    found = [group for group in groups if group.label == name]
    folder = Path(name).resolve()
    for run in runs:
        if name.rstrip("/") in (run.name, run.path.name, short(run.name), short(run.path.name)) or folder == run.path:
            found.append(Group(short(run.name), {}, (run,), flatten(run.config)))
    if not found:
        known = [group.label for group in groups] + [run.path.name for run in runs] + [short(run.name) for run in runs]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}?" if near else "name a run directory or a setting as the report writes it"
        raise UsageError(f"there is no run and no setting {name!r} here: {hint}")
    if len(found) > 1 and found[0].label != name:
        raise UsageError(f"{len(found)} runs are named {name!r}: give the folder of one of them")
    if not found[0].done:
        raise UsageError(f"{name!r} has no finished run (status {found[0].runs[0].status}): nothing can be compared")
    return found[0]


def compare_sides(left: Group, right: Group, leaf: str) -> tuple[list[Comparison], Answers]:
    """Return the comparisons of two sides, uncorrected, and their answers. Raises UsageError when they are no pair."""
    leaves = tuple(dict.fromkeys((leaf, *LEAVES)))
    answers = read_answers([left, right], leaves)
    sides = [answers[run.name] for group in (left, right) for run in group.done]
    present = [name for name in leaves if all(column_of(name) in items.columns for items in sides)]
    compared = [compare_pair(left, right, name, answers) for name in present or [leaf]]
    if all(one.difference is None for one in compared):
        raise UsageError(f"the two cannot be compared: {compared[0].reason}")
    return compared, answers


def versus_section(left: Group, right: Group, compared: Iterable[Comparison], answers: Answers) -> Section:
    """Return the section on two sides; `compared` is corrected."""
    sentences = [_say(one) for one in compared if one.difference is not None]
    names = _names(left, right)
    tables = [_settings_table(left, right, names), _numbers_table(left, right, names), _kinds_table(left, right, names)]
    tables.append(_agreement_table(left, right, names, answers))
    return Section(
        title=f"{names[0]} against {names[1]}", paragraphs=sentences, tables=[table for table in tables if table.rows]
    )


def _names(left: Group, right: Group) -> tuple[str, str]:
    return (left.label, right.label) if left.label != right.label else (left.runs[0].name, right.runs[0].name)


def _say(one: Comparison) -> str:
    found = one.difference
    if found is None:
        return ""
    tail = f"(95 % interval {found.low:+.3f} to {found.high:+.3f}, corrected {probability(one.p)}, {seeds_words(one)})"
    if one.shown:
        return f"{one.right.label} has {found.difference:+.3f} in {words(one.leaf)} {tail}."
    limit = (
        f" The smallest that could have been shown: {limit_text(one.leaf, one.detectable)}." if one.detectable else ""
    )
    return f"No difference in {words(one.leaf)} can be shown: {found.difference:+.3f} {tail}.{limit}"


def _settings_table(left: Group, right: Group, names: tuple[str, str]) -> Table:
    keys = sorted({*left.settings, *right.settings})
    rows = [
        [
            title(key) if key in ("model", "dataset") else key,
            *(value_text(side.settings.get(key)) for side in (left, right)),
        ]
        for key in keys
        if left.settings.get(key) != right.settings.get(key)
    ]
    rows += [["seed", _seeds(left), _seeds(right)]] if _seeds(left) != _seeds(right) else []
    return Table(title="Settings that differ", columns=("setting", *names), rows=rows)


def _seeds(group: Group) -> str:
    return ", ".join(str(run.seed) for run in group.done)


def _numbers_table(left: Group, right: Group, names: tuple[str, str]) -> Table:
    keys = ["test/n", "test/accuracy", "test/f1", "test/exact_match", "test/loss", "test/avg_reasoning_steps"]
    keys += ["validation/accuracy", "parameters", "time_s", "predicted_peak_memory_gb", "peak_memory_gb", "energy_kwh"]
    rows = _rows(left, right, keys)
    return Table(title="Numbers", columns=("metric", *names), rows=rows, numeric=frozenset(names))


def _kinds_table(left: Group, right: Group, names: tuple[str, str]) -> Table:
    keys = [
        key
        for key in left.done[0].result["metrics"]
        if key.startswith(("test/difficulty/", "test/family/")) and key.endswith("/accuracy")
    ]
    return Table(
        title="Accuracy by kind of item",
        columns=("kind", *names),
        rows=_rows(left, right, keys),
        numeric=frozenset(names),
    )


def _rows(left: Group, right: Group, keys: Sequence[str]) -> list[list[str]]:
    rows = []
    for key in keys:
        means = left.mean(key), right.mean(key)
        if means != (None, None):
            whole = all(mean is None or mean == int(mean) for mean in means)
            rows.append([key.removesuffix("/accuracy") if key.count("/") > 1 else key,
                         *(number(mean, 0 if whole else 4) for mean in means)])  # fmt: skip
    return rows


def _agreement_table(left: Group, right: Group, names: tuple[str, str], answers: Answers) -> Table:
    """Shares of the items, as a mean over all pairs of seeds."""
    pairs = [
        (answers[one.name].columns.get("correct"), answers[other.name].columns.get("correct"))
        for one in left.done
        for other in right.done
    ]
    cells: dict[tuple[bool, bool], float] = dict.fromkeys(
        ((True, True), (True, False), (False, True), (False, False)), 0.0
    )
    for first, second in pairs:
        if first is None or second is None:
            return Table(title="Right answers", columns=("who is right", "share of items"), rows=[])
        for one, other in zip(first, second, strict=True):
            cells[one > 0, other > 0] += 1 / len(first) / len(pairs)
    labels = ("both", f"only {names[0]}", f"only {names[1]}", "neither")
    rows = [[label, number(share)] for label, share in zip(labels, cells.values(), strict=True)]
    return Table(
        title="Right answers",
        columns=("who is right", "share of items"),
        rows=rows,
        numeric=frozenset({"share of items"}),
    )
