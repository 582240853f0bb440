"""What an answer batch means: losses are sums, predictions never see a label, and records say what was measured."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rtx_lab.core.memory import filled
from rtx_lab.core.types import Cut
from rtx_lab.data.collate import IGNORED, collate_options
from rtx_lab.data.generated import arithmetic, reasoning
from rtx_lab.models.connection_transformer import ConnectionTransformer
from rtx_lab.models.transformer_baseline import TransformerBaseline
from rtx_lab.tasks import answer
from rtx_lab.tasks.answer import AnswerTask

ROWS = {"num_train": 64, "num_validation": 24, "num_test": 40}
SIZES = {"d_model": 16, "num_slots": 6, "bilinear_rank": 4}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.getbasetemp() / "answer_cache"))


def task_of(dataset, num_beams=1):
    cut = Cut(seed=3, global_batch=16, micro_batch=8, eval_batch=16)
    generation = SimpleNamespace(num_beams=num_beams, max_new_tokens=6, length_penalty=1.0)
    return AnswerTask(dataset=dataset, cut=cut, generation=generation)


def model_of(dataset, **changes):
    torch.manual_seed(0)
    options = {"max_reasoning_steps": 4, "convergence_threshold": 0.05, **SIZES, **changes}
    return ConnectionTransformer(vocab_size=dataset.vocab_size, **options).double()


def varied(model):
    """Weights large enough that different sources give different answers."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model.eval()


def rotated(batch):
    """The same sources and options with the labels of other samples."""
    swapped = {name: batch[name].roll(1, dims=0) for name in ("labels", "decoder_input")}
    assert not torch.equal(swapped["labels"], batch["labels"])
    return batch | swapped


def without_gold(monkeypatch, dataset, split):
    """Let every record of a split name another right answer than it had."""
    opened = dataset.split(split)
    known = opened.record

    def record(row):
        kept = known(row)
        other = {"gold": "-977"} if kept["label"] is None else {"label": (kept["label"] + 1) % len(kept["options"])}
        return kept | other

    monkeypatch.setattr(opened, "record", record, raising=False)


@pytest.mark.parametrize(
    ("make", "num_beams"), [(reasoning, 1), (arithmetic, 1), (arithmetic, 3)], ids=["options", "greedy", "beams"]
)
@pytest.mark.parametrize("kind", ["connection", "baseline"])
def test_predictions_never_see_labels(monkeypatch, make, num_beams, kind):
    dataset = make(**ROWS)
    task = task_of(dataset, num_beams)
    if kind == "connection":
        model = varied(model_of(dataset))
    else:
        torch.manual_seed(0)
        model = varied(TransformerBaseline(vocab_size=dataset.vocab_size, num_encoder_layers=1, **SIZES).double())
    ranked = []

    def rank_options(*arguments):
        ranked.append(rank(*arguments))
        return ranked[-1]

    rank = answer.rank_options
    monkeypatch.setattr(answer, "rank_options", rank_options)
    batches = list(task.held_out("test"))
    with torch.inference_mode():
        before = [record for batch in batches for record in task.score(model, batch, "test")]
        without_gold(monkeypatch, dataset, "test")
        after = [record for batch in batches for record in task.score(model, rotated(batch), "test")]
    for key in ("id", "prediction", "choice", "steps"):
        assert [record.get(key) for record in before] == [record.get(key) for record in after], key
    assert len({record["prediction"] for record in before}) > 3, "predictions that never differ would prove nothing"
    assert [record["nll"] for record in before] != [record["nll"] for record in after]
    if make is reasoning:
        assert [record["correct"] for record in before] != [record["correct"] for record in after]
        for first, second in zip(ranked[: len(batches)], ranked[len(batches) :], strict=True):
            assert torch.equal(first[0], second[0])
            assert torch.equal(first[1], second[1])


def test_the_place_of_an_option_changes_nothing_but_its_number(monkeypatch):
    dataset = reasoning(**ROWS)
    task, model = task_of(dataset), model_of(dataset).eval()
    (batch, *_), opened = task.held_out("test"), dataset.split("test")
    with torch.inference_mode():
        before = task.score(model, batch, "test")
    known = opened.record

    def record(row):
        kept = known(row)
        return kept | {"options": kept["options"][::-1], "label": len(kept["options"]) - 1 - kept["label"]}

    monkeypatch.setattr(opened, "record", record, raising=False)
    turned = batch | {name: batch[name].flip(1) for name in ("option_input", "option_labels", "option_mask")}
    with torch.inference_mode():
        after = task.score(model, turned, "test")
    for key in ("prediction", "correct", "gold"):
        assert [record[key] for record in before] == [record[key] for record in after]
    assert [3 - record["choice"] for record in before] == [record["choice"] for record in after]


def test_an_option_is_chosen_by_the_sum_over_its_tokens(monkeypatch):
    dataset = reasoning(**ROWS)
    task, model = task_of(dataset), model_of(dataset).eval()
    batch = next(task.held_out("test"))
    total, mean = torch.zeros(2, *batch["option_mask"].shape).double()
    total[:, 1], mean[:, 2] = 1.0, 1.0
    monkeypatch.setattr(answer, "rank_options", lambda *_: (total, mean))
    with torch.inference_mode():
        assert {record["choice"] for record in task.score(model, batch, "test")} == {1}


