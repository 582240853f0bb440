"""The command line of one job of a sweep: the single run that a user would type for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rtx_lab.core.errors import UsageError
from rtx_lab.core.schema import settle
from rtx_lab.sweep.local import Launched, Settings

_FLAGS_WITH_VALUE = ("-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir")
_OF_THE_SWEEP = (
    *("hydra/sweeper", "hydra/launcher", "hydra.sweeper", "hydra.launcher"),
    *("hydra.sweep", "hydra.mode", "hydra.run.dir"),
)


def settings_of(config: DictConfig, argv: Sequence[str], jobs_per_device: int, devices: object) -> Settings:
    """What the jobs of a sweep share, from its composed config and its own command line `argv`.

    Raises UsageError for a launcher setting that cannot be meant.
    """
    if jobs_per_device < 1:
        raise UsageError(f"hydra.launcher.jobs_per_device must be at least 1, got {jobs_per_device}")
    named = devices if isinstance(devices, Sequence) and not isinstance(devices, str) else [devices]
    return Settings(
        script=Path(argv[0]).absolute(),
        flags=flags_of(argv[1:]),
        hydra_overrides=(*kept_overrides(config), _run_dir(config), *_quiet(config)),
        jobs_per_device=jobs_per_device,
        devices=None if devices is None else tuple(str(name) for name in named),
    )


def flags_of(words: Sequence[str]) -> tuple[str, ...]:
    """Hydra's flags among the words of a command line, with their values, but for those that ask for a sweep."""
    kept, takes_value = [], False
    for word in words:
        if takes_value or (word.startswith("-") and word not in ("-m", "--multirun")):
            kept.append(word)
        takes_value = not takes_value and word in _FLAGS_WITH_VALUE
    return tuple(kept)


def kept_overrides(config: DictConfig) -> list[str]:
    """The user's overrides of Hydra itself that mean something to a single run."""
    given = [str(override) for override in config.hydra.overrides.hydra]
    return [word for word in given if not word.lstrip("+~").startswith(_OF_THE_SWEEP)]


def look_up(context: HydraContext, config: DictConfig, overrides: Sequence[str]) -> Launched:
    """Compose a job that no sweep has planned, to know where it will stand; its own start says what is wrong."""
    try:
        settled = settle(context.config_loader.load_sweep_config(config, list(overrides)))
    except (UsageError, HydraException, OmegaConfBaseException):
        return Launched(tuple(overrides), None, planned=False)
    run = settled.run
    directory = Path(str(config.hydra.sweep.dir), settled.directory)
    return Launched(
        tuple(overrides), directory, exclusive=run.exclusive, hardware_memory_gb=run.hardware.memory_gb, planned=False
    )


def _run_dir(config: DictConfig) -> str:
    folder = str(config.hydra.sweep.dir).replace("\\", "\\\\").replace("'", "\\'")
    return f"hydra.run.dir='{folder}{os.sep}${{run_dir:}}'"


def _quiet(config: DictConfig) -> list[str]:
    """A job prints into its train.log, where its log goes too: once is enough."""
    root = config.hydra.job_logging.get("root") if config.hydra.job_logging is not None else None
    handlers = list((root or {}).get("handlers") or ())
    return ["hydra.job_logging.root.handlers=[file]"] if {"console", "file"} <= set(handlers) else []
