"""`infer` with a summariser: a dialogue a block, one summary each, whatever stands beside it; and its export."""

import builtins
import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

from rtx_lab.__main__ import main
from rtx_lab.commands.summaries import split_dialogues, summarise
from rtx_lab.core import checkpoint
from rtx_lab.core.components import bind
from rtx_lab.core.rundir import RunDir, write_json
from rtx_lab.core.schema import settle
from rtx_lab.reopen import load_run
from rtx_lab.sweep.door import COMPOSE_KEYWORDS

CONF = Path(__file__).parents[2] / "conf"
SMALL = (
    *("dataset=dialogues", "hardware=cpu", "model.d_model=16", "model.n_heads=2", "model.d_ff=32"),
    *("model.n_encoder_layers=1", "model.n_decoder_layers=1", "generation.max_new_tokens=8", "generation.num_beams=2"),
)
FILE = "#Person1#: Can you water the plants?\n#Person2#: Yes.\n\n\n#Person1#: Hi!\n"


def write_run(folder, model, *more):
    """A run directory as a finished run leaves it, with random weights in its checkpoint."""
    with initialize_config_dir(config_dir=str(CONF), **COMPOSE_KEYWORDS):
        config = compose("config", overrides=[*SMALL, f"model={model}", *more], return_hydra_config=True)
    settled = settle(config)
    run = RunDir(folder / "multirun" / settled.directory)
    run.path.mkdir(parents=True)
    run.config_path.write_text(yaml.safe_dump(settled.config), encoding="utf-8")
    torch.manual_seed(1)
    network = bind(settled.run.model)()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    store = checkpoint.Store(folder=run.checkpoints, owner=settled.signature)
    checkpoint.save(store, {"step": 1, "best": {"step": 1, "value": 0.1}}, network)
    write_json(run.result_path, {"status": "done", "signature": settled.signature, "metrics": {}})
    return run


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path, "tiny_t5")


def test_empty_lines_part_dialogues_and_turns_stay_lines():
    assert split_dialogues(FILE) == [(1, FILE.split("\n\n", 1)[0]), (5, "#Person1#: Hi!")]
    assert split_dialogues("\n \n") == []


def test_every_dialogue_of_a_file_gets_its_summary(run, tmp_path, capsys):
    Path("in.txt").write_text(FILE, encoding="utf-8")
    assert main(["infer", str(run.path), "--file", "in.txt", "--out", "out.jsonl"]) == 0
    rows = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["line"] for row in rows] == [1, 5]
    assert "2 summaries in out.jsonl" in capsys.readouterr().out
    loaded = load_run(run.path)
    assert [row["summary"] for row in rows] == [summarise(loaded, [row["dialogue"]])[0] for row in rows]


def test_a_dialogue_can_be_typed_turn_by_turn(run, monkeypatch, capsys):
    typed = iter(["#Person1#: Can you water the plants?", "#Person2#: Yes.", "", "", "quit"])
    monkeypatch.setattr(builtins, "input", lambda _: next(typed))
    assert main(["infer", str(run.path), "--interactive"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Summary: ")]
    expected = summarise(load_run(run.path), [FILE.split("\n\n", 1)[0]])
    assert said == [f"Summary: {expected[0]}"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--text", " "], "the dialogue is empty"),
        (["--text", "x", "--options", "a|b"], "--options are for questions, and this run summarises dialogues"),
        (["--text", "x", "--max-steps", "3"], "--max-steps and --threshold are for denoisers"),
    ],
)
def test_mistakes_are_one_sentence(run, capsys, arguments, said):
    assert main(["infer", str(run.path), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize("model", ["tiny_t5", "tiny_mt5", "tiny_bart"])
def test_an_exported_folder_writes_what_its_run_writes(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    adapted = write_run(tmp_path, model, "model.lora_rank=4", "generation.num_beams=1")
    assert main(["export", str(adapted.path), "out"]) == 0
    dialogues = [text for _, text in split_dialogues(FILE)]
    assert summarise(load_run(Path("out")), dialogues) == summarise(load_run(adapted.path), dialogues)


def test_adapters_alone_are_exported_as_peft_saves_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    adapted = write_run(tmp_path, "tiny_t5", "model.lora_rank=4")
    assert main(["export", str(adapted.path), "adapter", "--adapter"]) == 0
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(os.listdir("adapter"))
    whole = write_run(tmp_path / "whole", "tiny_t5")
    assert main(["export", str(whole.path), "none", "--adapter"]) == 2
    assert "was trained whole and has no adapters" in capsys.readouterr().err
    assert not Path("none").exists()
