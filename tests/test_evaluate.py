"""Evaluation of a split: every row once, in order, in pieces when memory is short, and the model left as it was."""

import pytest
import torch
from toy_training import host

from rtx_lab.core.memory import OutOfMemory
from rtx_lab.core.parallel import Ranks
from rtx_lab.evaluate import evaluate


class Answers:
    """Scores rows by a model with dropout; more than `most_rows` at once are out of memory."""

    def __init__(self, most_rows=99):
        self.most_rows, self.sizes, self.modes, self.failures = most_rows, [], [], 0

    def held_out(self, split):
        order = torch.tensor([5, 2, 9, 0, 7, 1, 8, 3, 6, 4])
        for rows in order.split(4):
            yield {"index": rows, "source": rows[:, None].float()}

    def score(self, model, batch, split):
        if len(batch["index"]) > self.most_rows:
            self.failures += 1
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.sizes.append(len(batch["index"]))
        self.modes.append((model.training, torch.is_grad_enabled()))
        values = model(batch["source"]).squeeze(1)
        return [
            {"row": row, "value": value, "split": split}
            for row, value in zip(batch["index"].tolist(), values.tolist(), strict=True)
        ]

    def summarise(self, records):
        return {"n": len(records)}

    def inspect(self, model):
        return {"size": 2.0}


def _model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5))


@pytest.mark.parametrize("training", [True, False])
def test_every_row_once_in_order_without_dropout_or_gradient(training):
    model, task = _model().train(training), Answers()
    metrics, records = evaluate(model, task, "test", host(), Ranks())
    assert metrics == {"n": 10, "size": 2.0}
    assert [record["row"] for record in records] == list(range(10))
    exact = model[0](torch.arange(10.0)[:, None]).squeeze(1).tolist()
    assert [record["value"] for record in records] == pytest.approx(exact)
    assert set(task.modes) == {(False, False)}
    assert model.training is training


def test_a_batch_that_does_not_fit_is_scored_in_halves_and_the_size_is_remembered():
    model, task = _model(), Answers(most_rows=1)
    whole = evaluate(model, Answers(), "test", host(), Ranks())
    assert evaluate(model, task, "test", host(), Ranks()) == whole
    assert task.sizes == [1] * 10
    assert task.failures == 2, "four, then two; the next batches begin with one"
    with pytest.raises(OutOfMemory):
        evaluate(model, Answers(most_rows=0), "test", host(), Ranks())
    assert model.training, "a failure leaves the model as it was, too"


def test_a_wish_to_stop_is_heard_between_batches():
    class Stop(Exception):
        pass

    calls = 0

    def check():
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Stop

    task = Answers()
    with pytest.raises(Stop):
        evaluate(_model(), task, "test", host(), Ranks(), check=check)
    assert task.sizes == [4]
