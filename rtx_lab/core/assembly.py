"""How a task is put together: with those of the run's objects that it asks for, and with the model it is about."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from rtx_lab.core.components import bind, locate
from rtx_lab.core.schema import RunConfig
from rtx_lab.core.types import Cut, Task


def make_task(run: RunConfig, dataset: Any, cut: Cut) -> Task:
    """Build a run's task; of dataset, cut, generation and ltpo it is given what its signature names."""
    given = {"dataset": dataset, "cut": cut, "generation": run.generation, "ltpo": run.ltpo}
    named = inspect.signature(locate(str(run.task["_target_"]))).parameters
    return bind(run.task)(**{name: value for name, value in given.items() if name in named})


def prepare(task: Task, model: nn.Module) -> None:
    """Let the task say which weights learn, where it has a `prepare`; before an optimizer or a price looks at them."""
    ready = getattr(task, "prepare", None)
    if ready is not None:
        ready(model)
