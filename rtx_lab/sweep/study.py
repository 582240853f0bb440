"""The study sweeper: price and check every job before the first one starts, run each once, report at the end.

A phase may be a list of other phases (`stages`), each fed by what the ones before it found.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.core.rundir import write_json
from rtx_lab.sweep.door import report
from rtx_lab.sweep.grid import Point, expand, swept_keys
from rtx_lab.sweep.jobs import Job, names_of
from rtx_lab.sweep.outcomes import exit_code, print_outcomes
from rtx_lab.sweep.plan import print_reasons, print_sums, print_unreadable
from rtx_lab.sweep.pretraining import pretrain_phases
from rtx_lab.sweep.session import Session
from rtx_lab.sweep.traces import trace_all
from rtx_lab.sweep.typed import key_of

log = logging.getLogger(__name__)

_LENGTHS = ("budget.steps", "budget.epochs")
Settings = Mapping[str, Any]
"""The fields of the study sweeper's configuration."""


@dataclass(slots=True)
class Stage:
    """One phase of a study: its settings, its session, and the jobs as they are known now."""

    phase: str
    settings: Settings
    session: Session
    arguments: list[str]
    jobs: list[Job]
    keeps: Callable[[Job], bool] = lambda _: True
    """Which of its jobs are run: a stage that pretrains leaves the models alone that come with weights."""

    @property
    def points(self) -> list[Point]:
        """What the phase's grids and the command line stand for."""
        return expand(self.settings["params"], self.arguments, self.session.context, also=self.settings["also"])

    def outline(self, earlier: Mapping[str, Sequence[Job]]) -> None:
        """Expand the phase's grid and settle its jobs; `earlier` are phases that have not been run yet."""
        self.session.earlier = earlier
        self.jobs = [job for job in self.session.outline(self.points) if self.keeps(job)]


def sweep(
    settings: Settings,
    arguments: Sequence[str],
    *,
    context: HydraContext,
    task_function: TaskFunction,
    master: DictConfig,
) -> None:
    """Run every job of a phase, or of a list of phases, that is not done yet; then print and report what came out.

    Ends with SystemExit: 0 all done, 2 nothing valid to run, 4 some jobs failed, 130 or 143 stopped by a signal.
    """
    try:
        stages = _stages(settings, list(arguments), context, task_function, master)
        if settings["n_trials"] is not None:
            from rtx_lab.sweep.search import search

            code = search(settings, stages[0].session, list(arguments))
            _write_report(stages[0].session.root / str(master.phase))
            raise SystemExit(code)
        _plan(stages)
        raise SystemExit(_run(stages, master, settings))
    except UsageError as error:
        raise SystemExit(report(error.problems)) from error
    except RunError as error:
        raise SystemExit(report([str(error)], code=1)) from error


def _stages(
    settings: Settings, arguments: list[str], context: HydraContext, task_function: TaskFunction, master: DictConfig
) -> list[Stage]:
    names = settings["stages"]
    if not names:
        return [_stage(str(master.phase), settings, arguments, context, task_function, master)]
    rest = [line for line in arguments if line.partition("=")[0] != "phase"]
    overrides = settings["stage_overrides"]
    own = stage_arguments(names, {name: overrides[name] for name in ("all", *names) if name in overrides}, rest)
    stages = [_load_stage(name, [*own[name], f"phase={name}"], context, task_function, master) for name in names]
    first: dict[str, None] = {}
    for stage in stages:
        first |= pretrain_phases(stage.session.master.inherit, stage.points, context, stage.session.master)
    first = {name: None for name in first if name not in names}
    own = stage_arguments([*first, *names], overrides, rest)
    for place, name in enumerate(first):
        stage = _load_stage(name, [*own[name], f"phase={name}"], context, task_function, master)
        stage.keeps = partial(_pretrains, name)
        stages.insert(place, stage)
    return stages


def _pretrains(phase: str, job: Job) -> bool:
    return job.settled.run.model.get("pretrain_phase") == phase


def stage_arguments(
    names: Sequence[str], overrides: Mapping[str, Sequence[str]], typed: Sequence[str]
) -> dict[str, list[str]]:
    """The command line of each stage: what its campaign sets for all stages, then for this one, then what was typed.

    The later wins, and a key stands once: Hydra refuses a group that is chosen twice. Raises UsageError for a name
    that is no stage.
    """
    strange = [name for name in overrides if name != "all" and name not in names]
    if strange:
        raise UsageError(f"stage_overrides names {', '.join(strange)}, and the stages are {', '.join(names)}")
    lines = {name: [*overrides.get("all", []), *overrides.get(name, []), *typed] for name in names}
    return {name: list({key_of(line): line for line in own}.values()) for name, own in lines.items()}


def _load_stage(
    name: str, arguments: list[str], context: HydraContext, task_function: TaskFunction, master: DictConfig
) -> Stage:
    hydra = master.hydra
    own = [line for line in hydra.overrides.hydra if line.partition("=")[0] != "hydra.sweeper.stages"]

    def load(lines: Sequence[str]) -> DictConfig:
        return context.config_loader.load_configuration(str(hydra.job.config_name), [*own, *lines], RunMode.MULTIRUN)

    shorter = [line for line in arguments if key_of(line) not in _LENGTHS]
    config = load(shorter)
    if config.budget.steps == 0:  # a stage that only evaluates: how long to train is said to the others
        arguments = shorter
    elif shorter != arguments:
        config = load(arguments)
    settings: Any = OmegaConf.to_container(config.hydra.sweeper)
    if settings["stages"] or settings["n_trials"] is not None:
        raise UsageError(f"phase={name} is itself a sequence or a search and cannot be a stage of another phase")
    return _stage(name, settings, arguments, context, task_function, config)


