"""The gate: settle, inherit, validate, price and skip *before* Hydra makes a folder or a log file.

Hydra swallows ordinary exceptions of callbacks, so the gate ends the process with SystemExit: 0 when nothing is left to
do, 1 when the run cannot start now, 2 when the command is wrong.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.core.judged import judged_by
from rtx_lab.core.rundir import RunDir, write_json
from rtx_lab.core.schema import Settled, settle
from rtx_lab.sweep.door import report, unexpected
from rtx_lab.sweep.hydra_keys import refuse_unknown

_ELSEWHERE = re.compile("submitit|ray", re.IGNORECASE)
"""Launchers whose jobs run on machines that this one cannot look at."""

PLANNED = "RTX_LAB_PLANNED"
"""Environment variable with the run directory that a sweep has planned for the job it starts."""


class Gate(Callback):
    """Hydra callback of every start of `train.py`."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """One run: refuse, plan or skip here; otherwise write the settled values into the config."""
        try:
            refuse_unknown(config.hydra)
            _pass_one(config)
        except UsageError as error:
            raise SystemExit(report(error.problems)) from error
        except RunError as error:
            raise SystemExit(report([str(error)], code=1)) from error
        except Exception as error:  # Hydra would turn it into a warning and go on without the gate
            raise SystemExit(unexpected(error)) from error

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """A sweep: refuse what Hydra would silently do wrong. The study sweeper validates every job itself."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise SystemExit(report(["-m does not go with torchrun: sweep without torchrun, or run one job with it"]))
        try:
            refuse_unknown(config.hydra)
        except UsageError as error:
            raise SystemExit(report(error.problems)) from error
        if config.inherit is not None and not str(config.hydra.sweeper._target_).endswith("StudySweeper"):
            line = f"phase={config.phase} inherits from another phase: only hydra/sweeper=study looks the values up"
            raise SystemExit(report([line]))
        launcher = str(config.hydra.launcher._target_)
        if _ELSEWHERE.search(launcher) and config.hydra.runtime.choices.get("hardware") == "auto":
            line = "hardware=auto looks at this machine, and these jobs run on another: name it, as hardware=rtx4090"
            raise SystemExit(report([line]))
        overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        for override in overrides:
            if override.key_or_group == "phase" and override.is_sweep_override():
                line = f"`-m {override.input_line}` would drop the phases' own grids: sweep one phase at a time"
                raise SystemExit(report([line]))


def _pass_one(config: DictConfig) -> None:
    from rtx_lab.preflight import check_inputs, finished, range_problems  # torch: not needed to print help
    from rtx_lab.sweep.jobs import Job

    if config.hydra.sweeper.get("stages"):
        line = f"phase={config.phase} is a sequence of phases: run it with `python train.py -m phase={config.phase}`"
        raise UsageError(line)
    planned = os.environ.get(PLANNED)
    settled, parents = settle(config, range_problems), []
    if planned is None and settled.run.inherit is not None:
        parents = _inherit(config, settled)
        settled = settle(config, range_problems)
    _write_back(config, settled.config)
    run = RunDir(Path(str(config.hydra.run.dir)))
    if planned is not None and Path(planned) != run.path.absolute():
        raise RunError(f"the sweep planned {planned}, but this job is {run.path.absolute()}: please report it")
    job = Job(tuple(config.hydra.overrides.task), settled, run, parents=parents)
    if settled.run.plan:
        from rtx_lab.sweep.plan import print_plan, print_unreadable

        _price(job)
        print_plan([job])
        print_unreadable([job])
        raise SystemExit(0)
    if planned is None:
        check_inputs(settled)
    leads = int(os.environ.get("RANK", "0")) == 0
    if leads and run.is_locked():
        raise RunError(f"another process is running {run.path}: wait for it or stop it first")
    result = finished(settled, run)
    if result is not None:
        print(f"already done: {run.path} ({_headline(result)}); run_anyway=true runs it again")
        raise SystemExit(0)
    if planned is None and leads:
        _admit(job)
        if config.hydra.sweeper.get("params"):
            print(f"phase {settled.run.phase} has a grid, and this runs one point of it: add -m for all")


def _inherit(config: DictConfig, settled: Settled) -> list[dict[str, Any]]:
    """Write what the phase inherits into the config, but for what the command line names; return the records."""
    from rtx_lab.sweep.grid import swept_keys
    from rtx_lab.sweep.parents import choose, finished_runs
    from rtx_lab.sweep.pretraining import rules_for
    from rtx_lab.sweep.typed import key_of

    sweeper = config.hydra.sweeper
    free = swept_keys(sweeper.get("params") or {}, sweeper.get("also") or ())
    lines = [str(line) for line in (*config.hydra.overrides.task, *config.hydra.overrides.hydra)]
    typed = {key_of(line) for line in lines}
    records = []
    for rule in rules_for(settled.run.inherit, settled.run.model, config.hydra):
        wanted = [key for key in (rule.keys or ("init_from",)) if key not in typed]
        if not wanted:
            continue
        runs = finished_runs(Path(str(config.hydra.sweep.dir)), rule.phase)
        choice = choose(rule, settled.config, free, runs, lines)
        for key in wanted:
            OmegaConf.update(config, key, choice.values[key], merge=False)
        records.append(choice.record)
    return records


def _write_back(config: DictConfig, settled: dict[str, Any]) -> None:
    with open_dict(config):
        for key, value in settled.items():
            leaves = (
                {f"{key}.{name}": leaf for name, leaf in value.items()}
                if isinstance(value, dict) and key not in ("labels", "inherit")
                else {key: value}
            )
            for name, leaf in leaves.items():
                OmegaConf.update(config, name, leaf, merge=False)


def _admit(job: Any) -> None:
    """Price the run, refuse it if it does not fit, and leave the record of both in its directory."""
    from rtx_lab.pricing.trace import keep_on_disk
    from rtx_lab.sweep.jobs import plan_record

    _price(job)
    keep_on_disk()
    if job.refusal is not None:
        raise UsageError(job.refusal.reason)
    write_json(job.run.plan_path, plan_record(job))


def _price(job: Any) -> None:
    """Price a job by what finished runs on this hardware took; refuse it if it does not fit and was not forced."""
    from rtx_lab.pricing.advice import refusal
    from rtx_lab.pricing.calibration import calibrate
    from rtx_lab.pricing.price import price
    from rtx_lab.sweep.jobs import Refusal

    calibration = calibrate(job.run.path.parent.parent, job.settled.run.hardware.name)
    job.price = price(job.settled, calibration)
    if not job.price.fits and not job.settled.run.run_anyway:
        job.refusal = Refusal("price", refusal(job.settled, job.price, calibration))


def _headline(result: dict[str, Any]) -> str:
    name = judged_by(result.get("monitor"))
    value = (result.get("metrics") or {}).get(name)
    return f"{name} {value:.4f}" if isinstance(value, float) else "no test metric"
