"""What all stages write alike: where an answer ends, how often chance inserts, and which files are kept."""

import json

import pytest
import torch
from small_latent_memory import small

from rtx_lab.core.sections import Generation, Ltpo
from rtx_lab.core.types import Cut
from rtx_lab.data.collate import collate
from rtx_lab.data.generated import arithmetic
from rtx_lab.inference.latent_rows import Decision
from rtx_lab.tasks.answering import TuneTask
from rtx_lab.tasks.rollouts import Verdicts
from rtx_lab.tasks.solver import Way

CUT = Cut(seed=3, global_batch=8, micro_batch=8, eval_batch=8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield arithmetic(num_train=48, num_validation=15, num_test=17, target="rationale", vocab_size=116)
    patch.undo()


def task_of(dataset, ltpo=None, **settings):
    return TuneTask(dataset=dataset, cut=CUT, generation=Generation(max_new_tokens=20), ltpo=ltpo or Ltpo(), **settings)


def test_an_answer_is_whole_where_another_question_begins_behind_it(dataset, monkeypatch):
    """The limit then cuts what follows the answer; where no stop text came, it cuts the answer."""
    task, size = task_of(dataset), dataset.vocab_size
    model, opened = small(vocab_size=size, embedding_rows=size, max_seq_len=512), dataset.split("test")
    ids = [*opened.target(0).tolist(), *dataset.tokenizer.encode("how many pens")]
    plain = task.solver.write

    def written(model, batch):
        found = plain(model, batch)
        found.token_BT = torch.nn.functional.pad(torch.tensor([ids]), (0, 3))
        found.length_B[:], found.cut_B[:] = len(ids), True
        return found

    monkeypatch.setattr(task.solver, "write", written)
    for stops, right in ((("how many",), True), ((), False)):
        task.solver.stops = stops
        (record,) = task.score(model, collate(opened, [0]), "test")
        assert (record["correct"], record["cut"]) == (right, not right)
        assert record["prediction"].strip().endswith(record["gold"]) == right
        assert Verdicts(task.solver, opened, by_actions=False).of(0, (), ids, True) == right


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_chance_inserts_the_share_that_is_asked_for(share):
    seed_N = torch.arange(4000)
    decision = Decision(torch.zeros(4000, 2), torch.zeros(4000), torch.ones_like(seed_N), 0 * seed_N, seed_N)
    choose = Way(insert="random", insert_share=share).choose
    assert choose is not None
    assert float(choose(decision).float().mean()) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("ltpo", "name"), [(Ltpo(), "answer.json"), (Ltpo(enabled=True), "answer_ltpo.json")])
def test_the_answers_of_test_are_kept_in_the_format_of_the_original(dataset, ltpo, name):
    task, size = task_of(dataset, ltpo), dataset.vocab_size
    model = small(vocab_size=size, embedding_rows=size, max_seq_len=512)
    records = task.score(model, collate(dataset.split("test"), [3, 5]), "test")
    files = task.files(records, "test")
    assert list(files) == [name]
    *answers, summary = map(json.loads, files[name].splitlines())
    assert [answer["completion"] for answer in answers] == [record["prediction"] for record in records]
    assert [answer["solution"] for answer in answers] == [record["solution"] for record in records]
    assert "summary_metrics" in summary
    assert task.files(records, "validation") == {}
