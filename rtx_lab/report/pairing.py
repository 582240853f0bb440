"""Two groups over the same test items: read what every seed answered, refuse what is no pair, compare.

Denoisers answer a text once for each share of hidden tokens. These records must be the same on both sides, but they are
no independent draws: a text with all its records is one item, as in the intervals of `rtx_lab.scoring.denoising`.
A metric of a part of the records, as `mask/50/accuracy`, is compared over these alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rtx_lab.report.groups import Group
from rtx_lab.report.runs import Run, is_number

if TYPE_CHECKING:
    from rtx_lab.scoring.comparisons import Difference

_COLUMNS = {
    "accuracy": "correct", "loss": "nll", "avg_reasoning_steps": "steps",
    "class_accuracy": "class_correct", "class_loss": "class_nll",
}  # fmt: skip
"""Which key of a prediction a metric averages, where it is not the metric's own name."""

_OF_A_PART = re.compile(r"(mask/\d+|fixed/\d+)/(\w+)")
_CLASS = "class"
"""Metrics of the classes of whole texts begin so; their records say `"part": "class"`."""


@dataclass(frozen=True, slots=True)
class Items:
    """The test items of one run in order of their id: what was asked and what each answer scored.

    `texts` names for each record of a denoiser the text that was filled in; it is empty for all other tasks. `parts`
    holds by name those records by themselves of which a metric speaks.
    """

    ids: tuple[str, ...]
    gold: tuple[str, ...]
    columns: dict[str, tuple[float, ...]]
    texts: tuple[str, ...] = ()
    parts: dict[str, Items] = field(default_factory=dict)


Answers = dict[str, Items]
"""By the name of a run."""


def read_answers(groups: Iterable[Group], leaves: Sequence[str]) -> Answers:
    """Read the predictions of all finished runs once, of each only what the metrics `leaves` need."""
    keys = {column_of(leaf) for leaf in leaves} | {"num_tokens"}
    parts = {part_of(leaf) for leaf in leaves} - {""}
    return {run.name: _read(run, sorted(keys), sorted(parts)) for group in groups for run in group.done}


def column_of(leaf: str) -> str:
    """Return the key of a prediction whose mean is the metric: `accuracy` and `mask/50/accuracy` -> `correct`."""
    found = _OF_A_PART.fullmatch(leaf)
    name = found[2] if found else leaf
    return _COLUMNS.get(name, name)


def part_of(leaf: str) -> str:
    """Return the part of the records that a metric speaks of: `mask/50/accuracy` -> `mask/50`; empty for the whole."""
    found = _OF_A_PART.fullmatch(leaf)
    return found[1] if found else _CLASS if leaf.startswith(f"{_CLASS}_") else ""


def lower_is_better(leaf: str) -> bool:
    """Return whether a small value of a metric is the better one."""
    return leaf.endswith(("loss", "perplexity", "time_s", "memory_gb", "energy_kwh"))


def compare(left: Group, right: Group, leaf: str, answers: Answers) -> Difference | str:
    """Return right minus left on the metric `leaf`, or one sentence that says why the two cannot be paired."""
    from rtx_lab.scoring.comparisons import compare_correct, compare_values

    column, part = column_of(leaf), part_of(leaf)
    sides = [[_of(part, answers[run.name]) for run in group.done if run.name in answers] for group in (left, right)]
    problem = _why_not(left, right, sides, column)
    if problem:
        return problem
    if sides[0][0].texts:
        return _compare_texts(left, right, sides, column)
    left_scores, right_scores = ([items.columns[column] for items in side] for side in sides)
    if column in ("correct", "class_correct") and _are_whole(left_scores) and _are_whole(right_scores):
        return compare_correct(left_scores, right_scores)
    if column != "nll":
        return compare_values(left_scores, right_scores)
    weight = _shared_tokens(sides)
    if weight is None:
        return _other_tokens(left, right)
    left_rates, right_rates = (_rates(scores, weight) for scores in (left_scores, right_scores))
    return compare_values(left_rates, right_rates, weight)


