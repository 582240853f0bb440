"""What a batch of dialogues means: losses are sums, a summary comes from its dialogue alone, scores name tokens."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rtx_lab.core.memory import filled, rows
from rtx_lab.core.sections import Generation
from rtx_lab.core.types import Cut
from rtx_lab.data.collate import IGNORED, collate
from rtx_lab.data.made_dialogues import dialogues
from rtx_lab.models.pretrained import PretrainedSeq2Seq
from rtx_lab.tasks.summarise import WATCH, SummariseTask, started, watched_rows

SIZES = {"d_model": 16, "n_heads": 2, "d_ff": 32, "n_encoder_layers": 1, "n_decoder_layers": 1, "dropout": 0.0}
SPEAKERS = ["#Person1#", "#Person2#", "#Person3#"]
CUT = Cut(seed=3, global_batch=16, micro_batch=8, eval_batch=16)
BEAMS = Generation(num_beams=2, max_new_tokens=6, watch_rows=10)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield dialogues(
        num_train=48, num_validation=24, num_test=20, tokenizer="dialogues", special_tokens=SPEAKERS,
        max_source_length=160, max_target_length=40, rouge_tokenizer="characters",
    )  # fmt: skip
    patch.undo()


def model_of(dataset, architecture="t5"):
    torch.manual_seed(0)
    own = {"d_kv": 8} if architecture == "t5" else {"pad_id": 0, "bos_id": 1, "eos_id": 2, "decoder_start_id": 2}
    tokenizer = dataset.tokenizer
    own |= {"pad_id": tokenizer.pad_id, "eos_id": tokenizer.eos_id}
    size = dataset.vocab_size - len(SPEAKERS)
    model = PretrainedSeq2Seq(
        architecture=architecture, tokenizer_size=size, vocab_size=dataset.vocab_size, **SIZES, **own
    )
    with torch.no_grad():  # far enough from the start that different dialogues give different texts
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double().eval()


def task_of(dataset, cut=CUT, generation=BEAMS):
    return SummariseTask(dataset=dataset, cut=cut, generation=generation)


def test_a_summary_never_depends_on_its_reference(dataset, monkeypatch):
    task, model, opened = task_of(dataset), model_of(dataset), dataset.split("test")
    batch = collate(opened, range(8))
    judged = task.score(model, batch, "test")
    before = [record["prediction"] for record in judged]
    swapped = batch | {name: batch[name].roll(1, dims=0) for name in ("labels", "decoder_input")}
    known = opened.record
    monkeypatch.setattr(opened, "record", lambda row: known(row) | {"references": ["x"]}, raising=False)
    found = task.score(model, swapped, "test")
    assert [record["prediction"] for record in found] == before
    assert len(set(before)) > 1
    assert any(one["rouge1_characters"] for one in judged)
    assert not any(one["rouge1_characters"] for one in found)  # the references were other ones


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_the_loss_of_a_batch_is_the_sum_over_its_samples(dataset, architecture):
    task, model = task_of(dataset), model_of(dataset, architecture)
    batch = collate(dataset.split("train"), range(6))
    whole, sums = task.loss(model, batch)
    alone = [{name: value[row : row + 1] for name, value in batch.items()} for row in range(6)]
    total = sum(float(task.loss(model, one)[0].detach()) for one in alone)
    assert total == pytest.approx(float(whole.detach()), rel=1e-9)
    assert float(task.weight(batch)) == int((batch["labels"] != IGNORED).sum())
    assert int(sums["tokens"]) == int(batch["source_mask"].sum()) + int(task.weight(batch))


def test_a_dialogue_is_read_once_to_be_written_and_scored(dataset):
    task, model = task_of(dataset), model_of(dataset)
    read = []
    model.network.get_encoder().register_forward_hook(lambda _, __, found: read.append(len(found.last_hidden_state)))
    task.score(model, collate(dataset.split("test"), range(5)), "test")
    assert read == [5]


def test_the_decoder_begins_with_the_start_of_the_model(dataset):
    given = collate(dataset.split("train"), range(3))["decoder_input"]
    found = started(given, 77)
    assert found[:, 0].tolist() == [77] * 3
    assert torch.equal(found[:, 1:], given[:, 1:])


def test_the_loss_that_is_scored_is_the_loss_that_is_trained(dataset):
    task, model = task_of(dataset), model_of(dataset)
    batch = collate(dataset.split("validation"), range(8))
    records = task.score(model, batch, "validation")
    trained = float(task.loss(model, batch)[0].detach())
    assert sum(record["nll"] for record in records) == pytest.approx(trained, rel=1e-6)
    assert sum(record["num_tokens"] for record in records) == int(task.weight(batch))


def test_training_watches_a_fixed_part_of_validation_by_greedy_search(dataset):
    task, model = task_of(dataset), model_of(dataset)
    seen = sorted(int(row) for batch in task.held_out(WATCH) for row in batch["index"])
    assert seen == watched_rows(24, 10).tolist()
    assert len(seen) == task.num_scored(WATCH) == 10
    batch = collate(dataset.split("validation"), seen)
    watched = [record["prediction"] for record in task.score(model, batch, WATCH)]
    greedy = task_of(dataset, generation=replace(BEAMS, num_beams=1)).score(model, batch, "validation")
    assert watched == [record["prediction"] for record in greedy]
    assert watched != [record["prediction"] for record in task.score(model, batch, "validation")]


@pytest.mark.parametrize("tokens", [None, 300])
def test_every_held_out_row_comes_once(dataset, tokens):
    cut = replace(CUT, micro_tokens=tokens)
    batches = list(task_of(dataset, cut).held_out("test"))
    assert sorted(int(row) for batch in batches for row in batch["index"]) == list(range(20))
    if tokens is not None:
        wide = [batch for batch in batches if rows(batch) > 1]
        assert all(batch["source"].numel() + batch["labels"].numel() <= 2 * tokens // 2 for batch in wide)


def test_a_summary_written_in_a_batch_is_the_one_written_alone(dataset):
    task, model = task_of(dataset), model_of(dataset)
    batch = collate(dataset.split("test"), range(6))
    together = [record["prediction"] for record in task.score(model, batch, "test")]
    alone = [task.score(model, collate(dataset.split("test"), [row]), "test")[0]["prediction"] for row in range(6)]
    assert together == alone


def test_scores_name_their_tokens_and_stand_beside_the_first_turns(dataset):
    task, model = task_of(dataset), model_of(dataset)
    records = [record for batch in task.held_out("test") for record in task.score(model, batch, "test")]
    metrics = task.summarise(records)
    assert metrics["n"] == 20
    assert task.monitor == "validation/rouge_characters"
    name = "rouge1_characters"
    assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    assert metrics["lead3_rouge1_characters"] > metrics[name]  # random weights know less than the first three turns
    assert metrics["rouge1_whitespace"] != metrics[name]
    scores = [key.removesuffix("_low").removesuffix("_high") for key in metrics if "rouge" in key]
    assert all(key.endswith(("_characters", "_whitespace")) for key in scores)


def test_texts_without_a_reference_are_written_and_handed_in(dataset, monkeypatch):
    task, model, opened = task_of(dataset), model_of(dataset), dataset.split("test")
    known = opened.record
    monkeypatch.setattr(opened, "record", lambda row: known(row) | {"references": []}, raising=False)
    records = task.score(model, collate(opened, range(4)), "test")
    assert task.summarise(records) == {"n": 4}
    text = task.files(records, "submission")["submission-submission.csv"]
    assert text.splitlines()[0] == "fname,summary"
    assert [line.partition(",")[0] for line in text.splitlines()[1:]] == [known(row)["id"] for row in range(4)]


def test_the_largest_batch_traces_without_data(dataset):
    task = task_of(dataset)
    with FakeTensorMode():
        model = PretrainedSeq2Seq(architecture="t5", d_kv=8, tokenizer_size=500, vocab_size=503, **SIZES)
        batch = task.example_batch(model, 4)
        loss, _ = task.loss(model, batch)
        loss.backward()
        task.rehearse(model, 2)
    assert rows(filled(batch)) == 4
