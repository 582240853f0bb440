"""Memory that runs out while summaries are written: every dialogue is written and scored once all the same."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from out_of_memory import run_out

from rtx_lab.core.rundir import RunDir
from rtx_lab.core.schema import settle
from rtx_lab.models.pretrained import PretrainedSeq2Seq
from rtx_lab.report.batch_runs import shape_words
from rtx_lab.run import run_settled
from rtx_lab.sweep.door import COMPOSE_KEYWORDS

CONF = Path(__file__).parent.parent / "conf"
NUM_TEST, MOST = 10, 4
"""Dialogues, and texts that are written at once: dialogues times beams."""
TINY = (
    *("dataset=dialogues", f"dataset.num_test={NUM_TEST}", "dataset.num_train=32", "dataset.num_validation=12"),
    *("model=tiny_t5", "model.d_model=16", "model.n_heads=2", "model.d_ff=32", "hardware=cpu"),
    *("generation.num_beams=2", "generation.max_new_tokens=6", "generation.watch_rows=8", "hardware.num_threads=1"),
    *("budget.global_batch=16", "budget.steps=4", "budget.eval_every=2", "tracking.tensorboard=false"),
)
CUTS = {
    "by samples": ("budget.micro_batch=8", "budget.eval_batch=6"),
    "by tokens": ("budget.micro_tokens=600", "budget.eval_batch=64"),
}


@pytest.fixture
def go(tmp_path):
    threads = torch.get_num_threads()

    def start(name, *overrides):
        with initialize_config_dir(config_dir=str(CONF), **COMPOSE_KEYWORDS):
            settled = settle(compose("config", overrides=[*TINY, *overrides], return_hydra_config=True))
        (tmp_path / name).mkdir()
        result = run_settled(settled, directory := RunDir(tmp_path / name))
        return result, [json.loads(line) for line in directory.predictions_path.read_text().splitlines()]

    yield start
    torch.set_num_threads(threads)


@pytest.mark.parametrize("cut", CUTS)
def test_out_of_memory_while_writing_is_survived_and_told(go, monkeypatch, cut):
    plain, rows = go("plain", *CUTS[cut])
    assert (plain["status"], plain["events"]) == ("done", [])
    write, sizes = PretrainedSeq2Seq.write, []

    def tight(self, encoded, *, num_beams, **how):
        written = write(self, encoded, num_beams=num_beams, **how)
        if len(encoded.mask) * num_beams > MOST:
            run_out()  # at the end of a text: all that was written is lost
        sizes.append(len(encoded.mask))
        return written

    monkeypatch.setattr(PretrainedSeq2Seq, "write", tight)
    result, again = go("tight", *CUTS[cut])
    assert result["status"] == "done", result["reason"]
    assert sum(sizes) == 2 * 8 + 12 + NUM_TEST, "two looks at the watched rows, then both splits"
    assert [row["row"] for row in again] == list(range(NUM_TEST))
    assert [row["prediction"] for row in again] == [row["prediction"] for row in rows]
    assert result["metrics"] == pytest.approx(plain["metrics"], rel=1e-5)
    assert {(event["event"], event["split"]) for event in result["events"]} == {
        ("out_of_memory", split) for split in ("watch", "validation", "test")
    }  # fmt: skip
    told = [shape_words(event) for event in result["events"]]
    assert len(set(told)) == len(told), "what fitted is remembered: nothing is tried twice"
    assert all(words.startswith("evaluation of ") and "; went on with " in words for words in told)
