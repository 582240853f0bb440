import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from rtx_lab.commands.modelcard import command, write_card

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
    assert words[:4] == ["python", "train.py", "dataset=gsm8k", "model=transformer_baseline"]
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


@pytest.mark.parametrize("result", [{}, {"status": "killed", "metrics": None}])
def test_a_run_without_results_says_so(result):
    assert "There are no results" in write_card(CONFIG, result, "name")
