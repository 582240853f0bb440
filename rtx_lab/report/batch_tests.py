"""Do two arms of a batch study differ? In score over the test items, in cost over the seeds that both trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from rtx_lab.report.batch_arms import Arm, BatchStudy
from rtx_lab.report.findings import ALPHA, Comparison, compare_pair
from rtx_lab.report.groups import Factor
from rtx_lab.report.pairing import Answers

COSTS = ("samples_per_s", "peak_allocated_gb", "minutes_to_target")
"""Quantities of cost that are tested."""


@dataclass(frozen=True, slots=True)
class CostTest:
    """Two arms on one cost over the seeds of both: `ratio` is right to left; `p` corrected over the study.

    `p` is None with fewer than two shared seeds: then nothing can be told.
    """

    key: str
    left: Arm
    right: Arm
    ratio: float
    p: float | None
    num_seeds: int

    @property
    def shown(self) -> bool:
        """Whether a difference can be shown."""
        return self.p is not None and self.p < ALPHA


def compare_scores(studies: Sequence[BatchStudy], answers: Answers) -> list[Comparison]:
    """Return the comparisons of all pairs of arms over the test items, uncorrected."""
    found = []
    for study in studies:
        family = tuple(arm.group for arm in study.finished)
        factor = Factor("budget.micro_batch", "micro-batch x accumulation", (family,))
        for left, right in combinations(family, 2):
            found.append(compare_pair(left, right, study.leaf, answers, factor=factor, family=family))
    return found


def of_study(study: BatchStudy, comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return those comparisons that set two arms of this study against each other on its metric, each pair once."""
    own = {id(arm.group) for arm in study.arms}
    found: dict[frozenset[int], Comparison] = {}
    for one in comparisons:
        if one.leaf == study.leaf and {id(one.left), id(one.right)} <= own:
            found.setdefault(frozenset((id(one.left), id(one.right))), one)
    return list(found.values())


def compare_costs(study: BatchStudy) -> list[CostTest]:
    """Return the tests of all pairs of arms on every cost that both measured, corrected together by Holm's method."""
    from rtx_lab.scoring.comparisons import holm

    found = [
        test
        for key in COSTS
        for left, right in combinations(study.finished, 2)
        if (test := _compare_cost(key, left, right)) is not None
    ]
    raw = [test.p for test in found if test.p is not None]
    corrected = iter(holm(raw))
    return [replace(test, p=next(corrected)) if test.p is not None else test for test in found]


def _compare_cost(key: str, left: Arm, right: Arm) -> CostTest | None:
    """Paired by seed: equal seeds see equal samples in equal order."""
    one, other = left.by_seed(key), right.by_seed(key)
    means = left.mean(key), right.mean(key)
    if means[0] is None or means[1] is None or means[0] <= 0:
        return None
    seeds = sorted(set(one) & set(other))
    p = _larger_p([one[seed] for seed in seeds], [other[seed] for seed in seeds]) if len(seeds) > 1 else None
    return CostTest(key, left, right, means[1] / means[0], p, len(seeds))


def _larger_p(left: Sequence[float], right: Sequence[float]) -> float:
    """The larger p of the bootstrap over seeds and of Student's t over their differences."""
    from scipy.special import stdtr

    from rtx_lab.scoring.comparisons import compare_values

    found = compare_values([left], [right])  # the seeds stand where the items of a score stand
    if found.standard_error == 0:
        return found.p if found.difference else 1.0
    student = 2 * float(stdtr(found.degrees, -abs(found.difference) / found.standard_error))
    return max(found.p, student)
