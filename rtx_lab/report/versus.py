"""Two sides in full: what differs in their settings, what they reached, and where they answer differently.

A is the left side and B the right one; a difference is B minus A.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import write_text
from rtx_lab.report.document import Document, Section, Table
from rtx_lab.report.findings import Comparison, compare_pair, correct, pair_of
from rtx_lab.report.groups import Group
from rtx_lab.report.markdown import to_markdown
from rtx_lab.report.outcomes import short
from rtx_lab.report.pairing import Answers, column_of, read_answers
from rtx_lab.report.runs import Run
from rtx_lab.report.settings import flatten, title, value_text
from rtx_lab.report.wording import limit_text, number, probability, words

LEAVES = ("accuracy", "f1", "loss", "avg_reasoning_steps")
"""What is compared item by item where the predictions hold it."""

_SIDES = ("A", "B")
_MOST_NAMED = 6
"""Settings that a sentence names; the table has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Versus:
    """Two sides and what their comparison says; `compared` is corrected for `num_tests` tests."""

    left: Group
    right: Group
    compared: list[Comparison]
    answers: Answers
    num_tests: int


def side_of(run: Run) -> Group:
    """Return one run as a side of its own."""
    return Group(short(run.name), {}, (run,), flatten(run.config))


def compare_sides(left: Group, right: Group, leaf: str, others: Sequence[Comparison]) -> Versus:
    """Compare two sides on the metric `leaf` and on all others that their predictions hold.

    The tests are corrected together with those of the study, `others`: a pair is mostly picked after seeing them.
    Raises UsageError for sides that share a run, have no finished one, or did not answer the same items.
    """
    shared = {run.name for run in left.runs} & {run.name for run in right.runs}
    if shared:
        raise UsageError(f"{min(shared)} stands on both sides: name two that differ")
    for side in (left, right):
        if not side.done:
            raise UsageError(
                f"{side.label} has no finished run (status {side.runs[0].status}): nothing can be compared"
            )
    leaves = tuple(dict.fromkeys((leaf, *LEAVES)))
    answers = read_answers([left, right], leaves)
    sides = [answers[run.name] for group in (left, right) for run in group.done]
    present = [name for name in leaves if all(column_of(name) in items.columns for items in sides)]
    found = [compare_pair(left, right, name, answers) for name in present or [leaf]]
    if all(one.difference is None for one in found):
        raise UsageError(f"the two cannot be compared: {found[0].reason}")
    corrected = correct([*others, *found])
    num_tests = len({pair_of(one) for one in corrected if one.difference is not None})
    return Versus(left=left, right=right, compared=corrected[len(others) :], answers=answers, num_tests=num_tests)


def write_versus(folder: Path, versus: Versus) -> Path:
    """Write the comparison into a report's `folder` as compare-<a>-<b>.md, which no other report touches; return it."""
    path = folder / f"compare-{_stem(versus.left)}-{_stem(versus.right)}.md"
    write_text(path, to_markdown(compose_versus(versus)))
    return path


def say_versus(versus: Versus) -> list[str]:
    """Return what the comparison says in plain words, the metric of the study first."""
    told = [_say(one) for one in versus.compared if one.difference is not None]
    return [_say_settings(versus), *told, _say_seeds(len(versus.left.done), len(versus.right.done))]


def compose_versus(versus: Versus) -> Document:
    """Return the document on two sides."""
    left, right = versus.left, versus.right
    names = (left.label, right.label) if left.label != right.label else (left.runs[0].name, right.runs[0].name)
    tables = [
        _sides_table(left, right),
        _settings_table(left, right),
        _differences_table(versus.compared),
        _numbers_table(left, right),
        _kinds_table(left, right),
        _agreement_table(left, right, versus.answers),
    ]
    method = Section(
        title="How this was computed",
        paragraphs=[
            "Both sides answered the same test items; a difference is B minus A, item by item.",
            "The p values are corrected by Holm's method together with the tests of the whole study, "
            f"{versus.num_tests} in all: a pair that is picked from many differs by chance more easily.",
        ],
    )
    found = Section(title="In numbers", tables=[table for table in tables if table.rows])
    return Document(title=f"{names[0]} against {names[1]}", headlines=say_versus(versus), sections=[found, method])


def _say(one: Comparison) -> str:
    found = one.difference
    if found is None:
        return ""
    key, name = f"test/{one.leaf}", words(one.leaf)
    both = f"A {number(one.left.mean(key))}, B {number(one.right.mean(key))}"
    tail = (
        f"{both}; B - A = {found.difference:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f}, "
        f"corrected {probability(one.p)}; {found.method}, {found.num_items} items"
    )
    if one.shown:
        more = "higher" if found.difference > 0 else "lower"
        return f"{name[0].upper()}{name[1:]} is {number(abs(found.difference))} {more} for B than for A ({tail})."
    limit = f" The smallest that could have been shown: {limit_text(one.leaf, one.detectable)}." * bool(one.detectable)
    return f"No difference in {name} can be shown ({tail}).{limit}"


