"""What a batch study recommends, from its numbers alone; that nothing can be told is one of the answers."""

from __future__ import annotations

from collections.abc import Sequence

from rtx_lab.report.batch_arms import Arm, BatchStudy
from rtx_lab.report.batch_tables import target_words
from rtx_lab.report.batch_tests import COSTS, CostTest
from rtx_lab.report.findings import Comparison
from rtx_lab.report.pairing import lower_is_better
from rtx_lab.report.wording import limit_text, number, probability, seeds_words, words

_TITLES = {
    "samples_per_s": "Speed",
    "peak_allocated_gb": "Memory",
}
_UNITS = {"samples_per_s": "samples/s", "peak_allocated_gb": "GB at most", "minutes_to_target": "min"}


def advise(study: BatchStudy, scores: Sequence[Comparison], costs: Sequence[CostTest]) -> list[str]:
    """Return the findings and the recommendation, one sentence or two each; `scores` are corrected."""
    if not study.finished:
        return ["No arm came to its end, so nothing can be recommended.", *_say_memory_ran_out(study)]
    lines = [_say_choice(study, scores, costs), *_say_scores(study, scores)]
    lines += [line for key in COSTS for line in _say_cost(study, costs, key)]
    lines += [*_say_memory_ran_out(study), *_say_missing(study)]
    if max(len(arm.measures) for arm in study.finished) == 1:
        lines.append("One seed an arm: what another seed would change is not known, so no cost was tested.")
    return lines


def choose(study: BatchStudy, scores: Sequence[Comparison], costs: Sequence[CostTest]) -> Arm | None:
    """Return the arm to use: none shown to reach a worse score, the fastest, among equally fast the leanest.

    Arms that ran out of memory on the way count only where all did. None where no speed was measured.
    """
    clean = [arm for arm in study.finished if not arm.num_oom] or study.finished
    worse = {id(one.left if one.right_is_better else one.right) for one in scores if one.shown}
    kept = [arm for arm in clean if id(arm.group) not in worse] or clean
    timed = [arm for arm in kept if arm.mean("samples_per_s") is not None]
    if not timed:
        return None
    fastest = max(timed, key=lambda arm: arm.mean("samples_per_s") or 0.0)
    equal = [arm for arm in timed if arm is fastest or not _differ(arm, fastest, "samples_per_s", costs)]
    return min(equal, key=lambda arm: (arm.mean("peak_allocated_gb") or float("inf"), arm is not fastest))


def _say_choice(study: BatchStudy, scores: Sequence[Comparison], costs: Sequence[CostTest]) -> str:
    chosen = choose(study, scores, costs)
    if chosen is None:
        return "No recommendation: the speed of no arm was measured."
    others = [arm for arm in study.finished if arm is not chosen]
    if not others:
        return f"Only {chosen.name} came to its end, so there is no choice to make."
    told = [(arm, _test_of(arm, chosen, "samples_per_s", costs)) for arm in others]
    faster = [arm for arm, test in told if test and test.shown and _ratio_to(test, chosen) > 1]
    equal = [arm for arm, test in told if test and test.p is not None and not test.shown]
    open_ = [arm for arm, test in told if (test is None or test.p is None) and arm.mean("samples_per_s") is not None]
    why = [f"it trains faster than {_list(faster)}"] if faster else []
    if equal:
        leaner = all((chosen.mean("peak_allocated_gb") or 0) < (arm.mean("peak_allocated_gb") or 0) for arm in equal)
        why.append(f"no significant difference in speed to {_list(equal)}{', and less memory' if leaner else ''}")
    failed = [arm for arm in others if arm.num_oom and not chosen.num_oom]
    if failed:
        why.append(f"{_list(failed)} ran out of memory on the way")
    if open_:
        why.append(f"the faster one by its numbers, though not tested against {_list(open_)}")
    why.append(
        "no arm was shown to reach another score" if not any(one.shown for one in scores)
        else "no arm was shown to reach a better score"
    )  # fmt: skip
    setting = f" (budget.micro_batch={chosen.micro_batch})" if chosen.micro_batch is not None else ""
    return f"Recommended: {chosen.name}{setting}: {'; '.join(why)}."


def _say_scores(study: BatchStudy, scores: Sequence[Comparison]) -> list[str]:
    judged = [one for one in scores if one.difference is not None]
    name = {id(arm.group): arm.name for arm in study.arms}
    lines = [_say_difference(one, name) for one in judged if one.shown]
    rest = [one for one in judged if not one.shown]
    if rest:
        limits = [one.detectable for one in rest if one.detectable is not None]
        bound = f"; the smallest that could have been shown: {limit_text(study.leaf, max(limits))}" if limits else ""
        items = max(one.difference.num_items for one in rest if one.difference)
        pairs = "any two arms" if len(rest) == len(judged) > 1 else _list_pairs(rest, name)
        lines.append(
            f"Score: no significant difference in test {words(study.leaf)} between {pairs} (smallest corrected "
            f"{probability(min(one.p for one in rest))}, {items} items, {seeds_words(rest[0])}{bound})."
        )
    if judged and not study.differ_otherwise:
        lines.append(_say_expected(any(one.shown for one in judged)))
    if not judged and len(study.finished) > 1:
        reasons = sorted({one.reason for one in scores})
        lines.append(f"Score: the arms could not be compared item by item ({'; '.join(reasons) or 'no predictions'}).")
    return lines


