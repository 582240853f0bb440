"""Denoising as a task: nested masks, losses that add up however they are cut, and texts judged alike for all models."""

import dataclasses

import numpy as np
import pytest
import torch

from rtx_lab.core.types import Cut
from rtx_lab.data.stories import stories
from rtx_lab.models.masked_lm import MaskedLanguageModel
from rtx_lab.models.rdt import RecursiveDenoiser
from rtx_lab.models.rdt_seed import SeedDenoiser
from rtx_lab.nn.cross_entropy import IGNORED
from rtx_lab.tasks.denoise import DenoiseTask
from rtx_lab.tasks.objectives import hide

ROWS = {"num_train": 60, "num_validation": 12, "num_test": 12, "mask_ratios": [0.0, 0.3, 0.5, 1.0]}
SMALL = {"d_model": 16, "n_heads": 2, "d_ff": 32, "dropout": 0.0}
CUT = Cut(
    seed=7, global_batch=8, micro_batch=8, micro_tokens=None, eval_batch=4, num_workers=0, pin_memory=False,
    rank=0, world_size=1,
)  # fmt: skip
CHAIN = {"max_chain_length": 3, "total_steps": 10, "max_steps": 6}
MIXED = CHAIN | {"noise_mixing_steps": 10}
MODELS = {
    "rdt": lambda v: RecursiveDenoiser(vocab_size=v, n_encoder_layers=1, **SMALL, **MIXED),
    "rdt_commit": lambda v: RecursiveDenoiser(
        vocab_size=v, n_encoder_layers=1, **SMALL, **MIXED, reinject=True, commit=True, supervision="all_masked"
    ),
    "rdt_error_gate": lambda v: RecursiveDenoiser(
        vocab_size=v, n_encoder_layers=1, **SMALL, **MIXED, gate_target="token_error"
    ),
    "rdt_seed": lambda v: SeedDenoiser(vocab_size=v, n_encoder_layers=1, min_chain_length=1, **SMALL, **CHAIN),
    "mlm": lambda v: MaskedLanguageModel(vocab_size=v, n_encoder_layers=1, **SMALL),
    "cmlm": lambda v: MaskedLanguageModel(vocab_size=v, n_encoder_layers=1, objective="cmlm", **SMALL),
    "mdlm": lambda v: MaskedLanguageModel(
        vocab_size=v, n_encoder_layers=1, objective="mdlm", num_sampling_steps=6, **SMALL
    ),
}


@pytest.fixture(scope="module")
def dataset():
    return stories(**ROWS)


@pytest.fixture(params=MODELS)
def model(request, dataset):
    torch.manual_seed(0)
    return MODELS[request.param](dataset.vocab_size).double()


def task_of(dataset, **cut):
    return DenoiseTask(dataset=dataset, cut=dataclasses.replace(CUT, **cut), generation=None)


def gradient_of(task, model, step):
    model.zero_grad()
    (batches,) = task.batches(model, step - 1, step)
    weight = sum(float(task.weight(batch)) for batch in batches)
    total = 0.0
    for batch in batches:
        loss, _ = task.loss(model, {k: v.double() if v.is_floating_point() else v for k, v in batch.items()})
        loss.backward()
        total += float(loss.detach())
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return total / weight, torch.cat([g.flatten() for g in grads]) / weight, weight


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_however_a_step_is_cut_it_is_the_same_step(dataset, model, micro_batch):
    for step in (1, 5):
        whole = gradient_of(task_of(dataset), model, step)
        pieces = gradient_of(task_of(dataset, micro_batch=micro_batch), model, step)
        assert pieces[2] == whole[2]
        assert pieces[0] == pytest.approx(whole[0], rel=1e-10)
        torch.testing.assert_close(pieces[1], whole[1], rtol=1e-7, atol=1e-12)


def test_ranks_share_a_step(dataset, model):
    whole = gradient_of(task_of(dataset, micro_batch=2), model, 3)
    shares = [gradient_of(task_of(dataset, micro_batch=2, rank=rank, world_size=3), model, 3) for rank in range(3)]
    total = sum(share[1] * share[2] for share in shares) / sum(share[2] for share in shares)
    assert sum(share[2] for share in shares) == whole[2]
    torch.testing.assert_close(total, whole[1], rtol=1e-7, atol=1e-12)


def test_the_first_loss_is_that_of_a_guess_among_all_words(dataset, model):
    loss, _, _ = gradient_of(task_of(dataset), model, 2)
    assert 0.6 * np.log(dataset.vocab_size) < loss < 2.5 * np.log(dataset.vocab_size)


