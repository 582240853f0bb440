"""Findings in plain words: a difference with its interval, or that none can be shown and how large it could be."""

from __future__ import annotations

from collections.abc import Sequence

from rtx_lab.report.findings import Comparison
from rtx_lab.report.groups import Factor
from rtx_lab.report.rouge import is_rouge, name_of


def say_family(factor: Factor, comparisons: Sequence[Comparison], leaf: str) -> list[str]:
    """Return what may be said of one family on one metric: one sentence for each difference, or that none was shown."""
    judged = [one for one in comparisons if one.difference is not None and one.leaf == leaf]
    if not judged:
        return []
    shown = [one for one in judged if one.shown]
    place = _place(judged[0])
    sentences = [_say_difference(factor, one, place) for one in shown]
    rest = [one for one in judged if not one.shown]
    if rest:
        sentences.append(_say_nothing_shown(factor, rest, place))
    return sentences


def _say_difference(factor: Factor, one: Comparison, place: str) -> str:
    difference = one.difference
    if difference is None:
        return ""
    gap, low, high = difference.difference, difference.low, difference.high
    more, (low, high) = ("higher", (low, high)) if gap > 0 else ("lower", (-high, -low))
    return (
        f"{factor.title}: {words(one.leaf)} with {factor.text(one.right)} is {number(abs(gap))} {more} than with "
        f"{factor.text(one.left)}{place} (95 % interval {number(low)} to {number(high)}, "
        f"corrected {probability(one.p)}, {seeds_words(one)})."
    )


def limit_text(leaf: str, limit: float | None) -> str:
    """Return the smallest difference that could have been shown as a cell; `none` where no accuracy differs so much."""
    return "none" if leaf.endswith("accuracy") and limit is not None and limit >= 1 else number(limit)


def _say_nothing_shown(factor: Factor, rest: Sequence[Comparison], place: str) -> str:
    members = [rest[0].right, *(one.left for one in rest)]
    ordered = [factor.text(group) for group in rest[0].family if any(group is member for member in members)]
    names = ordered or [factor.text(group) for group in members]
    limits = [one.detectable for one in rest if one.detectable is not None]
    largest = limit_text(rest[0].leaf, max(limits)) if limits else ""
    bound = f"; the smallest difference that could have been shown: {largest}" if limits else ""
    if len(names) > 2:
        reference = factor.text(rest[0].right)
        others = [name for name in names if name != reference]
        spread = f"{reference} and any of {', '.join(others)}"
    else:
        spread = " and ".join(names)
    return (
        f"{factor.title}: no difference in {words(rest[0].leaf)} can be shown between {spread}{place} "
        f"(smallest corrected {probability(min(one.p for one in rest))}, {seeds_words(rest[0])}{bound})."
    )


def _place(one: Comparison) -> str:
    shared = set(one.left.label.split(", ")) & set(one.right.label.split(", "))
    kept = [part for part in one.right.label.split(", ") if part in shared]
    return f" at {', '.join(kept)}" if kept else ""


def seeds_words(one: Comparison) -> str:
    """Return how many seeds stand behind a comparison, and what one seed means."""
    seeds = one.difference.num_seeds if one.difference else (0, 0)
    if max(seeds) == 1:
        return "one seed a side: this speaks of two trained models, not of the settings"
    return f"{seeds[0]} seeds a side" if seeds[0] == seeds[1] else f"{seeds[1]} against {seeds[0]} seeds"


def words(leaf: str) -> str:
    """Return a metric in words: `avg_reasoning_steps` -> `the number of reasoning steps`."""
    if is_rouge(leaf):
        return name_of(leaf)
    return {"avg_reasoning_steps": "the number of reasoning steps", "loss": "loss"}.get(leaf, leaf.replace("_", " "))


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for a table, `-` where there is none; large ones with fewer decimals."""
    if value is None:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:.0f}"


def probability(p: float) -> str:
    """Return a p value as `p = 0.012`, as `p < 0.001` below that."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
