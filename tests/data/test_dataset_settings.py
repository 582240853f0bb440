import inspect
from pathlib import Path

import pytest
import yaml

from rtx_lab.data import corpora, generated

FOLDER = Path(__file__).parents[2] / "conf" / "dataset"
NAMES = ["arithmetic", "commonsenseqa", "gsm8k", "logiqa", "reasoning", "sst2", "strategyqa"]


def test_there_is_a_file_per_data_set():
    assert {path.stem for path in FOLDER.glob("*.yaml")} >= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_a_parameter_and_states_its_default(name):
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    module, _, function = values.pop("_target_").rpartition(".")
    home = {"rtx_lab.data.generated": generated, "rtx_lab.data.corpora": corpora}[module]
    assert values.pop("_partial_") is True
    assert function == name
    parameters = inspect.signature(getattr(home, function)).parameters
    assert set(values) == set(parameters)
    stated = {key: values[key] for key, one in parameters.items() if one.default is not inspect.Parameter.empty}
    assert stated == {key: parameters[key].default for key in stated}
    assert len(text.splitlines()) <= 25
    assert text.startswith("# ")
    assert f"python train.py dataset={name}" in text.splitlines()[0]
