"""What figures choose before they draw: the metric, the groups that get a colour, and the name of a quantity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from rtx_lab.report.groups import Group
from rtx_lab.report.pairing import lower_is_better
from rtx_lab.report.rouge import is_rouge, name_of
from rtx_lab.report.style import MOST_LINES

_QUANTITIES = {
    "accuracy": "accuracy",
    "loss": "loss (nats per token)",
    "exact_match": "exact match",
    "f1": "F1",
}


def leaf_of(groups: Iterable[Group]) -> str:
    """Return the last part of the metric that most runs monitor, `accuracy` where none names one."""
    seen = Counter(str(run.result["monitor"]) for group in groups for run in group.runs if run.result.get("monitor"))
    return seen.most_common(1)[0][0].rpartition("/")[2] if seen else "accuracy"


def quantity(leaf: str) -> str:
    """Return the name of a metric with its unit, for an axis."""
    return name_of(leaf) if is_rouge(leaf) else _QUANTITIES.get(leaf, leaf.replace("_", " "))


def is_share(leaf: str) -> bool:
    """Return whether a metric lies between 0 and 1."""
    return leaf in ("accuracy", "class_accuracy", "exact_match", "f1") or is_rouge(leaf)


def by_dataset(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups of each dataset: figures of different questions do not share an axis."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.dataset, []).append(group)
    return found


def number_groups(groups: Sequence[Group]) -> dict[int, int]:
    """Return, by `id` of a group, the number of its colour in all figures of these groups; the best by validation."""
    return {id(group): number for number, group in enumerate(best_groups(groups, MOST_LINES))}


def best_groups(groups: Sequence[Group], most: int) -> list[Group]:
    """Return the `most` best groups by validation in the order given."""
    leaf = leaf_of(groups)
    sign = 1.0 if lower_is_better(leaf) else -1.0

    def rank(group: Group) -> float:
        mean = group.mean(f"validation/{leaf}")
        return float("inf") if mean is None else sign * mean

    best = {id(group) for group in sorted(groups, key=rank)[:most]}
    return [group for group in groups if id(group) in best]


def named(groups: Sequence[Group], numbers: Mapping[int, int]) -> tuple[list[tuple[int, Group]], list[Group]]:
    """Return the groups that one figure names, each with the number of its look, and the others, drawn in grey.

    A group of `numbers` keeps its own; the rest of the best take what is free.
    """
    best = best_groups(groups, MOST_LINES)
    taken = {numbers[id(group)] for group in best if id(group) in numbers}
    free = iter(sorted(set(range(MOST_LINES)) - taken))
    chosen = [(numbers[id(group)] if id(group) in numbers else next(free), group) for group in best]
    shown = {id(group) for group in best}
    return chosen, [group for group in groups if id(group) not in shown]


def short_labels(groups: Sequence[Group]) -> dict[int, str]:
    """Return, by `id` of a group, its label without the parts that all of these groups share."""
    parts = {id(group): group.label.split(", ") for group in groups}
    shared = set.intersection(*(set(one) for one in parts.values())) if len(parts) > 1 else set()
    return {key: ", ".join(part for part in one if part not in shared) or ", ".join(one) for key, one in parts.items()}


def experiment_names(groups: Sequence[Group]) -> dict[int, str]:
    """Return, by `id` of a group, the name of its phase where each has one of its own, else its short label."""
    phases = [str(group.settings.get("phase", "")) for group in groups]
    if len(groups) > 1 and len(set(phases)) == len(groups):
        return {id(group): phase for group, phase in zip(groups, phases, strict=True)}
    return short_labels(groups)


def rest_words(others: Sequence[Group]) -> str:
    """Return the sentence of a caption that says which groups are grey, empty where none is."""
    if not others:
        return ""
    rest = "1 other is" if len(others) == 1 else f"{len(others)} others are"
    return f" The {MOST_LINES} best settings by validation are named; {rest} drawn in grey."
