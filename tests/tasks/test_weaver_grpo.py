"""The weaver's second way to learn: what is learnt from is what was written, and where it was written."""

import numpy as np
import pytest
import torch
from small_trigger import CUT, Often, Parity, small_dataset, small_model

from rtx_lab.core.sections import Generation, Ltpo
from rtx_lab.data.collate import IGNORED
from rtx_lab.nn.cross_entropy import token_nll
from rtx_lab.tasks import weaver_grpo
from rtx_lab.tasks.weaver_grpo import WeaverGrpoTask

ROWS = np.arange(4)


@pytest.fixture(scope="module")
def dataset():
    return small_dataset()


def made_of(dataset, temperature=1e-4, **changes):
    """The task and a model whose weaver says something, in evaluation."""
    model = small_model(lora_dropout=0.0, **changes)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "lora" in name or name.startswith("to_"):
                param.add_(0.1 * torch.randn_like(param))
    writing = Generation(max_new_tokens=18)
    task = WeaverGrpoTask(
        dataset=dataset, cut=CUT, generation=writing, ltpo=Ltpo(), group_size=2, temperature=temperature
    )
    task.solver.delimiters = Often()
    task.prepare(model)
    return task, model.eval()


@pytest.mark.parametrize(
    "changes",
    [{}, {"max_prompt_aug_num": 2}, {"weaver_context": "hidden"}, {"weaver_context": "embeds"},
     {"prompt_latents_len": 0}],
    ids=str,
)  # fmt: skip
def test_each_token_is_learnt_where_it_was_written(dataset, changes):
    """Near temperature 0 every token is the likeliest one at its place, behind the latents of its writing."""
    task, model = made_of(dataset, **changes)
    batch = task.written(model, ROWS, 1)
    with torch.no_grad():
        likeliest = model.logits(task.tuned.states(model, batch)).argmax(-1)
    real = batch["labels"] != IGNORED
    assert torch.equal(likeliest[real], batch["labels"][real])
    assert sum(key.startswith("text_") for key in batch) > 2


def test_what_had_no_room_is_not_learnt_from(dataset, monkeypatch):
    """Latents that the context has no room for are left out while writing, but not while learning."""
    monkeypatch.setattr(weaver_grpo, "Verdicts", lambda *_, **__: Parity())

    def lengths(batch):
        return batch["real_0"].sum(1) + 3 + (batch["labels"] != IGNORED).sum(1)

    task, model = made_of(dataset, temperature=1.0)
    roomy = task.written(model, ROWS, 1)
    room = int(roomy["real_0"].sum(1).median()) + 3
    task, model = made_of(dataset, temperature=1.0, max_seq_len=room)
    tight = task.written(model, ROWS, 1)
    fits = lengths(tight) <= room
    assert 0 < int(fits.sum()) < len(fits)
    assert not tight["advantage"][~fits].any()
    assert roomy["advantage"].any()


def test_the_loss_is_of_the_policy_that_wrote(dataset, monkeypatch):
    monkeypatch.setattr(weaver_grpo, "Verdicts", lambda *_, **__: Parity())
    task, model = made_of(dataset, temperature=0.7)
    batch = task.written(model, ROWS, 1)
    with torch.no_grad():
        hidden = task.tuned.states(model, batch)
        nll = token_nll(hidden / 0.7, model.output_weight, batch["labels"])
        loss, _ = task.loss(model, batch)
    assert batch["advantage"].abs().max() > 0
    torch.testing.assert_close(loss, (nll * batch["advantage"][:, None]).sum(), check_dtype=False, rtol=1e-5, atol=1e-6)