def _stage(
    phase: str,
    settings: Settings,
    arguments: list[str],
    context: HydraContext,
    task_function: TaskFunction,
    master: DictConfig,
) -> Stage:
    fits = tuple(settings["where_it_fits"])
    free = swept_keys(settings["params"], settings["also"])
    typed = (*arguments, *(str(line) for line in master.hydra.overrides.hydra))
    session = Session(context, task_function, master, free, fits, typed)
    return Stage(phase, settings, session, arguments, [])


def _plan(stages: list[Stage]) -> None:
    """Plan all stages before the first job starts; print the plan; end here if that is all that was asked for.

    Raises UsageError if there is nothing valid to run.
    """
    earlier: dict[str, list[Job]] = {}
    problems: dict[str, None] = {}
    for stage in stages:
        try:
            stage.outline(earlier)
        except UsageError as error:
            problems |= dict.fromkeys(error.problems)
        earlier[stage.phase] = stage.jobs
    if problems:
        raise UsageError(*problems)
    trace_all(variant.settled.run for stage in stages for job in stage.jobs for variant in job.variants)
    for stage in stages:
        stage.session.price(stage.jobs)
    jobs = [job for stage in stages for job in stage.jobs]
    print_sums(jobs)
    if all(job.refusal is not None or job.left_out for job in jobs):
        reasons = dict.fromkeys(job.refusal.reason for job in jobs if job.refusal is not None)
        raise UsageError(*(reasons or ["no job fits the hardware"]))
    print_reasons(jobs)
    if any(job.settled.run.plan for job in jobs):
        print_unreadable(jobs)
        raise SystemExit(0)


def _run(stages: list[Stage], master: DictConfig, settings: Settings) -> int:
    """Run stage after stage and return the exit code; the report is written whatever came out."""
    folder = stages[0].session.root / str(master.phase)
    code = 0
    for number, stage in enumerate(stages):
        if number:
            try:
                stage.outline({})  # what it inherits is known now
                stage.session.price(stage.jobs)
            except UsageError as error:
                report([f"phase {stage.phase}: {problem}" for problem in error.problems])
                stage.jobs, code = [], 4
                continue
        _write_study(folder, master, settings, stages)
        if len(stages) > 1:
            _announce(stage, number, len(stages))
            entitle(stage)
        stage.session.run(stage.jobs)
        code = stage.session.stopped or exit_code(stage.jobs) or code
        if stage.session.stopped:
            break
    _write_study(folder, master, settings, stages)
    print_outcomes([job for stage in stages for job in stage.jobs])
    if not any(stage.session.stopped for stage in stages):
        _write_report(folder)
    return code


def _announce(stage: Stage, number: int, total: int) -> None:
    """Say which phase begins, and what it takes from earlier ones."""
    print(f"phase {stage.phase} ({number + 1} of {total}): {len(stage.jobs)} jobs")
    lines = {
        f"  from {record['phase']} ({job.settled.run.dataset['_target_'].rpartition('.')[2]}, {record['by']}): "
        + ", ".join(f"{key}={value}" for key, value in record["chosen"].items())
        for job in stage.jobs
        for record in job.parents
    }
    print("".join(f"{line}\n" for line in sorted(lines)), end="")


def entitle(stage: Stage) -> None:
    """Call each job by what tells it from the others of its phase, one that is alone by the phase.

    What a campaign sets for all jobs of a stage would be most of the name otherwise.
    """
    names = names_of(stage.jobs) if len(stage.jobs) > 1 else [stage.phase]
    for job, name in zip(stage.jobs, names, strict=True):
        job.title = name


def _write_study(folder: Path, master: DictConfig, settings: Settings, stages: Sequence[Stage]) -> None:
    """Say on disk which jobs the command stands for, so that `status` knows who waits and the report who is missing."""
    jobs = [job for stage in stages for job in stage.jobs]
    runs = [job for job in jobs if job.refusal is None and not job.left_out and not job.is_open]
    not_run = [(job, name) for job, name in zip(jobs, names_of(jobs), strict=True) if job.refusal or job.left_out]
    write_json(
        folder / "study.json",
        {
            "phase": str(master.phase),
            "command": ["python", "train.py", *sys.argv[1:]],
            "stages": [stage.phase for stage in stages] if settings["stages"] else [],
            "jobs": [job.settled.directory for job in runs],
            "not_run": [
                {
                    "job": name,
                    "class": job.refusal.kind if job.refusal else "left out",
                    "reason": job.refusal.reason if job.refusal else job.left_out,
                }
                for job, name in not_run
            ],
            "expect": OmegaConf.to_container(master.expect),
            "labels": OmegaConf.to_container(master.labels),
        },
    )


def _write_report(folder: Path) -> None:
    """The report never changes what a sweep ends with."""
    try:
        from rtx_lab.report.build import write_report

        print(f"report: {write_report(folder)}")
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        again = f"`python -m rtx_lab report {folder}` tries again"
        log.warning("the report could not be written (%s: %s); %s", type(error).__name__, first, again)
