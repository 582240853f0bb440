"""Registers the local launcher. Imports nothing heavier than Hydra."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LocalLauncherConf:
    _target_: str = "hydra_plugins.rtx_lab.local.LocalLauncher"
    jobs_per_device: int = 1  # at once; their predicted memory must fit together, too
    devices: Any = None  # values of CUDA_VISIBLE_DEVICES, as [0,1]; null: all GPUs, or the CPU


class LocalLauncher(Launcher):
    """Hydra's view of `rtx_lab.sweep.local`."""

    def __init__(self, jobs_per_device: int = 1, devices: Any = None) -> None:
        self.jobs_per_device, self.devices = jobs_per_device, devices
        self.known: dict[tuple[str, ...], Any] = {}  # what a sweeper knows of its jobs, by their overrides
        self.tally: Any = None  # and of what these are a part

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.master = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from rtx_lab.sweep.command import look_up, settings_of
        from rtx_lab.sweep.local import launch

        settings = settings_of(self.master, sys.argv, self.jobs_per_device, self.devices)
        jobs = [self.known.get(tuple(o)) or look_up(self.context, self.master, o) for o in job_overrides]
        return launch(jobs, settings, self.tally)


ConfigStore.instance().store(group="hydra/launcher", name="local", node=LocalLauncherConf, provider="rtx_lab")
