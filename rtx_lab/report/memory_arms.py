"""The arms of a latent-memory study: what each stage and each control is, and what it is held against.

A run tells by its `task` and `ltpo` sections which arm it is. The arms of a study share data and base model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rtx_lab.report.groups import Group, identity
from rtx_lab.report.lineage import ARROW
from rtx_lab.report.runs import is_number
from rtx_lab.report.settings import title, value_text

TASKS = ("tune_task", "trigger_task", "weaver_grpo_task")
"""The tasks of such a study, as a report spells them."""

BASE, WEAVER, TRIGGER, LTPO = "base", "weaver", "trigger", "ltpo"
NEVER, NOISE, RANDOM, PROMPT, TUNED, PROMPT_END = "never", "noise", "random", "prompt_tuning", "lora_sft", "prompt_end"
NO_STEPS, RANDOM_DIRECTION, BEST_OF = "ltpo_0", "ltpo_random_direction", "ltpo_best_of"

NAMES = {
    BASE: "base (no latents)",
    WEAVER: "weaver (always)",
    NEVER: "trained weaver (never inserted)",
    NOISE: "random latents (same norm)",
    RANDOM: "random insertion",
    PROMPT_END: "weaver (prompt end only)",
    PROMPT: "prompt tuning",
    TUNED: "LoRA fine-tuning",
    TRIGGER: "trigger",
    LTPO: "LTPO",
    NO_STEPS: "LTPO (no steps)",
    RANDOM_DIRECTION: "LTPO (random direction)",
    BEST_OF: "LTPO (best of candidates)",
}
"""Every kind of arm in the order in which a table lists it, with its name."""

STAGES = {WEAVER: BASE, TRIGGER: WEAVER, LTPO: TRIGGER}
"""Each stage and the stage before."""

CONTROLS = {
    NEVER: WEAVER, NOISE: WEAVER, PROMPT_END: WEAVER, PROMPT: WEAVER, TUNED: WEAVER, RANDOM: TRIGGER, NO_STEPS: LTPO,
    RANDOM_DIRECTION: LTPO, BEST_OF: LTPO,
}  # fmt: skip
"""Each control and the stage that it controls; of random insertion the arm with the rate nearest to the trigger's."""

_OF_PHASE = {
    "base_eval": (BASE,), "weaver_eval": (WEAVER, NEVER, NOISE, RANDOM), "prompt_tuning": (PROMPT,),
    "lora_sft": (TUNED,), "trigger_eval": (TRIGGER,), "ltpo_eval": (LTPO, NO_STEPS, RANDOM_DIRECTION, BEST_OF),
}  # fmt: skip
"""The arms that a stage of the campaign measures: without them the table says so."""

_PARTS = {"lora_sft": "tuned", "weaver_sft": "weaver", "weaver_grpo": "weaver", "trigger_grpo": "weaver"}
_KNOBS = (
    "model.max_prompt_aug_num", "model.max_inference_aug_num", "model.prompt_latents_len",
    "model.inference_latents_len", "model.weaver_context", "model.trigger", "model.lora_",
)  # fmt: skip
_LABELLED = ("model", "dataset", "task", "ltpo", "generation", "optim", "budget")
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One line of the table; `group` is None where no run of this kind exists, `chain` the phases of its weights."""

    kind: str
    label: str
    group: Group | None = None
    chain: tuple[str, ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether a finished run scored the test items."""
        return self.group is not None and self.group.mean("test/accuracy") is not None

    @property
    def problem(self) -> str:
        """Why there are no numbers, empty where there are some."""
        if self.is_measured:
            return ""
        if self.group is None:
            return "missing: not run"
        states = sorted({run.status for run in self.group.runs})
        return "missing: no test accuracy" if states == ["done"] else f"missing: {', '.join(states)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStudy:
    """All arms of one base model on one dataset, and all runs of its stages."""

    model: str
    dataset: str
    arms: tuple[Arm, ...]
    groups: tuple[Group, ...]

    @property
    def name(self) -> str:
        """The model and its data."""
        return f"{self.model} on {self.dataset}"


def find_memory_studies(groups: Iterable[Group], stages: Collection[str]) -> list[MemoryStudy]:
    """Return the studies among the groups; `stages` are the phases that a campaign names, run or not."""
    cells: dict[str, list[Group]] = {}
    for group in groups:
        if group.settings.get("task") in TASKS:
            cells.setdefault(identity(_shared(group.settings)), []).append(group)
    return [_study(cell, stages) for cell in cells.values()]


def kind_of(settings: Mapping[str, Any], chain: Sequence[str]) -> str:
    """Return the kind of arm that a run with these settings is; empty for a stage whose answers are none."""
    insert, latents = settings.get("task.insert"), settings.get("task.latents")
    if settings.get("task.part") == "base":  # pretraining is no arm
        return ""
    if settings.get("ltpo.enabled"):
        return _kind_of_ltpo(settings)
    if latents == "learnt":
        return PROMPT
    if latents == "noise":
        return NOISE
    if insert != "never":
        return {"always": WEAVER, "random": RANDOM, "trigger": TRIGGER, "prompt": PROMPT_END}.get(str(insert), "")
    trained = {_PARTS.get(phase.partition(" ")[0], "") for phase in chain}
    trained |= {settings.get("task.part")} if trains(settings) else set()
    return TUNED if "tuned" in trained else NEVER if "weaver" in trained else BASE


