"""What single answers say: where latents were inserted, what LTPO moved, who turned right or wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rtx_lab.report.memory_arms import Arm
from rtx_lab.report.runs import Run, is_number

Records = Mapping[str, Mapping[str, Any]]
"""The records of one run by the id of the item."""

NUM_PLACES = 5
"""Parts into which an answer is cut, by its length, to say where in it latents were inserted."""

Shares = dict[int, tuple[int, int]]
"""Place -> how many decisions were taken there, and how many of them inserted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """How many items one arm has wrong that the other has right, and the other way round, as a mean over seeds."""

    right_to_wrong: float
    wrong_to_right: float
    num_changed: float
    """Items whose answer is another text."""
    num_items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """What LTPO did: the reward before and after, how far latents moved, over `num_answers` answers."""

    first: float
    best: float
    gain: float
    gain_span: tuple[float, float] | None
    moved: float | None
    steps: float | None
    num_answers: int


class Answered:
    """The records of all finished runs of an arm, each file read once, in order of the seed."""

    def __init__(self, arm: Arm) -> None:
        runs: tuple[Run, ...] = arm.group.done if arm.group is not None else ()
        self.by_seed: list[tuple[int, Records]] = [(run.seed, run.predictions()) for run in runs]

    @property
    def all(self) -> list[Mapping[str, Any]]:
        """The records of all seeds."""
        return [record for _, records in self.by_seed for record in records.values()]


def by_number(answered: Answered) -> Shares:
    """Count decisions and insertions by the number of the decision in its answer; 0 is the first."""
    counts: Shares = {}
    for record in answered.all:
        inserted = set(_places(record, "inserted_at"))
        for number, place in enumerate(_places(record, "decided_at")):
            _count(counts, number, place in inserted)
    return dict(sorted(counts.items()))


def by_place(answered: Answered) -> Shares:
    """Count decisions and insertions by the part of the answer in which they were taken, the prompt's end left out."""
    counts: Shares = {}
    for record in answered.all:
        inserted, length = set(_places(record, "inserted_at")), record.get("num_tokens")
        for place in _places(record, "decided_at"):
            if place > 0 and is_number(length) and length > 0:
                _count(counts, min(NUM_PLACES - 1, int(NUM_PLACES * place / length)), place in inserted)
    return dict(sorted(counts.items()))


def insertion_rate(answered: Answered) -> float | None:
    """Return the share of decisions that inserted, None where none was recorded."""
    counts = by_number(answered).values()
    decided = sum(count for count, _ in counts)
    return sum(inserted for _, inserted in counts) / decided if decided else None


def turned(reference: Answered, arm: Answered) -> Turned | None:
    """Return who turned right or wrong from the reference to the arm, None where they share no items.

    Runs of one seed are held against each other; where a seed stands on one side alone, every run against every other.
    """
    seeds = {seed for seed, _ in reference.by_seed} & {seed for seed, _ in arm.by_seed}
    pairs = [(one, other) for seed, one in reference.by_seed for own, other in arm.by_seed if seed == own or not seeds]
    found = [_turned(one, other) for one, other in pairs if one and one.keys() == other.keys()]
    if not found or len(found) < len(pairs):
        return None
    means = [fmean(column) for column in zip(*found, strict=True)]
    return Turned(
        right_to_wrong=means[0],
        wrong_to_right=means[1],
        num_changed=means[2],
        num_items=max(len(one) for one, _ in pairs),
    )


def movement(answered: Answered) -> Movement | None:
    """Return what LTPO did to the answers in which it had latents to move; an item with several seeds is one draw."""
    from rtx_lab.scoring.intervals import mean_interval

    gains: dict[str, list[float]] = {}
    shown = []
    for _, records in answered.by_seed:
        for name, record in records.items():
            first, best = record.get("ltpo_first"), record.get("ltpo_best")
            if is_number(first) and is_number(best):
                gains.setdefault(name, []).append(best - first)
                shown.append(record)
    if not shown:
        return None
    return Movement(
        first=fmean(float(record["ltpo_first"]) for record in shown),
        best=fmean(float(record["ltpo_best"]) for record in shown),
        gain=fmean(gain for own in gains.values() for gain in own),
        gain_span=mean_interval([fmean(own) for own in gains.values()]),
        moved=_mean(shown, "ltpo_moved"),
        steps=_mean(shown, "ltpo_steps"),
        num_answers=len(shown),
    )


def _turned(reference: Records, arm: Records) -> tuple[int, int, int]:
    to_wrong = to_right = changed = 0
    for name, before in reference.items():
        after = arm[name]
        was, now = bool(before.get("correct")), bool(after.get("correct"))
        to_wrong += was and not now
        to_right += now and not was
        changed += before.get("prediction") != after.get("prediction")
    return to_wrong, to_right, changed


def _places(record: Mapping[str, Any], key: str) -> list[int]:
    """Token positions of an answer in their order; anything that is no list of numbers is none."""
    places = record.get(key)
    return [int(place) for place in places if is_number(place)] if isinstance(places, Sequence) else []


def _count(counts: Shares, key: int, inserted: bool) -> None:
    decided, before = counts.get(key, (0, 0))
    counts[key] = (decided + 1, before + inserted)


def _mean(records: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [float(value) for record in records if is_number(value := record.get(key))]
    return fmean(values) if values else None
