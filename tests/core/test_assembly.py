"""A task is given what its signature names, and the model what the task asks of it."""

import sys
import types
from pathlib import Path
from typing import ClassVar

import pytest
from hydra import compose, initialize_config_dir
from torch import nn

from rtx_lab.core.assembly import make_task, prepare
from rtx_lab.core.errors import UsageError
from rtx_lab.core.schema import settle
from rtx_lab.core.types import Cut
from rtx_lab.sweep.door import COMPOSE_KEYWORDS

CONF = Path(__file__).parents[2] / "conf"


class _Plain:
    def __init__(self, *, dataset, cut, generation):
        self.given = (dataset, cut, generation)


class _Improving:
    refuses: ClassVar = {
        "budget.micro_tokens": "set budget.micro_batch",
        "budget.gradient_checkpointing": "leave it false",
    }

    def __init__(self, *, dataset, cut, ltpo, share: float = 0.5):
        self.given = (dataset, cut, ltpo, share)

    def prepare(self, model):
        model.weight.requires_grad_(False)


@pytest.fixture
def settled(monkeypatch):
    """Settle the default model with a task of this file, as if it stood in the package."""
    place = types.ModuleType("rtx_lab.tasks.stand_in")
    for kind in (_Plain, _Improving):
        monkeypatch.setattr(kind, "__module__", place.__name__)
        setattr(place, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, place.__name__, place)

    def call(kind, *overrides):
        target = f"rtx_lab.tasks.stand_in.{kind.__name__}"
        with initialize_config_dir(config_dir=str(CONF), **COMPOSE_KEYWORDS):
            lines = [f"+task._target_={target}", "+task._partial_=true", "hardware=cpu", *overrides]
            return settle(compose("config", overrides=lines, return_hydra_config=True))

    return call


def test_a_task_gets_what_it_names_and_nothing_else(settled):
    cut = Cut(seed=0, global_batch=1, micro_batch=1)
    run = settled(_Plain).run
    assert make_task(run, "data", cut).given == ("data", cut, run.generation)
    run = settled(_Improving, "+task.share=0.25", "ltpo.enabled=true").run
    assert make_task(run, "data", cut).given == ("data", cut, run.ltpo, 0.25)
    assert run.ltpo.enabled


def test_a_task_says_which_weights_learn_where_it_has_something_to_say(settled):
    cut, model = Cut(seed=0, global_batch=1, micro_batch=1), nn.Linear(1, 1)
    prepare(make_task(settled(_Plain).run, None, cut), model)
    assert model.weight.requires_grad
    prepare(make_task(settled(_Improving).run, None, cut), model)
    assert not model.weight.requires_grad


def test_what_a_task_cannot_do_is_one_sentence(settled):
    with pytest.raises(UsageError) as caught:
        settled(_Improving, "budget.micro_tokens=512", "budget.gradient_checkpointing=true")
    assert caught.value.problems == [
        "budget.micro_tokens=512 does not go with _Improving: set budget.micro_batch",
        "budget.gradient_checkpointing=true does not go with _Improving: leave it false",
    ]
    assert settled(_Plain, "budget.micro_tokens=512").run.budget.micro_tokens == 512
