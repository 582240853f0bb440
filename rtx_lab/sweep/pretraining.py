"""The symbolic parent `pretrain`: the phase that makes a model without a checkpoint worth building upon.

A rule `inherit: {from: pretrain, checkpoint: best}` means the phase that the model names (`model.pretrain_phase`). A
model that names none comes with weights of its own, and the rule falls away. A campaign whose models name one runs it
as its first stage.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rtx_lab.core.errors import UsageError
from rtx_lab.sweep.compose import Composer
from rtx_lab.sweep.grid import Point
from rtx_lab.sweep.parents import Rule, rules_of
from rtx_lab.sweep.typed import key_of

PRETRAIN = "pretrain"
"""What stands in a rule for the phase that a model names."""


def rules_for(inherit: Any, model: Mapping[str, Any], hydra: DictConfig) -> list[Rule]:
    """The rules of a phase for one model; `hydra` is the node that says where the phases stand.

    Raises UsageError for what is no rule, and where the model's pretrain phase does not exist.
    """
    own = model.get("pretrain_phase")
    rules = [rule for rule in rules_of(inherit) if rule.phase != PRETRAIN or own is not None]
    if any(rule.phase == PRETRAIN for rule in rules):
        _check(str(own), hydra)
    return [replace(rule, phase=str(own)) if rule.phase == PRETRAIN else rule for rule in rules]


def pretrain_phases(
    inherit: Any, points: Sequence[Point], context: HydraContext, master: DictConfig
) -> dict[str, None]:
    """The pretrain phases that a stage's points need, in order; a point that names its weights needs none.

    What cannot be composed is passed over: planning the stage says what is wrong with it.
    """
    if all(rule.phase != PRETRAIN for rule in rules_of(inherit)):
        return {}
    composer = Composer(context, master)
    found: dict[str, None] = {}
    for point in points:
        if any(key_of(line) == "init_from" for line in point):
            continue
        try:
            phase = (composer.compose(point).get("model") or {}).get("pretrain_phase")
        except (HydraException, OmegaConfBaseException, UsageError):
            continue
        if phase is not None:
            _check(str(phase), master.hydra)
            found[str(phase)] = None
    return found


def _check(phase: str, hydra: DictConfig) -> None:
    folders = [Path(source.path, "phase") for source in hydra.runtime.config_sources if source.schema == "file"]
    known = sorted(path.stem for folder in folders for path in folder.glob("*.yaml"))
    if known and phase not in known:
        near = difflib.get_close_matches(phase, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "name one of conf/phase, as tiny_lm"
        raise UsageError(f"model.pretrain_phase={phase} is no phase: {hint}")