def test_masks_are_nested_special_tokens_stay_and_labels_are_no_masks(dataset, model):
    task = task_of(dataset)
    special = torch.tensor(dataset.split("train").special_ids)
    for (batch,) in task.batches(model, 0, 4):
        before = None
        for step in range(batch["visible"].shape[1]):
            shown = {**batch, "visible": batch["visible"][:, step:]}
            noisy, order = hide(shown, task.mask_id)
            hidden = noisy == task.mask_id
            assert (hidden.sum(1) == batch["maskable"].sum(1) - batch["visible"][:, step]).all()
            assert not torch.isin(batch["tokens"][hidden], special).any()
            assert before is None or not (hidden & ~before).any(), "a later step shows more"
            before = hidden
        rank = batch["target_rank"]
        labels = (
            batch["tokens"][:, None]
            .expand(-1, rank.shape[1], -1)
            .gather(2, order[:, None].expand(-1, rank.shape[1], -1).gather(2, rank.clamp_min(0)))
        )
        assert not (torch.where(rank < 0, IGNORED, labels) == task.mask_id).any()


def test_nothing_that_is_hidden_reaches_a_prediction(dataset, model):
    """Other words under the masks leave what is filled in as it is."""
    task = task_of(dataset)
    model.eval()
    for batch in task.held_out("test"):
        records, outputs = _texts(task, model, batch)
        noisy, _ = hide(batch, task.mask_id)
        swapped = torch.where(noisy == task.mask_id, batch["tokens"].roll(3, 1), batch["tokens"])
        swapped = torch.where(batch["maskable"], swapped, batch["tokens"])
        _, again = _texts(task, model, {**batch, "tokens": swapped})
        assert outputs == again
        assert all(record["num_right"] <= record["num_tokens"] for record in records)


def _texts(task, model, batch):
    with torch.inference_mode():
        records = task.score(model, batch, "test")
    return records, [record["_text"] for record in records]


def test_every_text_is_judged_once_at_every_ratio_and_alone_as_in_a_batch(dataset, model):
    model.eval()
    together, alone = task_of(dataset), task_of(dataset, eval_batch=1)
    with torch.inference_mode():
        both = [
            {record["id"]: record for batch in task.held_out("test") for record in task.score(model, batch, "test")}
            for task in (together, alone)
        ]
    assert both[0].keys() == both[1].keys()
    assert len(both[0]) == len(dataset.split("test")) * (len(ROWS["mask_ratios"]) + 5)
    assert len({record["row"] for record in both[0].values()}) == len(both[0])
    for name, record in both[0].items():
        other = both[1][name]
        assert {k: v for k, v in record.items() if k != "nll"} == {k: v for k, v in other.items() if k != "nll"}
        assert record["nll"] == pytest.approx(other["nll"], rel=1e-9)


def test_nothing_hidden_costs_no_step_and_gives_the_text_back(dataset, model):
    task = task_of(dataset)
    for batch in task.held_out("test"):
        if (batch["visible"][:, 0] == batch["maskable"].sum(1)).all():
            records, outputs = _texts(task, model.eval(), batch)
            assert [record["steps"] for record in records] == [0] * len(records)
            assert outputs == [record["_gold"] for record in records]
            assert all(record["correct"] is None for record in records)
            return
    pytest.fail("no batch without masks")


def test_the_summary_speaks_of_every_ratio(dataset, model):
    task = task_of(dataset)
    with torch.inference_mode():
        records = [r for batch in task.held_out("test") for r in task.score(model.eval(), batch, "test")]
    metrics = task.summarise(records)
    assert metrics["mask/50/n"] == len(dataset.split("test"))
    assert {"mask/30/accuracy", "mask/100/bleu", "mask/0/flops", "loss", "accuracy"} <= metrics.keys()
    assert metrics["loss"] == pytest.approx(
        sum(r["nll"] for r in records if not r["fixed_steps"])
        / sum(r["num_tokens"] for r in records if not r["fixed_steps"])
    )


def test_the_example_is_at_least_as_large_as_any_batch_and_traces_without_data(dataset, model):
    from torch._subclasses.fake_tensor import FakeTensorMode

    task = task_of(dataset)
    example = task.example_batch(model, 2)
    for (batch,) in task.batches(model, 0, 10):
        assert batch.keys() - {"real"} == example.keys()
        assert all(batch[name].dtype == example[name].dtype for name in example), "a price sees the real types"
        assert batch["target_rank"].shape[1] <= example["target_rank"].shape[1]
        assert batch["target_rank"].shape[2] <= example["target_rank"].shape[2]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {name: mode.from_tensor(value) for name, value in example.items()}
        loss, _ = task.loss(model.float(), fake)
        loss.backward()
        task.rehearse(model, 3)
    model.zero_grad()