def _say_settings(versus: Versus) -> str:
    rows = _settings_table(versus.left, versus.right).rows
    if not rows:
        return "A and B have the same settings."
    parts = [f"{key} ({one} against {other})" for key, one, other in rows[:_MOST_NAMED]]
    more = f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else ""
    return f"A and B differ in {', '.join(parts)}{more}."


def _say_seeds(left: int, right: int) -> str:
    if left == right == 1:
        return "One seed a side: this speaks of two trained models, not of the settings."
    return f"{left} seeds a side." if left == right else f"Seeds: {left} for A, {right} for B."


def _stem(side: Group) -> str:
    """The signature of a single run, else the words of the setting, as part of a file name."""
    if len(side.runs) == 1:
        name = side.runs[0].path.name
        return name.removeprefix(short(name)).lstrip("-") or name
    text = re.sub(r"[^\w=.+-]+", "_", side.label).strip("_")
    return text if len(text.encode()) <= 80 else f"{text[:20]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _sides_table(left: Group, right: Group) -> Table:
    rows = [
        [name, side.label, ", ".join(run.name for run in side.runs)]
        for name, side in zip(_SIDES, (left, right), strict=True)
    ]
    return Table(title="The two sides", columns=("side", "setting", "runs"), rows=rows)


def _settings_table(left: Group, right: Group) -> Table:
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
    return Table(title="Settings that differ", columns=("setting", *_SIDES), rows=rows)


def _seeds(group: Group) -> str:
    return ", ".join(str(run.seed) for run in group.done)


def _differences_table(compared: Sequence[Comparison]) -> Table:
    columns = ("metric", "B - A", "95 % interval", "p", "corrected p", "could be shown", "test")
    rows = [
        [
            *(one.leaf, f"{found.difference:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}"),
            *(_short(found.p), _short(one.p), limit_text(one.leaf, one.detectable), found.method),
        ]
        for one in compared
        if (found := one.difference) is not None
    ]
    numeric = frozenset({"B - A", "p", "corrected p", "could be shown"})
    return Table(title="Differences", columns=columns, rows=rows, numeric=numeric)


def _short(p: float) -> str:
    return probability(p).removeprefix("p ").removeprefix("= ")


def _numbers_table(left: Group, right: Group) -> Table:
    keys = ["test/n", "test/accuracy", "test/f1", "test/exact_match", "test/loss", "test/avg_reasoning_steps"]
    keys += ["validation/accuracy", "parameters", "time_s", "predicted_peak_memory_gb", "peak_memory_gb", "energy_kwh"]
    rows = _rows(left, right, keys)
    return Table(title="Numbers", columns=("metric", *_SIDES), rows=rows, numeric=frozenset(_SIDES))


def _kinds_table(left: Group, right: Group) -> Table:
    keys = [
        key
        for key in left.done[0].result["metrics"]
        if key.startswith(("test/difficulty/", "test/family/")) and key.endswith("/accuracy")
    ]
    rows = _rows(left, right, keys)
    return Table(title="Accuracy by kind of item", columns=("kind", *_SIDES), rows=rows, numeric=frozenset(_SIDES))


def _rows(left: Group, right: Group, keys: Sequence[str]) -> list[list[str]]:
    rows = []
    for key in keys:
        means = left.mean(key), right.mean(key)
        if means != (None, None):
            whole = all(mean is None or mean == int(mean) for mean in means)
            rows.append([key.removesuffix("/accuracy") if key.count("/") > 1 else key,
                         *(number(mean, 0 if whole else 4) for mean in means)])  # fmt: skip
    return rows


def _agreement_table(left: Group, right: Group, answers: Answers) -> Table:
    """Shares of the items, as a mean over all pairs of seeds."""
    columns = ("who is right", "share of items")
    if any(answers[run.name].texts for run in (*left.done, *right.done)):  # shares of tokens, not right or wrong
        return Table(title="Right answers", columns=columns, rows=[])
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
            return Table(title="Right answers", columns=columns, rows=[])
        for one, other in zip(first, second, strict=True):
            cells[one > 0, other > 0] += 1 / len(first) / len(pairs)
    labels = ("both", "only A", "only B", "neither")
    rows = [[label, number(share)] for label, share in zip(labels, cells.values(), strict=True)]
    return Table(title="Right answers", columns=columns, rows=rows, numeric=frozenset({"share of items"}))
