import pytest
from hydra import compose, initialize_config_dir
from tiny_runs import ROOT

from rtx_lab.sweep.door import COMPOSE_KEYWORDS
from rtx_lab.sweep.hydra_keys import unknown


@pytest.fixture(scope="module")
def hydra_node():
    with initialize_config_dir(config_dir=str(ROOT / "conf"), **COMPOSE_KEYWORDS):
        return compose("config", return_hydra_config=True).hydra


@pytest.mark.parametrize(
    "key",
    [
        "hydra.job.name",
        "hydra.verbose",
        "hydra.job.env_set.OMP_NUM_THREADS",
        "hydra.job_logging.root.level",
        "model.foo",
    ],
)
def test_known_keys_and_free_mappings_pass(hydra_node, key):
    assert unknown(hydra_node, [key]) == []


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("hydra.foo", "hydra knows defaults, mode"),
        ("hydra.job.nam", "did you mean `hydra.job.name`?"),
        ("hydra.lancher", "did you mean `hydra.launcher`?"),
        ("hydra.sweeper.foo", "hydra.sweeper knows "),
    ],
)
def test_unknown_keys_are_named_with_the_nearest(hydra_node, key, words):
    (problem,) = unknown(hydra_node, [key])
    assert problem.startswith(f"unknown key `{key}`: ")
    assert words in problem
