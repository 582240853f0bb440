"""Handing jobs to Hydra's launcher, and what the sweep does around it: refusals on record, waiting for locks."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rtx_lab.core.errors import RunError
from rtx_lab.core.rundir import write_json, write_text
from rtx_lab.sweep.board import Tally
from rtx_lab.sweep.jobs import Job, Refusal, plan_record

log = logging.getLogger(__name__)

_POLL_S = 0.5


def launch(
    jobs: Sequence[Job],
    context: HydraContext,
    task_function: TaskFunction,
    master: DictConfig,
    tally: Tally | None = None,
) -> int:
    """Run jobs under the launcher that the configuration names; return the exit code of a signal, 0 if none came.

    The local launcher shows them as a part of `tally`, where there is one.
    A launcher that runs its jobs in this process gets one at a time, so that it can stop between them.
    """
    launcher: Any = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=task_function, config=master
    )
    jobs = [job for job in jobs if _record_plan(job)]
    if hasattr(launcher, "known"):
        launcher.known, launcher.tally = {job.overrides: _launched(job) for job in jobs}, tally
        for job in jobs:
            job.isolated = True
    one_by_one = type(launcher).__name__ == "BasicLauncher"
    for batch in [[job] for job in jobs] if one_by_one else [list(jobs)]:
        stopped = _launch_batch(launcher, batch)
        if stopped:
            return stopped
    return 0


def _record_plan(job: Job) -> bool:
    """Write plan.json; a job whose run directory refuses it is refused alone."""
    try:
        write_json(job.run.plan_path, plan_record(job))
    except RunError as error:
        job.refusal = Refusal("directory", str(error))
    return job.refusal is None


def _launch_batch(launcher: Any, batch: Sequence[Job]) -> int:
    try:
        launcher.launch([list(job.overrides) for job in batch], initial_job_idx=0)
    except KeyboardInterrupt:
        return 130
    except SystemExit as end:
        return int(end.code or 1)
    except Exception as error:  # a worker of joblib or Ray died, and with it what the others would have said
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning("the launcher lost jobs (%s: %s)", type(error).__name__, first)
    ends = [job.run.read_result() or {} for job in batch if job.run.status() == "interrupted"]
    return int(ends[0].get("exit_code") or 130) if ends else 0


def _launched(job: Job) -> Any:
    from rtx_lab.sweep.local import Launched

    hardware = job.settled.run.hardware
    return Launched(
        job.overrides, job.run.path.absolute(), job.memory_gb, job.settled.run.exclusive, hardware.memory_gb,
        number=job.number, title=job.title,
    )  # fmt: skip


def record_refusal(job: Job) -> None:
    """Give a refused job its terminal status; one whose parent is missing has no identity yet."""
    if job.refusal is None or job.refusal.kind == "no parent" or job.run.is_locked():
        return
    if (job.run.read_result() or {}).get("status") == "done":
        return
    settled = {"signature": job.settled.signature, "phase": job.settled.run.phase}
    result = {"status": "refused", "class": job.refusal.kind, "reason": job.refusal.reason}
    try:
        write_text(job.run.config_path, OmegaConf.to_yaml(OmegaConf.create(job.settled.config)))
        write_json(job.run.result_path, result | settled)
    except RunError as error:  # the table and study.json name the job all the same
        log.warning("%s", error)


def wait_for(jobs: Sequence[Job]) -> None:
    """Wait until other processes have let go of these jobs: orphans of a killed sweep, or another sweep."""
    for job in jobs:
        if job.run.is_locked():
            print(f"waiting for another process that runs {job.run.path}")
        while job.run.is_locked():
            time.sleep(_POLL_S)
