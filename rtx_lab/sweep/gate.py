"""The gate: settle, validate, plan and skip *before* Hydra makes a folder or a log file.

Hydra swallows ordinary exceptions of callbacks, so the gate ends the process with SystemExit: 0 when nothing is left to
do, 1 when the run cannot start now, 2 when the command is wrong.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.core.rundir import RunDir
from rtx_lab.core.schema import Settled, settle
from rtx_lab.sweep.door import report, unexpected


class Gate(Callback):
    """Hydra callback of every start of `train.py`."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """One run: refuse, plan or skip here; otherwise write the settled values into the config."""
        from rtx_lab.preflight import range_problems  # torch: not needed to compose or to print help

        try:
            settled = settle(config, range_problems)
            _write_back(config, settled.config)
            _pass_one(settled, RunDir(Path(str(config.hydra.run.dir))))
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
        overrides = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        for override in overrides:
            if override.key_or_group == "phase" and override.is_sweep_override():
                line = f"`-m {override.input_line}` would drop the phases' own grids: sweep one phase at a time"
                raise SystemExit(report([line]))


def _write_back(config: DictConfig, settled: dict[str, Any]) -> None:
    with open_dict(config):
        for key, value in settled.items():
            leaves = (
                {f"{key}.{name}": leaf for name, leaf in value.items()} if isinstance(value, dict) else {key: value}
            )
            for name, leaf in leaves.items():
                OmegaConf.update(config, name, leaf, merge=False)


def _pass_one(settled: Settled, run: RunDir) -> None:
    from rtx_lab.preflight import check_inputs, examine, finished

    if settled.run.plan:
        from rtx_lab.sweep.plan import print_plan

        print_plan([(settled, examine(settled))])
        raise SystemExit(0)
    check_inputs(settled)
    if int(os.environ.get("RANK", "0")) == 0 and run.is_locked():
        raise RunError(f"another process is running {run.path}: wait for it or stop it first")
    result = finished(settled, run)
    if result is not None:
        print(f"already done: {run.path} ({_headline(result)}); run_anyway=true runs it again")
        raise SystemExit(0)


def _headline(result: dict[str, Any]) -> str:
    metrics = result.get("metrics") or {}
    accuracy = metrics.get("test/accuracy")
    return f"test/accuracy {accuracy:.4f}" if isinstance(accuracy, float) else "no test metric"
