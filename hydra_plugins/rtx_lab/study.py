"""Registers the config schema, the run_dir resolver and the study sweeper. Imports nothing heavier than Hydra."""

from dataclasses import dataclass, field
from typing import Any

import omegaconf
from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rtx_lab.core.schema import RunConfig, run_dir


@dataclass
class StudySweeperConf:
    _target_: str = "hydra_plugins.rtx_lab.study.StudySweeper"
    params: dict[str, Any] = field(default_factory=dict)


class StudySweeper(Sweeper):
    """Hydra's view of `rtx_lab.sweep.study`."""

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.master = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from rtx_lab.sweep.study import sweep

        return sweep(self.params, arguments, context=self.context, task_function=self.task_function, master=self.master)


# OmegaConf 2.4 gave the function another name, which 2.3 has for an older function without `replace`
_register = getattr(
    OmegaConf, "register_new_resolver" if omegaconf.__version__.startswith("2.3.") else "register_resolver"
)
_register("run_dir", run_dir, replace=True)
ConfigStore.instance().store(name="run_schema", node=RunConfig, provider="rtx_lab")
ConfigStore.instance().store(group="hydra/sweeper", name="study", node=StudySweeperConf, provider="rtx_lab")
