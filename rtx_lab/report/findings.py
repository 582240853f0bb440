"""What a study compares, and what may be said of it after correction for the number of comparisons.

Selection is by validation; what is said of the selected setting is measured on test. A comparison sets the reference of
a family (the best by validation, or the control among models) against each other member.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rtx_lab.report.groups import Factor, Group
from rtx_lab.report.pairing import Answers, compare, lower_is_better

if TYPE_CHECKING:
    from rtx_lab.scoring.comparisons import Difference

ALPHA = 0.05
CONTROL = "transformer_baseline"
"""The model that others are held against where it stands among them."""

Pair = tuple[frozenset[int], str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two groups on one metric: `difference` is right minus left, None where they cannot be paired (`reason` says why).

    `p` is corrected over the whole report; `detectable` the smallest difference that would be found with power .8 after
    correction.
    """

    factor: Factor | None
    family: tuple[Group, ...]
    left: Group
    right: Group
    leaf: str
    difference: Difference | None
    reason: str = ""
    p: float = 1.0
    detectable: float | None = None

    @property
    def shown(self) -> bool:
        """Whether a difference can be shown."""
        return self.difference is not None and self.p < ALPHA

    @property
    def right_is_better(self) -> bool:
        """Whether the right side measured better, shown or not."""
        gap = self.difference.difference if self.difference else 0.0
        return gap < 0 if lower_is_better(self.leaf) else gap > 0


def compare_factors(factors: Iterable[Factor], leaf: str, answers: Answers) -> list[Comparison]:
    """Return the comparisons along every factor, each pair and metric once, uncorrected.

    Along the halting threshold the number of reasoning steps is compared as well.
    """
    found: dict[Pair, Comparison] = {}
    for factor in factors:
        leaves = (leaf, "avg_reasoning_steps") if factor.key == "model.convergence_threshold" else (leaf,)
        for family in factor.families:
            reference = _reference(factor, family, leaf)
            for other in family:
                for name in leaves if reference is not None and other is not reference else ():
                    key = (frozenset((id(reference), id(other))), name)
                    if reference is not None and key not in found:
                        found[key] = compare_pair(other, reference, name, answers, factor=factor, family=family)
    return list(found.values())


def compare_pair(
    left: Group,
    right: Group,
    leaf: str,
    answers: Answers,
    *,
    factor: Factor | None = None,
    family: tuple[Group, ...] = (),
) -> Comparison:
    """Return one comparison, uncorrected."""
    outcome = compare(left, right, leaf, answers)
    if isinstance(outcome, str):
        return Comparison(factor, family, left, right, leaf, None, outcome)
    return Comparison(factor, family, left, right, leaf, outcome, p=outcome.p)


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons with Holm's correction over all of them, and what each could have shown under it.

    A pair that stands here twice, in whichever order, is one test.
    """
    from rtx_lab.scoring.comparisons import detectable_difference, holm

    tests = {pair_of(one): one.difference.p for one in comparisons if one.difference}
    p_of = dict(zip(tests, holm(list(tests.values())), strict=True))
    alpha = ALPHA / max(1, len(tests))
    corrected = []
    for one in comparisons:
        if one.difference is not None:
            error, degrees = one.difference.standard_error, one.difference.degrees
            limit = detectable_difference(error, degrees, alpha=alpha)
            one = replace(one, p=p_of[pair_of(one)], detectable=limit)
        corrected.append(one)
    return corrected


def pair_of(one: Comparison) -> Pair:
    """Return what makes two comparisons the same test: the two groups in any order, and the metric."""
    return frozenset((id(one.left), id(one.right))), one.leaf


def best_by_validation(groups: Iterable[Group], leaf: str) -> Group | None:
    """Return the group with the best mean on validation; ties go to fewer parameters, then to the first label."""
    sign = 1.0 if lower_is_better(leaf) else -1.0
    ranked = [
        (sign * mean, group.mean("parameters") or 0.0, group.label, group)
        for group in groups
        if (mean := group.mean(f"validation/{leaf}")) is not None
    ]
    return min(ranked, key=lambda row: row[:3])[3] if ranked else None


def _reference(factor: Factor, family: Sequence[Group], leaf: str) -> Group | None:
    done = [group for group in family if group.done]
    controls = [group for group in done if group.settings.get("model") == CONTROL]
    return controls[0] if factor.key == "model" and controls else best_by_validation(done, leaf)
