"""One sweep of one phase: plan its points, run the jobs that are left, and know what came of each.

Outcomes are read from run directories, never from what a launcher returns, so the same sweep is right under launchers
that lose jobs when a worker dies.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.core.rundir import RunDir
from rtx_lab.core.schema import Settled, settle
from rtx_lab.sweep.board import Tally
from rtx_lab.sweep.compose import Composer
from rtx_lab.sweep.grid import Point, override_of
from rtx_lab.sweep.jobs import Job, Refusal, is_waiting, planned_of
from rtx_lab.sweep.launching import launch, record_refusal, wait_for
from rtx_lab.sweep.likeness import most_alike
from rtx_lab.sweep.parents import Parent, Rule, Values, choose, finished_runs, possible_values, was_started
from rtx_lab.sweep.pretraining import rules_for
from rtx_lab.sweep.traces import trace_all
from rtx_lab.sweep.typed import key_of, name_origins


@dataclass(slots=True)
class Session:
    """What every step of a sweep needs: Hydra's parts, the command line's keys, and what was looked up before."""

    context: HydraContext
    task_function: TaskFunction
    master: DictConfig
    free: frozenset[str] = frozenset()
    """Keys in which a parent may differ: what the phase's own grids sweep."""
    where_it_fits: tuple[str, ...] = ()
    """Overrides whose jobs are left out, not refused, where they do not fit."""
    typed: tuple[str, ...] = ()
    """Overrides of the command line, Hydra's own among them; what else is in a point is the phase's."""
    earlier: Mapping[str, Sequence[Job]] = field(default_factory=dict)
    """Jobs of the phases that the same command runs before this one."""
    stopped: int = 0
    """Exit code of the signal that stopped the sweep; 0 while none came."""
    _composer: Composer | None = None
    _parents: dict[str, list[Parent]] = field(default_factory=dict)
    _checked: dict[str, Refusal | None] = field(default_factory=dict)
    _ranges: dict[str, list[str]] = field(default_factory=dict)
    _known_digests: dict[str, dict[str, str]] = field(default_factory=dict)
    _calibrations: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The multirun folder."""
        return Path(str(self.master.hydra.sweep.dir))

    def plan(self, points: Sequence[Point]) -> list[Job]:
        """Outline and price points: see `outline` and `price`."""
        return self.price(self.outline(points))

    def outline(self, points: Sequence[Point]) -> list[Job]:
        """Compose, inherit and settle every point; equal experiments become one job.

        Raises UsageError with all problems of the command or of the configuration.
        """
        self._composer = self._composer or Composer(self.context, self.master)
        self._parents.clear()
        jobs: dict[str, Job] = {}
        problems: dict[str, list[Point]] = {}
        refused: dict[str, tuple[Exception, list[Point]]] = {}
        for point in points:
            try:
                job = self._job_at(point)
                jobs.setdefault(job.key, job)
            except UsageError as error:
                for problem in error.problems:
                    problems.setdefault(problem, []).append(point)
            except (HydraException, OmegaConfBaseException) as error:
                refused.setdefault(str(error), (error, []))[1].append(point)
        for error, where in refused.values():
            from rtx_lab.sweep.diagnosis import diagnose

            for problem in diagnose(list(where[0]), error):
                problems.setdefault(problem, []).extend(where)
        if problems:
            typed = {key_of(line) for line in self.typed}
            raise UsageError(*name_origins(problems, points, typed, str(self.master.phase)))
        if not jobs:
            raise UsageError("the sweep holds no job")
        return list(jobs.values())

    def price(self, jobs: list[Job]) -> list[Job]:
        """Price and check jobs. What is wrong with one alone (size, data, parent) stands in its `refusal`.

        With run_anyway a job that does not fit is run all the same.
        """
        from rtx_lab.pricing.advice import refusal

        trace_all(job.settled.run for job in self._all(jobs))
        for variant in self._all(jobs):
            variant.price = self._price(variant.settled)
        for job in jobs:
            if job.left_out:
                continue
            if job.is_open:
                job.price = max((variant.price for variant in job.variants), key=lambda price: price.peak_bytes)
            if job.refusal is None and not job.price.fits and not self._runs_anyway(job):
                if set(job.overrides) & set(self.where_it_fits):
                    job.left_out = "does not fit"
                elif not job.is_open:
                    job.refusal = Refusal("price", refusal(job.settled, job.price, self._calibration(job.settled)))
            if job.refusal is None and not job.settled.run.plan:
                job.refusal = self._input_problem(job)
        return jobs

    @staticmethod
    def _runs_anyway(job: Job) -> bool:
        """Whether a job that does not fit is no news: it was asked for all the same, or it is done."""
        return job.settled.run.run_anyway or (not job.is_open and job.run.status() == "done")

    @staticmethod
    def _all(jobs: Sequence[Job]) -> list[Job]:
        """Everything that these jobs may turn out to be, without what is refused or left out already."""
        return [variant for job in jobs if job.refusal is None and not job.left_out for variant in job.variants]

    def run(self, jobs: Sequence[Job], tally: Tally | None = None) -> None:
        """Run every job that is neither refused nor done, and wait until each has ended; count them in `tally`.

        Jobs that another process runs are waited for. What a launcher lost is launched once more, alone.
        """
        from rtx_lab.pricing.trace import keep_on_disk

        keep_on_disk()
        for job in jobs:
            record_refusal(job)
        todo = [job for job in jobs if job.refusal is None and not job.left_out and not self.is_done(job)]
        free = [job for job in todo if not job.run.is_locked()]
        if self._launch(free, tally):
            return
        held = [job for job in todo if job not in free or job.run.is_locked()]
        wait_for(held)
        if self._launch([job for job in held if not self.is_done(job)], tally):
            return
        for job in todo:
            status = job.run.status() if job.refusal is None else "refused"
            if (status == "new" or (status == "killed" and not job.isolated)) and self._launch([job], tally):
                return

    def is_done(self, job: Job) -> bool:
        """Whether this very experiment is finished. Raises UsageError if it was, but with other data than today's."""
        from rtx_lab.preflight import finished

        return finished(job.settled, job.run, self._digests) is not None

    def _digests(self, settled: Settled) -> dict[str, str]:
        from rtx_lab.preflight import current_digests

        run = settled.run
        key = json.dumps([run.dataset, run.init_from, run.resume_from], sort_keys=True, default=str)
        if key not in self._known_digests:
            self._known_digests[key] = current_digests(settled)
        return self._known_digests[key]

    def _job_at(self, point: Point) -> Job:
        assert self._composer is not None
        config = self._composer.compose(point)
        settled = self._settle(config)
        rules = rules_for(settled.run.inherit, settled.run.model, self.master.hydra)
        typed = {line.partition("=")[0] for line in point}
        values: list[tuple[Values, list[dict[str, Any]]]] = [({}, [])]
        awaits = False
        for rule in rules:
            wanted = [key for key in (rule.keys or ("init_from",)) if key not in typed]
            if not wanted:
                continue
            if rule.checkpoint and self._awaits(rule, settled):
                awaits = True
                continue
            pending = self._pending(rule.phase)
            try:
                if pending and rule.keys:
                    found = [(v, []) for v in possible_values(rule, settled.config, self.free, pending)]
                else:
                    choice = choose(rule, settled.config, self.free, self._finished(rule.phase), self.typed)
                    found = [(choice.values, [choice.record])]
            except UsageError as error:
                if self._parent_left_out(point, settled, rule):
                    return self._job(point, settled, left_out="its parent was left out")
                return self._job(point, settled, refusal=Refusal("no parent", str(error)))
            kept = [({key: v[key] for key in wanted}, record) for v, record in found]
            values = [(old | new, [*a, *b]) for old, a in values for new, b in kept]
        jobs = [self._job(point, settled)]
        if any(new for new, _ in values):
            jobs = [self._inheriting(point, config, new, records) for new, records in values]
        is_known = len(jobs) == 1 and not awaits
        return jobs[0] if is_known else Job(point, settled, jobs[0].run, alternatives=tuple(jobs))

    def _parent_left_out(self, point: Point, settled: Settled, rule: Rule) -> bool:
        """Whether a job asked for only where it fits has no parent because that, too, was run only where it fits."""
        return (
            bool(set(point) & set(self.where_it_fits))
            and bool(self._finished(rule.phase))
            and not was_started(rule, settled.config, self.free, self.root)
        )

    def _inheriting(self, point: Point, config: dict[str, Any], values: Values, records: list[dict[str, Any]]) -> Job:
        own = copy.deepcopy(config)
        for key, value in values.items():
            section, _, name = key.rpartition(".")
            (own[section] if section else own)[name] = value
        added = tuple(override_of(key, value) for key, value in values.items())
        return self._job((*point, *added), self._settle(own), parents=records)

    def _job(self, point: Point, settled: Settled, **more: Any) -> Job:
        return Job(point, settled, RunDir(self.root / settled.directory), **more)

    def _settle(self, config: dict[str, Any]) -> Settled:
        return settle(config, self._range_problems)

    def _range_problems(self, plain: dict[str, Any]) -> list[str]:
        from rtx_lab.preflight import range_problems  # torch

        key = json.dumps([plain["model"], plain["optim"]], sort_keys=True, default=str)
        if key not in self._ranges:
            self._ranges[key] = range_problems(plain)
        return self._ranges[key]

    def _finished(self, phase: str) -> list[Parent]:
        if phase not in self._parents:
            self._parents[phase] = finished_runs(self.root, phase)
        return self._parents[phase]

    def _pending(self, phase: str) -> list[dict[str, Any]]:
        """Settled configs of the parents of this command, where not all of them have ended; else nothing."""
        parents = self.earlier.get(phase, ())
        planned = planned_of(parents)
        return [job.settled.config for job in planned] if is_waiting(parents, planned) else []

    def _awaits(self, rule: Rule, child: Settled) -> bool:
        """Whether the run that a job takes its weights from is one of this command and has not ended."""
        parents = self.earlier.get(rule.phase, ())
        planned = planned_of(parents)
        alike = [planned[i] for i in most_alike((), child.config, self.free, [job.settled.config for job in planned])]
        own = [job for job in alike if job.settled.run.seed == child.run.seed] or alike
        return bool(own) and is_waiting(parents, own)

    def _price(self, settled: Settled) -> Any:
        from rtx_lab.pricing.price import price

        return price(settled, self._calibration(settled))

    def _calibration(self, settled: Settled) -> Any:
        from rtx_lab.pricing.calibration import calibrate

        name = settled.run.hardware.name
        if name not in self._calibrations:
            self._calibrations[name] = calibrate(self.root, name)
        return self._calibrations[name]

    def _input_problem(self, job: Job) -> Refusal | None:
        """What is missing or broken on this machine, or has changed since the job was done."""
        found = self._missing_input(job.settled)
        if found is not None or job.is_open:
            return found
        try:
            self.is_done(job)
        except (UsageError, RunError) as error:
            return Refusal("input", str(error))
        return None

    def _missing_input(self, settled: Settled) -> Refusal | None:
        from rtx_lab.preflight import check_inputs

        run = settled.run
        starts = [run.init_from, run.resume_from, run.model if run.init_from or run.resume_from else None]
        sizes = [run.model.get("max_seq_len"), run.model.get("vocab_size"), run.budget.steps == 0]
        machine = [run.hardware.device, run.hardware.precision]
        key = json.dumps([run.dataset, machine, sizes, starts], sort_keys=True, default=str)
        if key not in self._checked:
            try:
                check_inputs(settled)
                self._checked[key] = None
            except (UsageError, RunError) as error:
                self._checked[key] = Refusal("input", str(error))
        return self._checked[key]

    def _launch(self, jobs: Sequence[Job], tally: Tally | None) -> bool:
        """Launch jobs; return whether a signal stopped the sweep."""
        if jobs:
            self.stopped = launch(jobs, self.context, self.task_function, self.master, tally)
        return bool(self.stopped)
