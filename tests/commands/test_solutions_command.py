"""Word problems solved by a run with latent memory, from the command line's own functions."""

import json

import pytest
import torch

from rtx_lab.commands.solutions import is_solver, solve, solve_lines
from rtx_lab.core.errors import UsageError
from rtx_lab.core.schema import settle
from rtx_lab.data.generated import arithmetic
from rtx_lab.models.latent_memory import LatentMemory
from rtx_lab.reopen import LoadedRun

QUESTIONS = ["tom has 5 pens . tom gets 3 more . how many pens has tom now ?", "al has 9 cups . al gives away 2 ."]
MODEL = {
    "architecture": "llama", "vocab_size": 116, "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 48,
    "max_seq_len": 128, "prompt_latents_len": 3, "inference_latents_len": 2, "lora_rank": 4,
}  # fmt: skip
TASK = {"_target_": "rtx_lab.tasks.answering.TuneTask", "_partial_": True, "part": "weaver"}


def loaded(model, **task):
    dataset = arithmetic(num_train=8, num_validation=8, num_test=8)
    config = {
        "model": {"_target_": "rtx_lab.models.latent_memory.LatentMemory", "_partial_": True, **MODEL},
        "dataset": {"_target_": "rtx_lab.data.generated.arithmetic", "_partial_": True, "vocab_size": 116},
        "optim": {"_target_": "rtx_lab.optim.adamw", "_partial_": True, "lr": 1e-3},
        "task": {**TASK, **task},
        "hardware": {"device": "cpu"},
    }
    return LoadedRun(model, dataset, dataset.tokenizer, "arithmetic", 58, settle(config).config)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LatentMemory(**MODEL).eval()


def test_every_question_gets_a_solution_and_says_where_latents_went(model, tmp_path):
    run = loaded(model)
    assert is_solver(run)
    found = solve(run, QUESTIONS)
    assert len(found) == 2
    assert all(one.inserted_at[0] == 0 for one in found)
    assert all(one.num_latents == 3 + 2 * (len(one.inserted_at) - 1) for one in found)
    assert [one.text for one in found] == [solve(run, [question])[0].text for question in QUESTIONS]
    out = tmp_path / "out.jsonl"
    assert solve_lines(run, list(enumerate(QUESTIONS, 1)), out) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["solution"] for row in rows] == [one.text for one in found]


def test_a_run_that_never_inserts_solves_without_latents(model):
    assert all(one.num_latents == 0 for one in solve(loaded(model, insert="never"), QUESTIONS))


def test_an_empty_question_is_refused(model):
    with pytest.raises(UsageError, match="a question is empty"):
        solve(loaded(model), ["  "])


def test_an_exported_model_is_the_same_model(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = LatentMemory.from_pretrained(tmp_path).eval()
    assert [one.text for one in solve(loaded(again), QUESTIONS)] == [
        one.text for one in solve(loaded(model), QUESTIONS)
    ]
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