def _say_expected(any_shown: bool) -> str:
    if any_shown:
        return (
            "With equal samples in every step all arms are the same optimisation up to dropout masks and rounding: "
            "look for what else differed (an out-of-memory, another precision or machine) before choosing by score."
        )
    return (
        "That is what was to be expected: with equal samples in every step and one loss over the whole step, all arms "
        "are the same optimisation up to dropout masks and rounding. The choice is one of time and memory."
    )


def _say_difference(one: Comparison, name: dict[int, str]) -> str:
    found = one.difference
    if found is None:
        return ""
    more = "higher" if found.difference > 0 else "lower"
    return (
        f"Score: test {words(one.leaf)} of {name[id(one.right)]} is {number(abs(found.difference))} {more} than of "
        f"{name[id(one.left)]} (difference {found.low:+.3f} to {found.high:+.3f}, 95 % interval, corrected "
        f"{probability(one.p)}, {found.num_items} items, {seeds_words(one)})."
    )


def _say_cost(study: BatchStudy, costs: Sequence[CostTest], key: str) -> list[str]:
    """Which arm is best at one cost, and how far the others are from it."""
    told = [arm for arm in study.finished if arm.mean(key) is not None]
    if not told:
        return []
    sign = -1.0 if key == "samples_per_s" else 1.0  # of all else the least is best
    best = min(told, key=lambda arm: sign * (arm.mean(key) or 0.0))
    title = _TITLES.get(key, f"Time to {target_words(study)}")
    text = f"{title}: {best.name} is best with {_amount(key, best.mean(key))}"
    parts = []
    for arm in told:
        if arm is best:
            continue
        ratio = (arm.mean(key) or 0.0) / (best.mean(key) or 1.0)
        parts.append(f"{arm.name} {_amount(key, arm.mean(key))} ({ratio:.2f} times, {_verdict(arm, best, key, costs)})")
    where = " (of the process, not of a card)" if key.startswith("peak") and study.on_cpu else ""
    return [f"{text}{where}{'; ' if parts else ''}{'; '.join(parts)}."]


def _amount(key: str, value: float | None) -> str:
    return f"{number(value, 1 if key == 'samples_per_s' else 2)} {_UNITS[key]}"


def _verdict(arm: Arm, best: Arm, key: str, costs: Sequence[CostTest]) -> str:
    test = _test_of(arm, best, key, costs)
    if test is None or test.p is None:
        return "not tested, fewer than two seeds"
    return f"corrected {probability(test.p)}" if test.shown else f"no significant difference, {probability(test.p)}"


def _differ(left: Arm, right: Arm, key: str, costs: Sequence[CostTest]) -> bool:
    """Whether a difference was shown; where it could not be tested (one seed) the numbers are taken as they are."""
    test = _test_of(left, right, key, costs)
    return test is None or test.p is None or test.shown


def _test_of(one: Arm, other: Arm, key: str, costs: Sequence[CostTest]) -> CostTest | None:
    pair = {id(one), id(other)}
    return next((test for test in costs if test.key == key and {id(test.left), id(test.right)} == pair), None)


def _say_memory_ran_out(study: BatchStudy) -> list[str]:
    lines = []
    for arm in study.arms:
        if arm.shapes:
            times = "once" if len(arm.shapes) == 1 else f"{len(arm.shapes)} times"
            more = f" and {len(arm.shapes) - 3} more" if len(arm.shapes) > 3 else ""
            lines.append(f"Out of memory: {arm.name} {times} ({' | '.join(arm.shapes[:3])}{more}).")
        lost = len(arm.group.runs) - len(arm.measures)
        if lost:
            told = ", ".join(sorted({run.status for run in arm.group.runs if run.status != "done"}))
            lines.append(f"{arm.name}: {lost} of {len(arm.group.runs)} runs did not come to their end ({told}).")
    return lines


def _say_missing(study: BatchStudy) -> list[str]:
    lines = []
    if study.on_cpu:
        lines.append(
            "These runs used a CPU: memory is the resident size of the whole process (libraries, data and weights "
            "included, freed memory mostly kept), and there is no reserved memory. Ratios say little about a GPU."
        )
    if study.untrained is None:
        what = "loss" if lower_is_better(study.leaf) else "score"
        lines.append(
            f"The untrained {what} was not measured (a job with budget.steps=0 measures it): gain per minute counts "
            "from the first evaluation on."
        )
    return lines


def _ratio_to(test: CostTest, arm: Arm) -> float:
    return test.ratio if test.right is arm else 1 / test.ratio


def _list(arms: Sequence[Arm]) -> str:
    names = [arm.name for arm in arms]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _list_pairs(rest: Sequence[Comparison], name: dict[int, str]) -> str:
    return ", ".join(f"{name[id(one.left)]} and {name[id(one.right)]}" for one in rest)
