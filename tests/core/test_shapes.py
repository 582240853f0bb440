"""Shapes of a checkpoint's folder, nulls that a model or a dataset fills, and what does not go together."""

import json
import os
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from rtx_lab.core.errors import UsageError
from rtx_lab.core.schema import settle
from rtx_lab.core.shapes import shapes_of
from rtx_lab.models.causal_base import KEYS
from rtx_lab.sweep.door import COMPOSE_KEYWORDS

CONF = Path(__file__).parents[2] / "conf"
CONFIG = {
    "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 640, "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6, "rope_parameters": {"rope_theta": 5000.0},
}  # fmt: skip
TOKENIZER = {"model": {"vocab": {"a": 0, "b": 599}}, "added_tokens": [{"id": 611, "content": "<end>"}]}
TASK = ("+task._target_=rtx_lab.tasks.answer.AnswerTask", "+task._partial_=true", "hardware=cpu")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return tmp_path


@pytest.fixture
def settled():
    def call(*overrides):
        with initialize_config_dir(config_dir=str(CONF), **COMPOSE_KEYWORDS):
            return settle(compose("config", overrides=[*TASK, *overrides], return_hydra_config=True)).config

    return call


def test_a_folder_says_its_shapes(folder):
    found = shapes_of(str(folder), KEYS)
    assert found == {
        "architecture": "qwen2", "d_model": 64, "d_ff": 96, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
        "embedding_rows": 640, "max_seq_len": 256, "norm_eps": 1e-6, "rope_theta": 5000.0, "tied_head": False,
        "tokenizer_size": 612,
    }  # fmt: skip


def test_a_vocabulary_may_be_a_list_or_missing(folder):
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": [["a", 0.0]] * 30}}))
    assert shapes_of(str(folder), KEYS)["tokenizer_size"] == 30
    (folder / "tokenizer.json").unlink()
    assert shapes_of(str(folder), KEYS)["tokenizer_size"] == 640


def test_null_shapes_are_settled_and_given_ones_stay(folder, settled):
    config = settled("model=memgen_checkpoint", "dataset=gsm8k", f"model.checkpoint={folder}", "model.norm_eps=1e-5")
    model, dataset = config["model"], config["dataset"]
    assert (model["d_model"], model["n_layers"], model["norm_eps"], model["head_dim"]) == (64, 2, 1e-5, None)
    assert (dataset["tokenizer"], dataset["vocab_size"], model["vocab_size"]) == (str(folder), 612, 612)
    assert dataset["max_target_length"] == 16
    assert settle(config).config == config


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("null", "model.checkpoint is missing: give the folder of a model"),
        ("Some/Model", "model.checkpoint=Some/Model is no folder here, and without one its shapes are not known: down"),
    ],
)
def test_shapes_that_nothing_tells_are_one_sentence(settled, checkpoint, words):
    with pytest.raises(UsageError) as caught:
        settled("model=memgen_checkpoint", "dataset=gsm8k", f"model.checkpoint={checkpoint}")
    (problem,) = caught.value.problems
    assert problem.startswith(words)


def test_a_folder_without_a_readable_config_is_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config.json cannot be read: model.checkpoint must be a folder"):
        shapes_of(str(tmp_path), KEYS)


def test_old_commands_on_gsm8k_settle_to_what_they_were(settled):
    dataset = settled("dataset=gsm8k")["dataset"]
    assert dataset == {
        "_target_": "rtx_lab.data.corpora.gsm8k", "_partial_": True, "path": None, "folder": "gsm8k", "rows": None,
        "splits": {"train": "train", "test": "test"}, "tokenizer": "google-t5/t5-base", "vocab_size": 32000,
        "max_source_length": 512, "max_target_length": 16, "target": "final",
    }  # fmt: skip
    typed = settled("dataset=gsm8k", "dataset.target=rationale", "dataset.max_target_length=320")
    assert settled("dataset=gsm8k", "dataset.target=rationale") == typed
    assert settled("dataset=gsm8k", "dataset.tokenizer=other")["dataset"]["tokenizer"] == "other"


def test_a_closed_vocabulary_does_not_go_with_a_model_that_brings_its_own(settled):
    with pytest.raises(UsageError, match="dataset=arithmetic has a vocabulary of its own, and this model reads that"):
        settled("model=memgen_qwen2.5_1.5b", "dataset=arithmetic")
    assert settled("model=memgen_tiny", "dataset=arithmetic")["model"]["vocab_size"] == 116


@pytest.mark.parametrize(
    ("name", "width", "rows", "known"),
    [
        ("memgen_qwen2.5_1.5b", 1536, 151936, 151665),
        ("memgen_qwen2.5_7b", 3584, 152064, 151665),
        ("memgen_qwen3_14b", 5120, 151936, 151669),
    ],
)
def test_published_models_settle_without_their_checkpoint(settled, name, width, rows, known):
    config = settled(f"model={name}", "dataset=gsm8k")
    model = config["model"]
    assert (model["d_model"], model["embedding_rows"], model["vocab_size"]) == (width, rows, known)
    assert config["dataset"]["tokenizer"] == model["checkpoint"]


def test_a_real_folder_settles(settled):
    place = Path(os.environ.get("RTX_LAB_MODELS", "/nowhere")) / "stories260K"
    if not place.is_dir():
        pytest.skip("RTX_LAB_MODELS has no stories260K")
    model = settled("model=memgen_checkpoint", "dataset=gsm8k", f"model.checkpoint={place}")["model"]
    assert (model["d_model"], model["n_layers"], model["vocab_size"], model["tied_head"]) == (64, 5, 512, True)
