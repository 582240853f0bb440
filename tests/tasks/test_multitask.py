"""Denoising and classifying as one task: two losses in a step that no cut changes, and texts judged for both."""

import dataclasses

import pytest
import torch
from sentences import write_sst2

from rtx_lab.core.errors import UsageError
from rtx_lab.core.types import Cut
from rtx_lab.data.labelled import sst2_texts
from rtx_lab.models.class_head import class_logits
from rtx_lab.models.masked_lm import MaskedLanguageModel
from rtx_lab.models.rdt import RecursiveDenoiser
from rtx_lab.models.rdt_seed import SeedDenoiser
from rtx_lab.tasks.denoise import DenoiseTask
from rtx_lab.tasks.multitask import DenoiseAndClassifyTask

CUT = Cut(seed=7, global_batch=12, micro_batch=12, eval_batch=8)
SMALL = {"d_model": 16, "n_heads": 2, "d_ff": 32, "n_encoder_layers": 1, "dropout": 0.0, "num_classes": 2}
CHAIN = {"max_chain_length": 3, "total_steps": 10, "max_steps": 4}
MODELS = {
    "rdt": lambda v: RecursiveDenoiser(vocab_size=v, **SMALL, **CHAIN, noise_mixing_steps=10, reinject=True),
    "rdt_seed": lambda v: SeedDenoiser(vocab_size=v, **SMALL, **CHAIN, min_chain_length=1),
    "mlm": lambda v: MaskedLanguageModel(vocab_size=v, **SMALL),
    "mdlm": lambda v: MaskedLanguageModel(vocab_size=v, **SMALL, objective="mdlm", num_sampling_steps=4),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    given = write_sst2(tmp_path_factory.mktemp("sentences"))
    splits = {"train": "train", "test": "validation"}
    return sst2_texts(**given, splits=splits, mask_ratios=[0.0, 0.5, 1.0], num_test=6, num_validation=6)


@pytest.fixture(params=MODELS)
def model(request, dataset):
    torch.manual_seed(0)
    return MODELS[request.param](dataset.vocab_size).double()


def task_of(dataset, weight=0.7, **cut):
    own = dataclasses.replace(CUT, **cut)
    return DenoiseAndClassifyTask(dataset=dataset, cut=own, generation=None, loss_weight_class=weight)


def wide(batch):
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def gradient_of(task, model, step):
    """What the loop makes of this rank's part of a step: loss and gradient, summed, and the weight."""
    model.zero_grad()
    (batches,) = task.batches(model, step - 1, step)
    total = 0.0
    for batch in batches:
        loss, _ = task.loss(model, wide(batch))
        loss.backward()
        total += float(loss.detach())
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return total, torch.cat([g.flatten() for g in grads]), sum(float(task.weight(batch)) for batch in batches)


@pytest.mark.parametrize("cut", [{"micro_batch": 1}, {"micro_batch": 5}, {"micro_tokens": 40}])
def test_however_a_step_is_cut_it_is_the_same_step(dataset, model, cut):
    for step in (1, 6):
        whole, pieces = gradient_of(task_of(dataset), model, step), gradient_of(task_of(dataset, **cut), model, step)
        assert pieces[2] == whole[2]
        assert pieces[0] == pytest.approx(whole[0], rel=1e-10)
        torch.testing.assert_close(pieces[1], whole[1], rtol=1e-7, atol=1e-11)


def test_ranks_share_a_step_also_one_that_has_no_text_left(dataset, model):
    whole = gradient_of(task_of(dataset, micro_batch=3), model, 2)
    shares = [gradient_of(task_of(dataset, micro_batch=3, rank=rank, world_size=3), model, 2) for rank in range(3)]
    assert sum(share[2] for share in shares) == whole[2]
    assert sum(share[0] for share in shares) == pytest.approx(whole[0], rel=1e-10)
    torch.testing.assert_close(sum(share[1] for share in shares), whole[1], rtol=1e-7, atol=1e-11)


def test_each_loss_is_a_mean_over_what_it_is_of(dataset, model):
    """Per hidden token and per text, by their definitions, added with the weight."""
    task, alone = task_of(dataset, micro_batch=5), DenoiseTask(dataset=dataset.texts, cut=CUT, generation=None)
    total, _, weight = gradient_of(task, model, 4)
    denoising, nll, hits = 0.0, [], 0
    (batches,) = task.batches(model, 3, 4)
    logged = [task.loss(model, wide(batch))[1] for batch in batches]
    for batch in batches:
        denoising += float(alone.loss(model, wide(batch))[0].detach())
        labels = torch.from_numpy(dataset.labels("train")[batch["index"].numpy()])
        logits = class_logits(model, batch["tokens"], batch.get("real")).detach()
        nll += torch.nn.functional.cross_entropy(logits, labels, reduction="none").tolist()
        hits += int((logits.argmax(1) == labels).sum())
    assert len(nll) == 12
    assert total / weight == pytest.approx(denoising / weight + 0.7 * sum(nll) / 12, rel=1e-6)
    assert sum(float(one["class_loss"]) for one in logged) / weight == pytest.approx(sum(nll) / 12, rel=1e-6)
    assert sum(float(one["class_accuracy"]) for one in logged) / weight == pytest.approx(hits / 12, rel=1e-6)
    assert sum(float(one["total_loss"]) for one in logged) == pytest.approx(total, rel=1e-10)


def test_without_weight_denoising_is_what_it_is_alone(dataset, model):
    alone = gradient_of(DenoiseTask(dataset=dataset.texts, cut=CUT, generation=None), model, 3)
    both = gradient_of(task_of(dataset, weight=0.0), model, 3)
    assert both[0] == pytest.approx(alone[0], rel=1e-12)
    torch.testing.assert_close(both[1], alone[1], rtol=1e-10, atol=1e-14)
    gradient_of(task_of(dataset, weight=1.0), model, 3)
    assert model.class_head.output.weight.grad.abs().max() > 0


def scored(task, model, split="test", change=lambda batch: batch):
    with torch.inference_mode():
        return [one for batch in task.held_out(split) for one in task.score(model.eval(), change(batch), split)]


def test_every_text_is_classified_once_beside_those_that_are_restored(dataset, model):
    task = task_of(dataset)
    records = scored(task, model)
    whole = [record for record in records if record.get("part") == "class"]
    assert len(records) == task.num_scored("test") == 6 * (3 + 5) + 32
    assert len({record["id"] for record in records}) == len({record["row"] for record in records}) == len(records)
    assert sorted(record["id"] for record in whole) == sorted(f"test-{row}/class" for row in range(32))
    for record in whole:
        row = int(record["id"].removeprefix("test-").removesuffix("/class"))
        assert record["gold"] == dataset.classes[dataset.labels("test")[row]]
        assert record["class_correct"] == (record["prediction"] == record["gold"])
    alone = {record["id"]: record for record in scored(task_of(dataset, eval_batch=1), model)}
    for record in whole:
        assert record["prediction"] == alone[record["id"]]["prediction"]
        assert record["class_nll"] == pytest.approx(alone[record["id"]]["class_nll"], rel=1e-9)


def test_no_label_reaches_a_prediction(dataset, model):
    task = task_of(dataset)
    flipped = scored(task, model, change=lambda b: b | {"label": 1 - b["label"]} if "label" in b else b)
    for one, other in zip(scored(task, model), flipped, strict=True):
        assert one.get("prediction") == other.get("prediction")
        assert one.get("num_right") == other.get("num_right")
        if "part" in one:
            assert one["class_correct"] != other["class_correct"]


def test_the_summary_speaks_of_both(dataset, model):
    task = task_of(dataset)
    records = scored(task, model)
    metrics = task.summarise(records)
    whole = [record for record in records if "part" in record]
    assert metrics["class_n"] == 32
    assert metrics["class_accuracy"] == pytest.approx(sum(record["class_correct"] for record in whole) / 32)
    assert metrics["class_accuracy_low"] <= metrics["class_accuracy"] <= metrics["class_accuracy_high"]
    assert metrics["class_loss"] == pytest.approx(sum(record["class_nll"] for record in whole) / 32)
    assert metrics["class_majority"] >= 0.5
    alone = task.denoise.summarise([record for record in records if "part" not in record])
    assert {key: metrics[key] for key in alone} == alone
    assert {"loss", "mask/50/accuracy"} <= alone.keys()
    assert task.monitor.removeprefix("validation/") in task.summarise(scored(task, model, "validation"))


def test_the_example_has_what_a_batch_has_and_traces_without_data(dataset, model):
    from torch._subclasses.fake_tensor import FakeTensorMode

    task = task_of(dataset)
    example = task.example_batch(model, 2)
    for (batch,) in task.batches(model, 0, 4):
        assert batch.keys() - {"real"} == example.keys()
        assert all(batch[name].dtype == example[name].dtype for name in example)
        assert all(len(value) == len(batch["index"]) for value in batch.values()), "a batch is cut by slicing"
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        loss, _ = task.loss(model.float(), {name: mode.from_tensor(value) for name, value in example.items()})
        loss.backward()
        task.rehearse(model, 3)
    model.zero_grad()


def test_a_head_of_another_size_and_a_wrong_weight_are_one_sentence(dataset):
    model = MaskedLanguageModel(vocab_size=dataset.vocab_size, **SMALL | {"num_classes": 0})
    task = task_of(dataset)
    assert model.class_head is None
    with pytest.raises(UsageError, match=r"knows 0 classes and sst2_texts has 2: set model.num_classes=2"):
        task.loss(model, task.example_batch(model, 2))
    for weight in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=r"task\.loss_weight_class must be a finite number"):
            task_of(dataset, weight=weight)
    with pytest.raises(UsageError, match=r"model\.num_classes must be an integer of at least 0"):
        MaskedLanguageModel(vocab_size=dataset.vocab_size, **SMALL | {"num_classes": -1})


def test_both_are_learned_at_once(dataset):
    torch.manual_seed(0)
    model = MODELS["rdt"](dataset.vocab_size)
    task = task_of(dataset, weight=1.0)
    before = task.summarise(scored(task, model, "validation"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for (batch,) in task.batches(model, 0, 60):
        loss, _ = task.loss(model, batch)
        optimizer.zero_grad()
        (loss / task.weight(batch)).backward()
        optimizer.step()
    after = task.summarise(scored(task, model, "validation"))
    assert after["class_accuracy"] > 0.9 > before["class_accuracy"]
    assert after["loss"] < 0.7 * before["loss"]
