"""What the user typed, apart from what a phase brings along: whose a wrong value is, and what to type for a parent."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence

from rtx_lab.sweep.grid import Point

_NOT_OF_A_PARENT = {
    *("phase", "plan", "run_anyway", "exclusive", "inherit", "expect", "labels", "init_from", "resume_from")
}
_OF_THE_SWEEP = ("hydra.sweep.dir", "hydra/launcher", "hydra.launcher")
_ADVICE = re.compile("did you mean|here it is|; known:")


def key_of(line: str) -> str:
    """The key of an override, without what adds or deletes it."""
    return line.partition("=")[0].lstrip("+~")


def name_origins(
    problems: Mapping[str, Sequence[Point]], points: Sequence[Point], typed: Collection[str], phase: str
) -> list[str]:
    """The problems, each with the values in it that come from the phase's own grid.

    `problems` says in which points each was met, `typed` which keys the command line names.
    """
    return [
        problem + _origin(problem, _culprits(problem, where, points, typed), phase)
        for problem, where in problems.items()
    ]


def _culprits(problem: str, where: Sequence[Point], points: Sequence[Point], typed: Collection[str]) -> list[str]:
    """Overrides of the grid that the problem names; else the chosen options of the group that it is about.

    Options are told only where others of the grid do not have the problem: else it is the command line's own.
    """
    said = _ADVICE.split(problem)[0]
    own = list(dict.fromkeys(line for point in where for line in point if key_of(line) not in typed))
    named = [line for line in own if re.search(rf"(?<![\w.]){re.escape(key_of(line))}(?![\w.]*\w)", said)]
    if named:
        return named
    groups = [line for line in own if re.search(rf"(?<![\w.]){re.escape(key_of(line))}\.\w", said)]
    guilty = {*where}
    innocent = {line for point in points if point not in guilty for line in point}
    return [line for line in groups if line not in innocent and any(key_of(line) == key_of(o) for o in innocent)]


def _origin(problem: str, lines: Sequence[str], phase: str) -> str:
    if not lines:
        return ""
    verb, joint = "comes" if len(lines) == 1 else "come", " " if problem.endswith("?") else "; "
    said = f"{joint}{', '.join(lines)} {verb} from the grid of phase={phase}"
    if any(f"unknown key `{key_of(line)}`" in problem for line in lines):
        return said  # no other value would help
    return f"{said}; replace the grid with {' '.join(f'{key}=VALUES' for key in dict.fromkeys(map(key_of, lines)))}"


def command_of_parents(phase: str, dataset: str, inherited: Iterable[str], typed: Sequence[str]) -> str:
    """The command that runs the phase to inherit from as the child was asked for: with its overrides, as typed."""
    keys = {*inherited}
    kept = [line for line in typed if key_of(line) not in keys and _concerns_a_parent(key_of(line))]
    chosen = [] if any(key_of(line) == "dataset" for line in kept) else [f"dataset={dataset}"]
    return shlex.join(["python", "train.py", "-m", f"phase={phase}", *chosen, *kept])


def _concerns_a_parent(key: str) -> bool:
    if key.startswith("hydra"):
        return key.startswith(_OF_THE_SWEEP)
    return key.partition(".")[0] not in _NOT_OF_A_PARENT
