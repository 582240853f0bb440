"""The fast way to compose a sweep gives what Hydra gives, on every phase's grid and on odd overrides."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from rtx_lab.core.schema import plain_of, run_dir, settle
from rtx_lab.sweep.compose import Composer
from rtx_lab.sweep.door import COMPOSE_KEYWORDS
from rtx_lab.sweep.grid import expand

CONF = Path(__file__).parent.parent.parent / "conf"
PHASES = sorted(path.stem for path in (CONF / "phase").glob("*.yaml"))


@pytest.fixture
def loader():
    with initialize_config_dir(config_dir=str(CONF), job_name="train", **COMPOSE_KEYWORDS):
        yield GlobalHydra.instance().config_loader()


def _sweep(loader, *arguments):
    master = loader.load_configuration("config", list(arguments), RunMode.MULTIRUN)
    sweeper = OmegaConf.to_container(master.hydra.sweeper)
    if sweeper["n_trials"] is not None:
        sweeper["params"] = {}
    context = SimpleNamespace(config_loader=loader)
    points = expand(sweeper["params"], arguments, context, also=sweeper["also"])
    return master, Composer(context, master), points


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_composes_and_is_named_as_by_hydra(loader, phase):
    master, composer, points = _sweep(loader, f"phase={phase}", "hardware=cpu", "seed=0,1")
    assert len(points) >= 2
    for point in {*points[:: max(1, len(points) // 4)], points[0], points[-1]}:  # a spread: Hydra takes .1 s for each
        slow = loader.load_sweep_config(master, list(point))
        fast = composer.compose(point)
        assert fast == plain_of(slow), point
        assert settle(fast).directory == settle(slow).directory == run_dir(slow)


@pytest.mark.parametrize(
    "point",
    [
        ("model=bilinear_base", "model.num_slots=64", "model=linear"),
        ("budget.epochs=1", "budget.steps=null"),
        ("budget.epochs=1e-1", "seed=007"),
        ("optim.betas=[0.8,0.99]",),
        ("budget={steps:3,log_every:2}", "budget.log_every=5"),
        ("budget.log_every=5", "budget={steps:3,log_every:2}"),
        ("+inherit.x=1",),
        ("++seed=3", "model.num_slots=8"),
        ("~model.num_slots", "seed=3"),
        ("tracking.tags=[a,'b c']", "tracking.project='x, y'"),
        ("budget.log_every=${seed}", "seed=9"),
        ("init_from='/some where/x=1'",),
        ("phase=smoke", "dataset=arithmetic", "dataset.num_train=99"),
        ("hydra.job.name=other", "seed=4"),
    ],
)
def test_odd_overrides_compose_as_by_hydra(loader, point):
    master, composer, _ = _sweep(loader, "hardware=cpu")
    slow = loader.load_sweep_config(master, list(point))
    for _ in range(2):  # the second time from what the first left behind
        assert composer.compose(point) == plain_of(slow)


def test_one_point_leaves_nothing_in_the_next(loader):
    _, composer, _ = _sweep(loader, "hardware=cpu")
    before = composer.compose(("seed=1",))
    composer.compose(("seed=1", "model.num_slots=99", "optim.betas=[0.1,0.2]"))["optim"]["betas"].append(3)
    assert composer.compose(("seed=1",)) == before


@pytest.mark.parametrize("point", [("model.num_slot=3",), ("budget.epochs=abc",), ("model=bilinear_tny",)])
def test_what_hydra_refuses_is_refused(loader, point):
    _, composer, _ = _sweep(loader)
    with pytest.raises(HydraException):
        composer.compose(point)
