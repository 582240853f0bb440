"""What each stage and each control of a latent-memory study really adds: paired tests, and plain words for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rtx_lab.report.findings import Comparison, compare_pair
from rtx_lab.report.groups import Factor, Group
from rtx_lab.report.memory_arms import BASE, CONTROLS, LTPO, NAMES, NEVER, RANDOM, STAGES, TRIGGER, Arm, MemoryStudy
from rtx_lab.report.memory_arms import candidates as candidates_of
from rtx_lab.report.memory_records import Answered, Movement, Turned, insertion_rate, movement, turned
from rtx_lab.report.pairing import Answers
from rtx_lab.report.wording import number, probability, seeds_words

LEAF = "accuracy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One arm with what was measured of it; `against` is the arm it is held against, `test` is this minus that."""

    arm: Arm
    answered: Answered
    rate: float | None
    moved: Movement | None
    against: Arm | None = None
    test: Comparison | None = None
    turned: Turned | None = None
    changed: float | None = None
    """Of an arm with LTPO: the share of items whose answer is another text than without it."""

    @property
    def is_stage(self) -> bool:
        """Whether this is a stage, held against the one before, and not a control, held against its stage."""
        return self.arm.kind in STAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedMemory:
    """A study with one line for each arm."""

    study: MemoryStudy
    lines: tuple[Line, ...]


def read_lines(study: MemoryStudy) -> JudgedMemory:
    """Read the answers of all arms once and choose what each is held against; nothing is tested yet."""
    lines = []
    for arm in study.arms:
        answered = Answered(arm)
        rate = insertion_rate(answered)
        rate = arm.group.mean("test/insertion_rate") if rate is None and arm.group is not None else rate
        moved = movement(answered) if arm.group is not None and arm.group.settings.get("ltpo.enabled") else None
        lines.append(Line(arm=arm, answered=answered, rate=rate, moved=moved))
    return JudgedMemory(study=study, lines=tuple(_set_against(line, lines) for line in lines))


def compare_arms(judged: Sequence[JudgedMemory], answers: Answers) -> list[Comparison]:
    """Return one comparison for each line that has something to be held against, uncorrected: line minus that."""
    found = []
    for one in judged:
        for line in one.lines:
            left, right = _sides(line)
            if left is not None and right is not None:
                factor = Factor("arm", "latents", ((left, right),))
                found.append(compare_pair(left, right, LEAF, answers, factor=factor, family=(left, right)))
    return found


def judge_lines(judged: Sequence[JudgedMemory], comparisons: Sequence[Comparison]) -> list[JudgedMemory]:
    """Return the studies with their tests; `comparisons` are those of the whole report, corrected."""
    return [replace(one, lines=tuple(_judge(line, one.lines, comparisons) for line in one.lines)) for one in judged]


def say_stages(judged: Sequence[JudgedMemory]) -> list[str]:
    """Return one sentence for each stage: what it adds to the stage before."""
    return [_say(one, line) for one in judged for line in one.lines if line.is_stage and line.against]


def say_controls(judged: JudgedMemory) -> list[str]:
    """Return one sentence for each control, seen from the stage that it controls, and on what LTPO moved."""
    told = [_say(judged, line) for line in judged.lines if line.arm.kind in CONTROLS and line.against]
    return [*told, *_say_frozen(judged)]


def gap_of(line: Line) -> tuple[float, float, float] | None:
    """Return line minus reference with its 95 % interval, None where nothing could be paired."""
    test = line.test
    if test is None or test.difference is None:
        return None
    found = test.difference
    gap, low, high = found.difference, found.low, found.high
    if line.arm.group is test.right:
        return gap, low, high
    return -gap, -high, -low


