"""Registers the config schema, the run_dir resolver and the study sweeper. Imports nothing heavier than Hydra."""

from dataclasses import asdict, dataclass, field
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
    params: dict[str, Any] = field(default_factory=dict)  # the grid, in Hydra's sweep grammar
    also: list[dict[str, Any]] = field(default_factory=list)  # further grids
    where_it_fits: list[str] = field(default_factory=list)  # overrides whose jobs are left out where they do not fit
    stages: list[str] = field(default_factory=list)  # phases to run in this order, instead of a grid
    stage_overrides: dict[str, list[str]] = field(default_factory=dict)  # by stage, or `all`; the command line wins
    n_trials: int | None = None  # search instead of a grid: total number of trials
    storage: str | None = None
    study_name: str | None = None
    pruner: Any = "median"
    sampler_seed: int = 0
    n_jobs: int = 1  # trials at a time
    max_failures: int | None = None


class StudySweeper(Sweeper):
    """Hydra's view of `rtx_lab.sweep.study`."""

    def __init__(self, **settings: Any) -> None:
        self.settings = {**asdict(StudySweeperConf()), **settings}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.master = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        from rtx_lab.sweep.study import sweep

        plain = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in self.settings.items()
        }
        return sweep(plain, arguments, context=self.context, task_function=self.task_function, master=self.master)


# OmegaConf 2.4 gave the function another name, which 2.3 has for an older function without `replace`
_register = getattr(
    OmegaConf, "register_new_resolver" if omegaconf.__version__.startswith("2.3.") else "register_resolver"
)
_register("run_dir", run_dir, replace=True)
ConfigStore.instance().store(name="run_schema", node=RunConfig, provider="rtx_lab")
ConfigStore.instance().store(group="hydra/sweeper", name="study", node=StudySweeperConf, provider="rtx_lab")
