"""Which arm of a batch study a later phase takes over: the one that the study's report recommends."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from rtx_lab.report.batch_advice import choose
from rtx_lab.report.batch_arms import Arm
from rtx_lab.report.batch_study import Judged
from rtx_lab.report.build import read_study


def rank_arms(folder: Path, names: Collection[str]) -> list[Arm]:
    """Return the arms of the study in `folder` that hold runs of these names: the recommended one, then fast to slow.

    Scores and costs are tested as in the report on the whole folder. Empty where the speed of no arm was measured.
    """
    results = sorted(folder.absolute().glob("*/result.json"))
    for one in _judge(folder.absolute(), tuple((str(path), path.stat().st_mtime_ns) for path in results)):
        held = tuple(arm for arm in one.study.arms if any(run.path.name in names for run in arm.group.runs))
        chosen = choose(replace(one.study, arms=held), one.scores, one.costs) if held else None
        if chosen is not None:
            return sorted(held, key=lambda arm: (arm is not chosen, -(arm.mean("samples_per_s") or 0.0)))
    return []


@functools.lru_cache(maxsize=4)
def _judge(folder: Path, _results: tuple[tuple[str, int], ...]) -> Sequence[Judged]:
    """The studies of a folder as long as its results stay what they are: every job of a later phase asks anew."""
    return read_study(folder).batches
