"""What was expected beforehand, held against what was measured: reached, not reached, or cannot be told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rtx_lab.report.findings import Comparison, Pair, compare_pair
from rtx_lab.report.groups import FOLLOWS_MODEL, Group, identity
from rtx_lab.report.pairing import Answers, lower_is_better
from rtx_lab.report.runs import Run, is_number
from rtx_lab.report.settings import snake
from rtx_lab.report.wording import number, probability

COUNTS: dict[str, Callable[[Run], bool]] = {
    "runs_done": lambda run: run.status == "done",
    "runs_stopped_early": lambda run: str(run.result.get("reason")).startswith("stopped early"),
}
"""What of all runs of a report can be counted."""
REACHED, NOT_REACHED, UNTOLD = "reached", "not reached", "cannot be told"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One expectation with its verdict and the numbers behind it."""

    claim: str
    source: str
    verdict: str
    evidence: str


def matches(run: Run, wanted: Mapping[str, Any]) -> bool:
    """Return whether a run's config has these values; `model` and `dataset` are the words of their targets."""
    return all(_same(_look_up(run.config, str(key)), value) for key, value in wanted.items())


def find_pairs(row: Mapping[str, Any], groups: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Return (than, better) of a row for all groups that match and are equal in all else.

    Where no two groups are, those count that are equal outside of the model: presets differ in more than they claim.
    """
    than, better = (_mapping(row.get(side)) for side in ("than", "better"))
    left = [group for group in groups if matches(group.runs[0], than)]
    right = [group for group in groups if matches(group.runs[0], better)]
    keys = {str(key) for key in (*than, *better)}
    if "model.fixed_steps" in keys:
        keys |= {"model.convergence_threshold", "model.halting"}
    strict = _equal_but(left, right, lambda key: key in keys or key.partition(".")[0] in keys)
    if strict or not any(key.partition(".")[0] == "model" for key in keys):
        return strict
    return _equal_but(left, right, lambda key: key.partition(".")[0] == "model" or key in FOLLOWS_MODEL)


def compare_expected(rows: Sequence[Mapping[str, Any]], groups: Sequence[Group], answers: Answers) -> list[Comparison]:
    """Return the comparisons that the rows `better ... than ...` ask for, uncorrected, each pair and metric once."""
    found: dict[Pair, Comparison] = {}
    for row in rows:
        for left, right in find_pairs(row, groups) if row.get("better") else ():
            key = (frozenset((id(left), id(right))), _leaf(row))
            if key not in found:
                found[key] = compare_pair(left, right, key[1], answers)
    return list(found.values())


def judge(row: Mapping[str, Any], groups: Sequence[Group], compared: Sequence[Comparison]) -> Verdict:
    """Return the verdict on one row; `compared` holds the corrected comparisons of the report."""
    if row.get("better"):
        verdict, evidence = _judge_pairs(row, groups, compared)
    elif row.get("metric") == "hours":
        verdict, evidence = _judge_hours(row, groups)
    elif row.get("metric") in COUNTS:
        verdict, evidence = _judge_count(row, groups)
    else:
        verdict, evidence = _judge_bound(row, groups)
    return Verdict(str(row.get("claim") or "-"), str(row.get("source") or ""), verdict, evidence)


def _judge_pairs(row: Mapping[str, Any], groups: Sequence[Group], compared: Sequence[Comparison]) -> tuple[str, str]:
    leaf, found = _leaf(row), []
    for left, right in find_pairs(row, groups):
        one = next((c for c in compared if c.leaf == leaf and {id(c.left), id(c.right)} == {id(left), id(right)}), None)
        if one is not None and one.difference is not None:
            sign = 1 if one.right is right else -1
            better = one.right_is_better == (one.right is right)
            text = f"{right.label}: {sign * one.difference.difference:+.3f}, corrected {probability(one.p)}"
            found.append((UNTOLD if not one.shown else REACHED if better else NOT_REACHED, text))
        else:
            found.append(_judge_unpaired(left, right, str(row.get("metric") or "test/accuracy")))
    return _all_of(found)


def _judge_unpaired(left: Group, right: Group, metric: str) -> tuple[str, str]:
    """By intervals that do not touch: the sides answered different items, or the metric is not one of items."""
    sign = -1 if lower_is_better(metric) else 1
    spans = [group.interval(metric) for group in (left, right)]
    means = [group.mean(metric) for group in (left, right)]
    if means[0] is None or means[1] is None:
        return UNTOLD, f"{right.label}: no result on one side"
    text = f"{right.label}: {number(means[1])} against {number(means[0])}"
    if spans[0] is None or spans[1] is None:
        return UNTOLD, f"{text}, without interval"
    if spans[1][0] > spans[0][1] or spans[1][1] < spans[0][0]:
        return REACHED if sign * (means[1] - means[0]) > 0 else NOT_REACHED, f"{text}, intervals apart"
    return UNTOLD, f"{text}, intervals overlap"


def _judge_bound(row: Mapping[str, Any], groups: Sequence[Group]) -> tuple[str, str]:
    metric = str(row.get("metric") or "test/accuracy")
    found = []
    for group in groups:
        mean, span = group.mean(metric), group.interval(metric)
        if not matches(group.runs[0], _mapping(row.get("where"))) or mean is None:
            continue
        low, high = span or (mean, mean)
        found.append((_inside(row, low, high), f"{group.label}: {number(mean)} [{number(low)}, {number(high)}]"))
    return _all_of(found)


def _inside(row: Mapping[str, Any], low: float, high: float) -> str:
    least, most = row.get("at_least"), row.get("at_most")
    if is_number(least):
        return REACHED if low >= least else NOT_REACHED if high < least else UNTOLD
    if is_number(most):
        return REACHED if high <= most else NOT_REACHED if low > most else UNTOLD
    return UNTOLD


def _judge_hours(row: Mapping[str, Any], groups: Sequence[Group]) -> tuple[str, str]:
    runs = [run for group in groups for run in group.runs if matches(run, _mapping(row.get("where")))]
    if not runs:
        return UNTOLD, "no such run"
    hours = sum(run.metric("time_s") or 0.0 for run in runs) / 3600
    done = sum(run.status == "done" for run in runs)
    verdict = _inside(row, hours, hours)
    exceeded = is_number(row.get("at_most")) and verdict == NOT_REACHED  # more runs only add hours
    return verdict if done == len(
        runs
    ) or exceeded else UNTOLD, f"{number(hours, 2)} h, {done} of {len(runs)} runs done"


def _judge_count(row: Mapping[str, Any], groups: Sequence[Group]) -> tuple[str, str]:
    runs = [run for group in groups for run in group.runs if matches(run, _mapping(row.get("where")))]
    count = sum(COUNTS[str(row["metric"])](run) for run in runs)
    return _inside(row, count, count), f"{count} of {len(runs)} runs"


def _all_of(found: Sequence[tuple[str, str]]) -> tuple[str, str]:
    if not found:
        return UNTOLD, "no such run"
    verdicts = [verdict for verdict, _ in found]
    verdict = NOT_REACHED if NOT_REACHED in verdicts else UNTOLD if UNTOLD in verdicts else REACHED
    return verdict, "; ".join(text for _, text in found)


def _equal_but(
    left: Sequence[Group], right: Sequence[Group], ignored: Callable[[str], bool]
) -> list[tuple[Group, Group]]:
    rest = {
        id(group): identity({key: value for key, value in group.settings.items() if not ignored(key)})
        for group in (*left, *right)
    }
    return [(one, other) for one in left for other in right if one is not other and rest[id(one)] == rest[id(other)]]


def _leaf(row: Mapping[str, Any]) -> str:
    return str(row.get("metric") or "test/accuracy").removeprefix("test/")


def _look_up(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return snake(str(node["_target_"])) if isinstance(node, Mapping) and "_target_" in node else node


def _same(left: Any, right: Any) -> bool:
    if is_number(left) and is_number(right):
        return float(left) == float(right)
    return left == right if left is None or right is None else str(left) == str(right)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