def points(value: float) -> str:
    """Return a difference of accuracies in points: .021 -> `+2.1`."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # adding 0 takes the sign off -0.0


def _set_against(line: Line, lines: Sequence[Line]) -> Line:
    arms = [one.arm for one in lines]
    if line.arm.kind == RANDOM and line is not _nearest(lines):
        return line
    found = candidates_of(line.arm, arms)
    if not found:
        return line
    return replace(line, against=next((arm for arm in found if arm.is_measured), found[0]))


def _nearest(lines: Sequence[Line]) -> Line | None:
    """Of the arms that insert at random the one whose rate is nearest to the trigger's; the rarer one of two."""
    rate = next((line.rate for line in lines if line.arm.kind == TRIGGER and line.rate is not None), None)
    drawn = [(line.rate, line) for line in lines if line.arm.kind == RANDOM and line.arm.is_measured]
    known = [(own, line) for own, line in drawn if own is not None]
    return min(known, key=lambda one: (abs(one[0] - rate), one[0]))[1] if known and rate is not None else None


def _sides(line: Line) -> tuple[Group | None, Group | None]:
    against = line.against
    if against is None or not (line.arm.is_measured and against.is_measured):
        return None, None
    return against.group, line.arm.group


def _judge(line: Line, lines: Sequence[Line], comparisons: Sequence[Comparison]) -> Line:
    line = replace(line, changed=_changed(line, lines))
    left, right = _sides(line)
    if left is None or right is None or line.against is None:
        return line
    pair = {id(left), id(right)}
    test = next((one for one in comparisons if one.leaf == LEAF and {id(one.left), id(one.right)} == pair), None)
    before = next(one.answered for one in lines if one.arm is line.against)
    return replace(line, test=test, turned=turned(before, line.answered))


def _changed(line: Line, lines: Sequence[Line]) -> float | None:
    plain = candidates_of(replace(line.arm, kind=LTPO), [one.arm for one in lines]) if line.moved else []
    before = next((one.answered for one in lines if plain and one.arm is plain[0]), None)
    found = turned(before, line.answered) if before is not None else None
    return found.num_changed / found.num_items if found is not None and found.num_items else None


def _say(judged: JudgedMemory, line: Line) -> str:
    """From the stage's side: what it adds to the stage before, or to its control."""
    against = line.against
    if against is None:
        return ""
    stage, other = (line.arm, against) if line.is_stage else (against, line.arm)
    head = f"{stage.label} against {other.label}"
    lost = next((arm for arm in (stage, other) if arm.problem), None)
    if lost is not None:
        return f"{head}: cannot be told, {lost.label} is {lost.problem}."
    gap, test = gap_of(line), line.test
    if gap is None or test is None or test.difference is None:
        return f"{head}: cannot be told, {test.reason if test else 'the two were not compared'}."
    value, low, high = gap if line.is_stage else (-gap[0], -gap[2], -gap[1])
    span = f"{points(value)} points [{points(low)}, {points(high)}], corrected {probability(test.p)}"
    limit = test.detectable
    verdict = "real" if test.shown else "no difference can be told"
    if not test.shown and limit is not None and limit < 1:
        verdict += f" (the smallest that could have been shown: {100 * limit:.1f})"
    seeds = f"; {seeds_words(test)}" if max(test.difference.num_seeds) > 1 else ""
    return f"{head}: {span}: {verdict}{_say_turned(line)}{seeds}."


def _say_turned(line: Line) -> str:
    if line.turned is None:
        return ""
    gained, lost = line.turned.wrong_to_right, line.turned.right_to_wrong
    if not line.is_stage:
        gained, lost = lost, gained
    digits = 0 if gained == int(gained) and lost == int(lost) else 1
    return f"; {number(gained, digits)} turned right, {number(lost, digits)} wrong of {line.turned.num_items}"


def _say_frozen(judged: JudgedMemory) -> list[str]:
    """Without latents a trained weaver must change no answer: the model that answers is frozen."""
    measured = [line for line in judged.lines if line.arm.is_measured]
    base = next((line for line in measured if line.arm.kind == BASE), None)
    found = []
    for line in measured if base is not None else ():
        one = turned(base.answered, line.answered) if line.arm.kind == NEVER and base is not None else None
        if one is not None and one.num_changed == 0:
            found.append(f"{NAMES[BASE]} and {line.arm.label}: the same {one.num_items} answers, word for word.")
        elif one is not None:
            found.append(
                f"{NAMES[BASE]} and {line.arm.label}: {number(one.num_changed, 0)} of {one.num_items} answers differ, "
                "though training the weaver should leave the model that answers as it was."
            )
    return found
