"""The study sweeper: expand, settle and check every job before the first one starts; run each experiment once.

Outcomes are read from run directories, never from what a launcher returns, so the same sweep is right under launchers
that lose jobs when a worker dies.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.core.rundir import RunDir
from rtx_lab.core.schema import settle
from rtx_lab.sweep.door import report
from rtx_lab.sweep.plan import Job, print_outcomes, print_plan


def sweep(
    params: dict[str, Any],
    arguments: Sequence[str],
    *,
    context: HydraContext,
    task_function: TaskFunction,
    master: DictConfig,
) -> None:
    """Run every job of a grid that is not done yet, then print what came out.

    Ends with SystemExit: 0 all done, 2 nothing valid to run, 4 some jobs failed, 130 or 143 stopped by a signal.
    """
    try:
        jobs = plan_jobs(expand(params, arguments, context), context=context, master=master)
        if jobs[0].settled.run.plan:
            from rtx_lab.preflight import examine

            print_plan([(job.settled, examine(job.settled)) for job in jobs])
            raise SystemExit(0)
        waiting = [job for job in jobs if not _is_done(job)]
    except UsageError as error:
        raise SystemExit(report(error.problems)) from error
    except RunError as error:
        raise SystemExit(report([str(error)], code=1)) from error
    _launch(waiting, context=context, task_function=task_function, master=master)
    raise SystemExit(print_outcomes(jobs))


def expand(params: dict[str, Any], arguments: Sequence[str], context: HydraContext) -> list[tuple[str, ...]]:
    """The grid as lists of overrides: the phase's own parameters, overridden by the command line, in Hydra's order."""
    parser = OverridesParser.create(config_loader=context.config_loader)
    try:
        named = {o.key_or_group: o for o in parser.parse_overrides([f"{key}={value}" for key, value in params.items()])}
        for override in parser.parse_overrides(list(arguments)):
            named[override.key_or_group] = override
    except HydraException as error:
        raise UsageError(f"cannot read the sweep: {str(error).splitlines()[0]}") from error
    choices = []
    for override in named.values():
        if override.is_sweep_override():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            choices.append([str(override.input_line)])
    return list(itertools.product(*choices))


def plan_jobs(grid: list[tuple[str, ...]], *, context: HydraContext, master: DictConfig) -> list[Job]:
    """Settle and check every point of a grid; equal experiments become one job. Raises UsageError with all problems."""
    from rtx_lab.preflight import check_inputs, range_problems

    jobs: dict[str, Job] = {}
    problems: dict[str, None] = {}
    for overrides in grid:
        try:
            config = context.config_loader.load_sweep_config(master, list(overrides))
            settled = settle(config, range_problems)
            if not settled.run.plan:
                check_inputs(settled)
        except UsageError as error:
            problems |= dict.fromkeys(error.problems)
        except (HydraException, OmegaConfBaseException) as error:
            from rtx_lab.sweep.diagnosis import diagnose

            problems |= dict.fromkeys(diagnose(list(overrides), error))
        else:
            run = RunDir(Path(str(master.hydra.sweep.dir)) / settled.directory)
            jobs.setdefault(settled.directory, Job(overrides, settled, run))
    if problems or not jobs:
        raise UsageError(*(problems or ["the sweep holds no job"]))
    return list(jobs.values())


def _is_done(job: Job) -> bool:
    from rtx_lab.preflight import finished

    return finished(job.settled, job.run) is not None


def _launch(jobs: list[Job], *, context: HydraContext, task_function: TaskFunction, master: DictConfig) -> None:
    """Hand the jobs to Hydra's launcher; a launcher that runs one at a time stops after an interrupted job."""
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=task_function, config=master
    )
    one_by_one = type(launcher).__name__ == "BasicLauncher"
    batches = [[job] for job in jobs] if one_by_one else [jobs] * bool(jobs)
    first = 0
    for batch in batches:
        launcher.launch([list(job.overrides) for job in batch], initial_job_idx=first)
        first += len(batch)
        if any(job.run.status() == "interrupted" for job in batch):
            return
