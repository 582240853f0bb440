"""Two groups over the same test items: read what every seed answered, refuse what is no pair, compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtx_lab.report.groups import Group
from rtx_lab.report.runs import Run, is_number

if TYPE_CHECKING:
    from rtx_lab.scoring.comparisons import Difference

_COLUMNS = {"accuracy": "correct", "loss": "nll", "avg_reasoning_steps": "steps"}
"""Which key of a prediction a metric averages, where it is not the metric's own name."""


@dataclass(frozen=True, slots=True)
class Items:
    """The test items of one run in order of their id: what was asked and what each answer scored."""

    ids: tuple[str, ...]
    gold: tuple[str, ...]
    columns: dict[str, tuple[float, ...]]


Answers = dict[str, Items]
"""By the name of a run."""


def read_answers(groups: Iterable[Group], leaves: Sequence[str]) -> Answers:
    """Read the predictions of all finished runs once, of each only what the metrics `leaves` need."""
    keys = {column_of(leaf) for leaf in leaves} | {"num_tokens"}
    return {run.name: _read(run, sorted(keys)) for group in groups for run in group.done}


def column_of(leaf: str) -> str:
    """Return the key of a prediction whose mean is the metric: `accuracy` -> `correct`."""
    return _COLUMNS.get(leaf, leaf)


def lower_is_better(leaf: str) -> bool:
    """Return whether a small value of a metric is the better one."""
    return leaf.endswith(("loss", "perplexity", "time_s", "memory_gb", "energy_kwh"))


def compare(left: Group, right: Group, leaf: str, answers: Answers) -> Difference | str:
    """Return right minus left on the metric `leaf`, or one sentence that says why the two cannot be paired."""
    from rtx_lab.scoring.comparisons import compare_correct, compare_values

    column = column_of(leaf)
    sides = [[answers[run.name] for run in group.done if run.name in answers] for group in (left, right)]
    problem = _why_not(left, right, sides, column)
    if problem:
        return problem
    left_scores, right_scores = ([items.columns[column] for items in side] for side in sides)
    if column == "correct":
        return compare_correct(left_scores, right_scores)
    if column != "nll":
        return compare_values(left_scores, right_scores)
    tokens = {items.columns.get("num_tokens") for side in sides for items in side}
    weight = tokens.pop() if len(tokens) == 1 else None
    if weight is None:
        return f"{left.label} and {right.label} count tokens differently"
    left_rates, right_rates = (_rates(scores, weight) for scores in (left_scores, right_scores))
    return compare_values(left_rates, right_rates, weight)


def _rates(scores: Sequence[Sequence[float]], weight: Sequence[float]) -> list[list[float]]:
    return [[score / tokens if tokens else 0.0 for score, tokens in zip(one, weight, strict=True)] for one in scores]


def _why_not(left: Group, right: Group, sides: Sequence[Sequence[Items]], column: str) -> str:
    for group, side in zip((left, right), sides, strict=True):
        if not side:
            return f"{group.label} has no finished run"
        for run, items in zip(group.done, side, strict=False):
            if not items.ids:
                return f"{run.name} has no predictions"
            if column not in items.columns:
                return f"not every prediction of {run.name} has {column!r}"
    if len({items.ids for side in sides for items in side}) > 1:
        return f"{left.label} and {right.label} did not answer the same items"
    if len({items.gold for side in sides for items in side}) > 1:
        return f"{left.label} and {right.label} were held against different right answers"
    return ""


def _read(run: Run, keys: Sequence[str]) -> Items:
    records = run.predictions()
    ids = tuple(sorted(records))
    ordered = [records[name] for name in ids]
    columns = {}
    for key in keys:
        values = [record.get(key) for record in ordered]
        if values and all(is_number(value) or isinstance(value, bool) for value in values):
            columns[key] = tuple(float(value) for value in values if value is not None)
    return Items(ids, tuple(str(record.get("gold")) for record in ordered), columns)
