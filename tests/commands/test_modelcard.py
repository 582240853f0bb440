import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from rtx_lab.commands.modelcard import RERUN, command, write_card
from rtx_lab.core.schema import settle
from rtx_lab.sweep.door import COMPOSE_KEYWORDS

CONF = Path(__file__).parents[2] / "conf"

CONFIG = {
    "model": {"_target_": "rtx_lab.models.transformer_baseline.TransformerBaseline", "d_model": 64, "dropout": 0.0},
    "dataset": {"_target_": "rtx_lab.data.corpora.gsm8k", "path": None, "splits": {"train": "train", "test": "test"}},
    "optim": {"betas": [0.9, 0.999], "schedule": "cosine", "lr": 1e-4},
    "budget": {"gradient_checkpointing": False, "micro_batch": "auto"},
    "generation": {"note": "two words, one: 'comma'"},
    "seed": 7,
}


def test_the_command_says_every_value_as_hydra_reads_it():
    words = shlex.split(command(CONFIG))
    assert words[:4] == ["python", "train.py", "model=transformer_baseline", "dataset=gsm8k"]
    overrides = OverridesParser.create().parse_overrides(words[2:])
    values = {override.key_or_group: override.value() for override in overrides}
    assert values == {
        "dataset": "gsm8k",
        "model": "transformer_baseline",
        "model.d_model": 64,
        "model.dropout": 0.0,
        "dataset.path": None,
        "dataset.splits.train": "train",
        "dataset.splits.test": "test",
        "optim.betas": [0.9, 0.999],
        "optim.schedule": "cosine",
        "optim.lr": 1e-4,
        "budget.gradient_checkpointing": False,
        "budget.micro_batch": "auto",
        "generation.note": "two words, one: 'comma'",
        "seed": 7,
    }


@pytest.mark.parametrize(
    "overrides",
    [
        ("model=rdt_tiny", "dataset=stories", "phase=rdt_sanity"),
        ("model=cmlm_tiny", "dataset=stories", "optim=adamw_8bit"),
        ("model=tiny_mt5", "dataset=dialogues", "model.lora_rank=4", "model.lora_targets=[q,v]", "model.quantize=nf4"),
        ("model=kobart", "dataset=dialogsum", "dataset.max_target_length=200"),
        ("model=linear", "model.d_model=32", "budget.epochs=0.5", "dataset.vocab_size=200"),
        ("model=transformer_baseline", "dataset=gsm8k", "generation.num_beams=3"),
        ("phase=rdt_multitask", "task.loss_weight_class=0.5"),
    ],
    ids=lambda overrides: overrides[0],
)
def test_the_command_makes_the_same_configuration(overrides):
    def settled(*words):
        with initialize_config_dir(config_dir=str(CONF), **COMPOSE_KEYWORDS):
            config = compose("config", overrides=["hardware=cpu", *words], return_hydra_config=True)
        return settle(config).config

    config = settled(*overrides)
    words = shlex.split(command(config))
    assert words[:2] == ["python", "train.py"]
    again = settled(*words[2:])
    for section in ("model", "dataset", "optim", "task", "budget", "generation", "seed"):
        assert again[section] == config[section]


def test_a_class_without_an_option_is_made_from_its_own_record():
    assert command(CONFIG | {"model": {"_target_": "rtx_lab.models.of_somebody.Model", "d_model": 8}}) == RERUN


@pytest.mark.parametrize("result", [{}, {"status": "killed", "metrics": None}])
def test_a_run_without_results_says_so(result):
    assert "There are no results" in write_card(CONFIG, result, "name")