def trains(settings: Mapping[str, Any]) -> bool:
    """Return whether a run trains anything: an evaluation takes no optimizer step."""
    return settings.get("budget.steps") != 0


def chain_of(group: Group) -> tuple[str, ...]:
    """Return the phases that trained the weights with which a group started, the first one first."""
    place = group.settings.get("init_from")
    return tuple(str(place).split(ARROW)) if place else ()


def candidates(arm: Arm, arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms that this one may be held against, the most alike first; empty for the base."""
    wanted = STAGES.get(arm.kind) or CONTROLS.get(arm.kind)
    if arm.kind == LTPO and arm.group is not None:
        insert = arm.group.settings.get("task.insert")
        wanted = {"always": WEAVER, "random": RANDOM, "prompt": PROMPT_END}.get(str(insert), TRIGGER)
    found = [other for other in arms if other.kind == wanted and other is not arm]
    return sorted(found, key=lambda other: _likeness(arm, other), reverse=True)


def _kind_of_ltpo(settings: Mapping[str, Any]) -> str:
    control = settings.get("ltpo.control")
    if control is not None:
        return {"random_direction": RANDOM_DIRECTION, "best_of": BEST_OF}.get(str(control), "")
    return NO_STEPS if settings.get("ltpo.max_steps") == 0 else LTPO


def _shared(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The base model and its data; the knobs of the memory may differ within a study."""
    return {
        key: value
        for key, value in settings.items()
        if key.partition(".")[0] in ("model", "dataset") and not key.startswith(_KNOBS)
    }


def _study(groups: Sequence[Group], stages: Collection[str]) -> MemoryStudy:
    found = [(kind, group) for group in groups if (kind := kind_of(group.settings, chain_of(group)))]
    found = [(kind, group) for kind, group in found if not _is_repeated(kind, group, found)]
    arms = []
    for kind in NAMES:
        same = [group for one, group in found if one == kind]
        same.sort(key=lambda group: _share(group) or 0.0)
        arms += [
            Arm(kind=kind, label=_label(kind, group, same), group=group, chain=_trained_by(group)) for group in same
        ]
    present = {arm.kind for arm in arms}
    wanted = {kind for stage in stages for kind in _OF_PHASE.get(stage, ())}
    wanted |= {STAGES.get(kind) or CONTROLS.get(kind) or kind for kind in present - {RANDOM}}
    arms += [Arm(kind=kind, label=NAMES[kind]) for kind in sorted(wanted - present)]
    arms.sort(key=lambda arm: list(NAMES).index(arm.kind))
    model = groups[0].settings.get("model.checkpoint") or groups[0].settings.get("model")
    name = str(model).rstrip("/").rpartition("/")[2]
    return MemoryStudy(model=name, dataset=groups[0].dataset, arms=tuple(arms), groups=tuple(groups))


def _is_repeated(kind: str, group: Group, found: Sequence[tuple[str, Group]]) -> bool:
    """A training run whose weights an evaluation scored again, or one that scored nothing, is no line of its own."""
    if not trains(group.settings):
        return False
    own = group.settings.get("phase")
    evaluated = [chain_of(one) for other, one in found if other == kind and not trains(one.settings)]
    if any(chain and own in chain[-1].replace("/", " ").split(" ") for chain in evaluated):
        return True
    # Of these two the training run is the measurement: a failed one stays to be seen.
    return kind not in (PROMPT, TUNED) and group.mean("test/accuracy") is None


def _trained_by(group: Group) -> tuple[str, ...]:
    own = (str(group.settings.get("phase")),) if trains(group.settings) else ()
    return (*chain_of(group), *own)


def _share(group: Group) -> float | None:
    share = group.settings.get("task.insert_share")
    return float(share) if is_number(share) else None


def _label(kind: str, group: Group, same: Sequence[Group]) -> str:
    """The name of the kind, with the share of random insertions and with what sets it apart from its like."""
    share = _share(group) if kind == RANDOM else None
    parts = [NAMES[kind]] if share is None else [f"{NAMES[kind]} (p = {value_text(share)})"]
    settings = group.settings
    keys = sorted({key for one in same for key in one.settings if key.partition(".")[0] in _LABELLED})
    apart = [key for key in keys if len({identity(one.settings.get(key)) for one in same}) > 1]
    apart = [key for key in apart if share is None or key != "task.insert_share"]
    parts += [f"{title(key)} {value_text(settings.get(key))}" for key in apart[:_MOST_NAMED]]
    for key in ("init_from", "phase"):
        if not apart and len({str(one.settings.get(key)) for one in same}) > 1:
            parts.append(f"of {settings.get(key)}")
            break
    return ", ".join(parts)


def _likeness(arm: Arm, other: Arm) -> tuple[bool, int]:
    """Weights of one line first, then the more settings are equal the better."""
    if arm.group is None or other.group is None:
        return False, 0
    shared = min(len(arm.chain), len(other.chain))
    settings = other.group.settings
    equal = sum(identity(settings.get(key)) == identity(value) for key, value in arm.group.settings.items())
    return arm.chain[:shared] == other.chain[:shared], equal