def test_records_say_what_was_measured():
    dataset = reasoning(**ROWS)
    task, model = task_of(dataset), model_of(dataset).eval()
    batch, opened = next(task.held_out("test")), dataset.split("test")
    with torch.inference_mode():
        records = task.score(model, batch, "test")
        memory = model.encode(batch["source"], batch["source_mask"])
        hidden = model.decode(memory, batch["decoder_input"])
        log_probs = torch.log_softmax(hidden @ model.output_weight.mT, -1)
    for place, record in enumerate(records):
        row = opened.record(record["row"])
        labels = batch["labels"][place]
        labels = labels[labels != IGNORED]
        nll = -log_probs[place, range(len(labels)), labels].sum().item()
        assert record["nll"] == pytest.approx(nll)
        assert record["num_tokens"] == len(labels)
        assert record["correct"] == (record["choice"] == row["label"])
        assert record["prediction"] == row["options"][record["choice"]]
        assert record["steps"] == memory.steps[place]
        assert record["max_steps"] == 4
        assert len(record["_slots"]) == len(record["_tokens"]) == opened.source_lengths[record["row"]]
        assert all(record[key] == row[key] for key in ("id", "gold", "difficulty", "family"))


def test_a_written_answer_is_judged_by_its_number(monkeypatch):
    dataset = arithmetic(**ROWS)
    task, model = task_of(dataset), model_of(dataset).eval()
    batch, opened = next(task.held_out("test")), dataset.split("test")
    texts = ["so 3 + 4 = 7 #### {}", "{}", "I do not know", "#### {}1"]
    written = iter(
        [texts[place % 4].format(opened.record(int(row))["gold"]) for place, row in enumerate(batch["index"])]
    )
    monkeypatch.setattr(type(dataset.tokenizer), "decode", lambda self, ids, keep=(): next(written))
    with torch.inference_mode():
        records = task.score(model, batch, "test")
    assert [record["correct"] for record in records] == [place % 4 < 2 for place in range(len(records))]


def test_loss_is_a_sum_over_samples_and_nobody_adds_nothing():
    dataset = reasoning(**ROWS)
    task, model = task_of(dataset), model_of(dataset)
    split = dataset.split("train")
    whole = collate_options(split, range(12))
    torch.manual_seed(7)
    total, sums = task.loss(model, whole)
    parts = [task.loss(model, {name: value[place : place + 4] for name, value in whole.items()}) for place in (0, 4, 8)]
    torch.testing.assert_close(total, sum(loss for loss, _ in parts), rtol=1e-12, atol=0)
    torch.testing.assert_close(sums["nll"], sum(counts["nll"] for _, counts in parts), rtol=1e-12, atol=0)
    assert task.weight(whole) == (whole["labels"] != IGNORED).sum()
    nobody = collate_options(split, [-1])
    loss, _ = task.loss(model, nobody)
    assert loss == 0
    assert task.weight(nobody) == 0


def test_costs_count_per_target_token():
    dataset = reasoning(**ROWS)
    task, model = task_of(dataset), model_of(dataset)
    batch = collate_options(dataset.split("train"), range(8))
    loss, sums = task.loss(model, batch)
    memory = model.encode(batch["source"], batch["source_mask"])
    tokens = (batch["labels"] != IGNORED).sum(1)
    extra = (model.auxiliary(memory, batch["labels"]) * tokens).sum() + tokens.sum() * model.penalty()
    assert extra > 0.01
    torch.testing.assert_close(loss - sums["nll"], extra)
    assert sums["reasoning_steps"] == (memory.steps * tokens).sum()
    assert sums["tokens"] == batch["source_mask"].sum() + tokens.sum()
    assert sums["padded_tokens"] == batch["source"].numel() + batch["labels"].numel() > sums["tokens"]


def test_the_example_is_the_largest_batch_and_its_loss_traces_without_data():
    dataset = reasoning(**ROWS)
    task, model = task_of(dataset), model_of(dataset)
    example = task.example_batch(model, 2)
    real = collate_options(dataset.split("train"), range(4))
    assert {name: value.dtype for name, value in example.items()} == {
        name: real[name].dtype for name in ("index", "source", "source_mask", "decoder_input", "labels")
    }
    assert all(example[name].shape[1] >= real[name].shape[1] for name in ("source", "labels"))
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        batch = {name: fake.from_tensor(value) for name, value in filled(example).items()}
        loss, _ = task.loss(model, batch)
        loss.backward()


def test_a_step_is_described_by_the_rows_it_takes():
    dataset = reasoning(**ROWS)
    task = task_of(dataset)
    (step,) = task.batches(None, 2, 3)
    split = dataset.split("train")
    rows = [split.record(int(row))["id"] for batch in step for row in batch["index"]]
    assert sorted(rows) == sorted(task.describe(3))
    assert task.steps_per_epoch == 4
