"""A grid is read as Hydra's basic sweeper reads it; the command line wins over a phase's parameters."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

from rtx_lab.core.errors import UsageError
from rtx_lab.sweep.door import COMPOSE_KEYWORDS
from rtx_lab.sweep.gate import _ELSEWHERE
from rtx_lab.sweep.grid import expand, override_of, swept_keys

CONF = Path(__file__).parent.parent.parent / "conf"


@pytest.fixture
def context():
    with initialize_config_dir(config_dir=str(CONF), job_name="train", **COMPOSE_KEYWORDS):
        yield SimpleNamespace(config_loader=GlobalHydra.instance().config_loader())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["seed=3"],
        ["seed=1,2", "model.num_slots=8,16,32"],
        ["seed=range(0,7,3)", "model=glob(bilinear*)"],
        ["model=glob([b*,l*],exclude=*large)", "optim.lr=choice(1e-3,3e-3)"],
        ["budget={steps:2},{steps:3,log_every:1}"],
        ["optim.betas=[0.9,0.99],[0.8,0.9]", "~model.num_slots"],
        ["+inherit.x=1,2", "++seed=4,5"],
        ["tracking.project='a, b','c'", "seed=sort(3,1,2)", "model.num_slots=shuffle(8)"],
        ["model.fixed_steps=null,4", "hardware.compile=true,false"],
    ],
)
def test_points_are_those_of_the_basic_sweeper(context, arguments):
    overrides = OverridesParser.create(config_loader=context.config_loader).parse_overrides(arguments)
    (expected,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    assert [list(point) for point in expand({}, arguments, context)] == expected


def test_the_command_line_wins_in_every_grid(context):
    params = {"model.num_slots": "64,128", "dataset": "gsm8k"}
    also = [{"model.fixed_steps": "choice(4)", "dataset": "logiqa,gsm8k"}]
    points = expand(params, ["dataset=reasoning", "seed=0,1"], context, also=also)
    assert len(points) == 2 * 2 + 2
    assert all("dataset=reasoning" in point for point in points)
    assert sum("model.fixed_steps=4" in point for point in points) == 2
    assert swept_keys(params, also) == {"model.num_slots", "model.fixed_steps"}


def test_an_arm_that_is_not_trained_stays_untrained(context):
    """The score before training that `phase=batch_study` counts a gain from, however short the study is made."""
    params, also = {"budget.micro_batch": "8,16", "seed": "0,1"}, [{"budget.steps": "0"}]
    points = expand(params, ["budget.steps=4,6", "seed=3"], context, also=also)
    trained = [f"budget.micro_batch={micro} seed=3 budget.steps={steps}" for micro in (8, 16) for steps in (4, 6)]
    assert sorted(" ".join(point) for point in points) == sorted([*trained, "budget.steps=0 seed=3"])
    assert expand({"budget.steps": "0"}, ["budget.steps=4"], context) == [("budget.steps=4",)], "no further grid"


@pytest.mark.parametrize("line", ["optim.lr=interval(1e-4,1e-2)", "seed=range(", "model.num_slots=[1,2"])
def test_what_names_no_points_is_refused(context, line):
    with pytest.raises(UsageError):
        expand({}, [line], context)


@pytest.mark.parametrize(
    "value", [None, True, 3, 1e-5, 0.1, "a b", "it's", r"back\slash", "end\\", r"both\'", [1, 2], "x=1,2", "/tmp/a b"]
)
def test_an_inherited_value_survives_the_command_line(value):
    override = OverridesParser.create().parse_override(override_of("key", value))
    assert override.value() == value
    assert not override.is_sweep_override()


def test_launchers_that_leave_this_machine():
    assert _ELSEWHERE.search("hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher")
    assert _ELSEWHERE.search("hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher")
    for name in ("local.LocalLauncher", "basic_launcher.BasicLauncher", "joblib_launcher.JoblibLauncher"):
        assert not re.search(_ELSEWHERE, f"hydra_plugins.{name}")