def _compare_texts(left: Group, right: Group, sides: Sequence[Sequence[Items]], column: str) -> Difference | str:
    """Compare denoisers text by text; `correct` is the share of hidden tokens guessed, no matter of right or wrong."""
    from rtx_lab.scoring.comparisons import compare_values

    tokens, texts = _shared_tokens(sides), sides[0][0].texts
    if tokens is None:
        return _other_tokens(left, right)
    counts = [_count(column, num_tokens) for num_tokens in tokens]
    weight = {text: count for text, count in _sum_by_text(texts, counts).items() if count}
    if len(weight) < 2:
        return f"{left.label} and {right.label} share fewer than two texts with hidden tokens"
    parts = counts if column != "nll" else [1.0] * len(counts)  # nll is a sum over the tokens as it stands

    def rates(items: Items) -> list[float]:
        scores = [score * part for score, part in zip(items.columns[column], parts, strict=True)]
        sums = _sum_by_text(texts, scores)
        return [sums[text] / weight[text] for text in weight]

    left_rates, right_rates = ([rates(items) for items in side] for side in sides)
    return compare_values(left_rates, right_rates, list(weight.values()))


def _count(column: str, num_tokens: float) -> float:
    """What a record of a denoiser weighs in the mean that the metric is."""
    if column in ("nll", "correct"):
        return num_tokens
    return float(num_tokens > 0) if column == "exact_match" else 1.0


def _sum_by_text(texts: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for text, value in zip(texts, values, strict=True):
        sums[text] = sums.get(text, 0.0) + value
    return sums


def _shared_tokens(sides: Sequence[Sequence[Items]]) -> tuple[float, ...] | None:
    tokens = {items.columns.get("num_tokens") for side in sides for items in side}
    return tokens.pop() if len(tokens) == 1 else None


def _other_tokens(left: Group, right: Group) -> str:
    return f"{left.label} and {right.label} count tokens differently"


def _are_whole(scores: Sequence[Sequence[float]]) -> bool:
    """Right or wrong: a share has no discordant pairs to count."""
    return all(score in (0.0, 1.0) for one in scores for score in one)


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


def _of(part: str, items: Items) -> Items:
    return items.parts.get(part, Items((), (), {})) if part else items


def _read(run: Run, keys: Sequence[str], parts: Collection[str]) -> Items:
    """All records of a run but those after a fixed number of steps and of classes, and the asked parts beside them."""
    members: dict[str, dict[str, Mapping[str, Any]]] = {part: {} for part in ("", *parts)}
    for name, record in run.predictions().items():
        part = _part(record)
        if not part or part.startswith("mask/"):
            members[""][name] = record
        if part and part in members:
            members[part][name] = record
    whole = _items(members.pop(""), keys)
    return replace(whole, parts={part: _items(records, keys) for part, records in members.items()})


def _part(record: Mapping[str, Any]) -> str:
    """Which part of the metrics a record enters by itself: mask/50, fixed/4, class, or none."""
    steps, ratio = record.get("fixed_steps"), record.get("ratio")
    if "part" in record or steps is None:
        return str(record.get("part", ""))
    if steps:  # a text that took fewer passes than asked does not enter the metrics of that number
        return f"fixed/{steps}" if record.get("steps") == steps else "fewer steps"
    return f"mask/{round(100 * ratio)}" if is_number(ratio) else ""


def _items(records: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> Items:
    ids = tuple(sorted(records))
    ordered = [records[name] for name in ids]
    columns = {}
    for key in keys:
        values = [_value(record, key) for record in ordered]
        if values and None not in values:
            columns[key] = tuple(value for value in values if value is not None)
    texts = tuple(str(record["text"]) for record in ordered if "fixed_steps" in record and "text" in record)
    gold = tuple(str(record.get("gold")) for record in ordered)
    return Items(ids, gold, columns, texts if len(texts) == len(ids) else ())


def _value(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    if value is None and key in record and record.get("num_tokens") == 0:
        return 0.0  # nothing was hidden and nothing judged: it weighs nothing
    if isinstance(value, bool) or (is_number(value) and math.isfinite(value)):
        return float(value)
    return None
