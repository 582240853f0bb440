import inspect
import typing
from pathlib import Path

import pytest
import yaml

from rtx_lab.data import corpora, dialogue_files, generated, labelled, made_dialogues, plain_text, stories, wikitext
from rtx_lab.data.dialogues import DialogueDataset
from rtx_lab.data.segments import SegmentDataset

FOLDER = Path(__file__).parents[2] / "conf" / "dataset"
NAMES = ["arithmetic", "commonsenseqa", "gsm8k", "logiqa", "reasoning", "sst2", "sst2_texts", "strategyqa"]
TEXTS = ["stories", "text", "wikitext2", "wikitext103"]
DIALOGUES = ["dialogsum", "dialogue_csv", "dialogues"]
MODULES = (corpora, dialogue_files, generated, labelled, made_dialogues, plain_text, stories, wikitext)
HOMES = {module.__name__: module for module in MODULES}


def test_there_is_a_file_per_data_set():
    assert {path.stem for path in FOLDER.glob("*.yaml")} >= {*NAMES, *TEXTS, *DIALOGUES}


@pytest.mark.parametrize("name", NAMES + TEXTS + DIALOGUES)
def test_every_key_is_a_parameter_and_states_its_default(name):
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    module, _, function = values.pop("_target_").rpartition(".")
    home = HOMES[module]
    assert values.pop("_partial_") is True
    assert function == name
    parameters = inspect.signature(getattr(home, function)).parameters
    assert set(values) == set(parameters)
    stated = {key: values[key] for key, one in parameters.items() if one.default is not inspect.Parameter.empty}
    defaults = {key: parameters[key].default for key in stated}
    assert stated == {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    assert len(text.splitlines()) <= 25
    assert text.startswith("# ")
    assert f"python train.py dataset={name}" in text.splitlines()[0]


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_says_that_it_is_one(name):
    home = HOMES[yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["_target_"].rpartition(".")[0]]
    assert typing.get_type_hints(getattr(home, name))["return"] is SegmentDataset


@pytest.mark.parametrize("name", DIALOGUES)
def test_dialogues_say_that_they_are(name):
    home = HOMES[yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["_target_"].rpartition(".")[0]]
    assert typing.get_type_hints(getattr(home, name))["return"] is DialogueDataset
