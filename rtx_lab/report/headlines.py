"""What a report says first: how much of the study stands, what was best, and which differences are real."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rtx_lab.report.expectations import Verdict
from rtx_lab.report.findings import Comparison, best_by_validation
from rtx_lab.report.groups import Factor, Group
from rtx_lab.report.outcomes import Outcome
from rtx_lab.report.runs import Run
from rtx_lab.report.wording import number, say_family, words

MOST_FAMILIES = 2
"""A factor with more families than this is summed up in one headline; the section tells all."""


def say_findings(factors: Sequence[Factor], comparisons: Sequence[Comparison]) -> list[str]:
    """Return the sentences on every family of every factor, metric by metric."""
    return [sentence for factor in factors for sentence in _say_factor(factor, comparisons)]


def write_headlines(
    runs: Sequence[Run],
    missing: Sequence[Outcome],
    groups: Sequence[Group],
    factors: Sequence[Factor],
    comparisons: Sequence[Comparison],
    verdicts: Sequence[Verdict],
    leaf: str,
) -> list[str]:
    """Return the sentences at the top of a report."""
    lines = [_say_jobs(runs, missing), *_say_best(groups, leaf)]
    for factor in factors:
        sentences = _say_factor(factor, comparisons)
        lines += sentences if len(factor.families) <= MOST_FAMILIES else _sum_up(factor, comparisons)
    if groups and all(len(group.done) <= 1 for group in groups):
        lines.append("Every setting has one seed: what a second seed would change is not known.")
    if verdicts:
        counts = Counter(one.verdict for one in verdicts)
        told = ", ".join(f"{counts[word]} {word}" for word in ("reached", "not reached", "cannot be told"))
        lines.append(f"Of {len(verdicts)} expectations: {told}.")
    return [line for line in lines if line]


def _say_factor(factor: Factor, comparisons: Sequence[Comparison]) -> list[str]:
    sentences = []
    for family in factor.families:
        here = [one for one in comparisons if one.factor is factor and one.family is family]
        for leaf in dict.fromkeys(one.leaf for one in here):
            sentences += say_family(factor, here, leaf)
    return sentences


def _sum_up(factor: Factor, comparisons: Sequence[Comparison]) -> list[str]:
    judged = [one for one in comparisons if one.factor is factor and one.difference]
    lines = []
    for leaf in dict.fromkeys(one.leaf for one in judged):
        here = [one for one in judged if one.leaf == leaf]
        shown = sum(one.shown for one in here)
        if shown:
            lines.append(f"{factor.title}: {shown} of {len(here)} comparisons show a difference in {words(leaf)}.")
        else:
            lines.append(
                f"{factor.title}: no difference in {words(leaf)} can be shown in any of {len(here)} comparisons."
            )
    return lines


def _say_jobs(runs: Sequence[Run], missing: Sequence[Outcome]) -> str:
    done = sum(run.status == "done" for run in runs)
    counts = Counter(one.status for one in missing)
    total = done + len(missing)
    if not missing:
        return f"All {total} jobs finished." if total > 1 else "The job finished."
    return f"{done} of {total} jobs finished; {', '.join(f'{count} {name}' for name, count in sorted(counts.items()))}."


def _say_best(groups: Sequence[Group], leaf: str) -> list[str]:
    lines = []
    for dataset in sorted({group.dataset for group in groups if group.done}):
        members = [group for group in groups if group.dataset == dataset and group.done]
        best = best_by_validation(members, leaf)
        mean = best.mean(f"test/{leaf}") if best else None
        if best is None or mean is None:
            continue
        low, high = best.interval(f"test/{leaf}") or (None, None)
        span = f", 95 % interval {number(low)} to {number(high)}" if low is not None else ""
        head = f"Best by validation on {dataset}: {best.label}" if len(members) > 1 else f"{best.label} on {dataset}"
        count = f"{len(best.done)} seed{'s' * (len(best.done) != 1)}"
        lines.append(f"{head}: test {words(leaf)} {number(mean)}{span} ({count}).")
    return lines
