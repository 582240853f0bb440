"""Tuning and evaluating: the loss is that of one text at a time, every row is answered once, a cut answer is wrong."""

from dataclasses import replace

import pytest
import torch
from memory_by_reencoding import sft_loss
from small_latent_memory import in_double, small
from torch._subclasses.fake_tensor import FakeTensorMode

from rtx_lab.core.errors import UsageError
from rtx_lab.core.sections import Generation, Ltpo
from rtx_lab.core.types import Cut
from rtx_lab.data.collate import collate
from rtx_lab.data.delimiters import decision_points
from rtx_lab.data.generated import arithmetic
from rtx_lab.inference.ltpo import search
from rtx_lab.models.latent_memory import CONTEXTS, LatentMemory
from rtx_lab.tasks.answering import TuneTask
from rtx_lab.tasks.solver import seeds
from rtx_lab.tasks.summarise import WATCH

CUT = Cut(seed=3, global_batch=8, micro_batch=8, eval_batch=7)
ROWS = range(6)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("RTX_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield arithmetic(num_train=48, num_validation=15, num_test=17, target="rationale", vocab_size=116)
    patch.undo()


def model_of(dataset, **changes):
    size = dataset.vocab_size
    sizes = {"vocab_size": size, "embedding_rows": size, "max_seq_len": 512, "d_model": 16, "d_ff": 24}
    return small(**(sizes | changes))


def task_of(dataset, cut=CUT, max_new_tokens=6, temperature=0.0, ltpo=None, **settings):
    writing = Generation(max_new_tokens=max_new_tokens, watch_rows=5, temperature=temperature)
    return TuneTask(dataset=dataset, cut=cut, generation=writing, ltpo=ltpo or Ltpo(), **settings)


def pieces_of(task, model, rows=ROWS, step=None):
    return task._in_pieces(model, collate(task.solver.dataset.split("train"), list(rows)), step)


def by_reencoding(task, model, row, most_prompt, most_inference):
    """The loss of one sample as its definition says, with the first ends of sentences."""
    opened = task.solver.dataset.split("train")
    answer = torch.tensor([*opened.target(row), opened.eos_id])
    ends = decision_points(task.solver.delimiters, answer[:-1].numpy())[:most_inference] - 1
    prompt = torch.tensor(opened.source(row)).long()
    return sft_loss(model, prompt, answer, most_prompt=most_prompt, ends=set(ends.tolist()))


@pytest.mark.parametrize("changes", [{}, {"max_prompt_aug_num": 2}, {"prompt_latents_len": 0}])
@pytest.mark.parametrize("context", CONTEXTS)
def test_the_loss_of_a_batch_is_that_of_one_text_at_a_time(dataset, context, changes):
    """Loss and every gradient of the weaver."""
    model, task = in_double(model_of(dataset, weaver_context=context, **changes)), task_of(dataset, part="weaver")
    task.prepare(model)
    learning = [param for param in model.parameters() if param.requires_grad]
    loss, sums = task.loss(model, pieces_of(task, model))
    slopes = torch.autograd.grad(loss, learning, allow_unused=True)
    most_prompt = 0 if model.prompt_latents == 0 else model.max_insertions["prompt"]
    alone = sum(by_reencoding(task, model, row, most_prompt, 2) for row in ROWS)
    wanted = torch.autograd.grad(alone, learning, allow_unused=True)
    assert float(loss) == pytest.approx(float(alone), rel=1e-10)
    assert float(sums["nll"]) == float(loss)
    for found, slope in zip(slopes, wanted, strict=True):
        assert (found is None) == (slope is None)
        if found is not None:
            assert slope.numel() == 0 or slope.abs().max() > 1e-6
            torch.testing.assert_close(found, slope, rtol=1e-7, atol=1e-9)
    never = task_of(dataset, part="weaver", insert="never")
    assert abs(float(never.loss(model, pieces_of(never, model))[0]) - float(loss)) > 1e-5 * float(loss)


@pytest.mark.parametrize(
    ("settings", "most_prompt", "most_inference"),
    [
        ({"part": "base", "insert": "never"}, 0, 0), ({"part": "tuned", "insert": "never"}, 0, 0),
        ({"part": "weaver", "insert": "prompt"}, 1, 0),
    ],
)  # fmt: skip
def test_other_parts_have_their_loss(dataset, settings, most_prompt, most_inference):
    model, task = in_double(model_of(dataset)), task_of(dataset, **settings)
    task.prepare(model)
    loss = task.loss(model, pieces_of(task, model))[0]
    alone = sum(by_reencoding(task, model, row, most_prompt, most_inference) for row in ROWS)
    assert float(loss) == pytest.approx(float(alone), rel=1e-10)
    loss.backward()
    for part, params in model.parts().items():
        reached = part == settings["part"]
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in params) == reached


def test_a_learnt_prompt_stands_behind_the_prompt_alone(dataset, monkeypatch):
    model = in_double(model_of(dataset))
    task = task_of(dataset, part="prompt", insert="prompt", latents="learnt")
    task.prepare(model)
    loss = task.loss(model, pieces_of(task, model))[0]
    monkeypatch.setattr("memory_by_reencoding.weave", lambda model, x, kind: model.learnt)
    assert float(loss) == pytest.approx(float(sum(by_reencoding(task, model, row, 1, 0) for row in ROWS)), rel=1e-10)
    assert torch.autograd.grad(loss, model.learnt)[0].abs().max() > 1e-6
    records = task.score(model, collate(task.solver.dataset.split("test"), [0, 1]), "test")
    assert [record["num_latents"] for record in records] == [3, 3]


@pytest.mark.parametrize("points", ["random", "first"])
def test_two_micro_batches_are_the_batch(dataset, points):
    model = in_double(model_of(dataset))
    whole_task = task_of(dataset, part="weaver", points=points)
    half_task = task_of(dataset, replace(CUT, micro_batch=4), part="weaver", points=points)
    whole_task.prepare(model)
    learning = [param for param in model.parameters() if param.requires_grad]
    totals = []
    for task, count in ((whole_task, 1), (half_task, 2)):
        (step,) = task.batches(model, 3, 4)
        assert len(step) == count
        losses = [task.loss(model, batch)[0] for batch in step]
        weight = sum(float(task.weight(batch)) for batch in step)
        slopes = [torch.autograd.grad(loss, learning, allow_unused=True) for loss in losses]
        sums = [sum(g for g in each if g is not None) for each in zip(*slopes, strict=True)]
        totals.append((sum(float(loss) for loss in losses), weight, sums))
    (loss, weight, slopes), (other_loss, other_weight, other_slopes) = totals
    assert other_loss == pytest.approx(loss, rel=1e-10)
    assert other_weight == weight > 8
    for found, wanted in zip(other_slopes, slopes, strict=True):
        torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(wanted), rtol=1e-7, atol=1e-9)


def test_random_points_belong_to_row_and_step(dataset):
    model, task = model_of(dataset), task_of(dataset, part="weaver")
    first, again, later = (pieces_of(task, model, range(24), step) for step in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["at"], later["at"])
    alone = pieces_of(task, model, [5], 1)
    number = int(first["inserts_2"][5]) + int(first["inserts_3"][5])
    assert sum(int(alone[key].any()) for key in alone if key.startswith("inserts_")) == 1 + number
    real = [int(first[f"real_{piece}"][5].sum()) for piece in range(4)]
    assert real == [int(alone[f"real_{piece}"].sum()) if f"real_{piece}" in alone else 0 for piece in range(4)]


@pytest.mark.parametrize("settings", [{"insert": "always"}, {"insert": "trigger"}, {"part": "weaver"}])
def test_every_row_is_answered_once_in_any_split(dataset, settings):
    model, task = model_of(dataset), task_of(dataset, **settings)
    for split, count in (("test", 17), ("validation", 15), (WATCH, 5)):
        records = [record for batch in task.held_out(split) for record in task.score(model, batch, split)]
        rows = sorted(record["row"] for record in records)
        assert len(rows) == len(set(rows)) == count == task.num_scored(split)
        if split != WATCH:
            assert rows == [*range(count)]
        opened = task.solver.dataset.split("validation" if split == WATCH else split)
        assert all(record["id"] == opened.record(record["row"])["id"] for record in records)
    metrics = task.summarise(records)
    assert ("loss" in metrics) == ("part" in settings)
    assert 0 <= metrics["accuracy"] <= 1


def test_the_loss_of_references_is_that_of_training(dataset):
    model, task = in_double(model_of(dataset)), task_of(dataset, part="weaver", points="first")
    batch = collate(task.solver.dataset.split("train"), list(ROWS))
    records = task.score(model, batch, "train")
    assert sum(record["nll"] for record in records) == pytest.approx(
        float(task.loss(model, task._in_pieces(model, batch, None))[0].detach()), rel=1e-9
    )


def test_an_answer_never_depends_on_its_label(dataset):
    model, task = model_of(dataset), task_of(dataset)
    batch = collate(task.solver.dataset.split("test"), range(8))
    shuffled = batch | {name: batch[name].roll(1, dims=0) for name in ("labels", "decoder_input")}
    found = [task.score(model, one, "test") for one in (batch, shuffled)]
    texts = [[record["prediction"] for record in records] for records in found]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1


def test_a_right_number_in_a_cut_answer_is_wrong(dataset, monkeypatch):
    model, task = model_of(dataset), task_of(dataset)
    opened = task.solver.dataset.split("test")
    batch = collate(opened, range(4))
    monkeypatch.setattr(task.solver, "text", lambda ids: f"#### {opened.record(0)['gold']}")
    plain = task.solver.write
    for is_cut in (False, True):

        def written(model, batch, is_cut=is_cut):
            answer = plain(model, batch)
            answer.cut_B[:] = is_cut
            return answer

        monkeypatch.setattr(task.solver, "write", written)
        record = task.score(model, batch, "test")[0]
        assert (record["correct"], record["correct_strict"], record["cut"]) == (not is_cut, not is_cut, is_cut)


def test_records_say_where_latents_went(dataset):
    model = model_of(dataset)
    batch = collate(task_of(dataset).solver.dataset.split("test"), range(8))
    for settings in ({"insert": "always"}, {"insert": "random", "insert_share": 0.5}, {"insert": "never"}):
        task = task_of(dataset, max_new_tokens=30, **settings)
        records = task.score(model, batch, "test")
        for record in records:
            inserted = record["inserted_at"]
            assert set(inserted) <= set(record["decided_at"])
            assert record["num_latents"] == 3 * (0 in inserted) + 2 * sum(place > 0 for place in inserted)
            assert all(place < record["num_tokens"] for place in inserted)
        assert any(record["num_latents"] for record in records) == (settings["insert"] != "never")


@pytest.mark.parametrize("where", ["all", "prompt"])
def test_searches_are_told_as_means_over_those_that_were_made(dataset, monkeypatch, where):
    model = model_of(dataset, max_prompt_aug_num=2)
    task = task_of(dataset, max_new_tokens=30, ltpo=Ltpo(enabled=True, max_steps=2, where=where))
    made, plain = [], search

    def recorded(settings, model, stream, start_NKD, seed_N):
        latents_NKD, told_N5 = plain(settings, model, stream, start_NKD, seed_N)
        made.extend(zip(seed_N.tolist(), told_N5.tolist(), strict=True))
        return latents_NKD, told_N5

    monkeypatch.setattr("rtx_lab.inference.ltpo.search", recorded)
    rows = range(8)
    batch = collate(task.solver.dataset.split("test"), rows)
    records = task.score(model, batch, "test")
    own = dict(zip(seeds(batch["index"], CUT.seed).tolist(), records, strict=True))
    counts = []
    for seed, record in own.items():
        told = [values[:4] for of, values in made if of == seed]
        means = [sum(each) / len(told) for each in zip(*told, strict=True)]
        found = [record[f"ltpo_{name}"] for name in ("first", "best", "moved", "steps")]
        assert found == pytest.approx(means, rel=1e-5)
        counts.append(len(told) - 2)
        assert counts[-1] == (0 if where == "prompt" else sum(place > 0 for place in record["inserted_at"]))
    assert any(record["inserted_at"][1:] for record in records)
    assert any(counts) == (where == "all")


def test_tracing_needs_no_values(dataset):
    """The largest batch, its loss and a rehearsal on tensors without memory; real batches are never larger."""
    for settings in ({"part": "weaver"}, {"part": "base", "insert": "never"}, {"part": "prompt", "latents": "learnt"}):
        task, real = task_of(dataset, **settings), model_of(dataset)
        widest = task.example_batch(real, 2)
        pieces = pieces_of(task, real, range(48))
        assert widest["labels"].shape[1] >= pieces["labels"].shape[1]
        texts = [sum(v.shape[1] for k, v in batch.items() if k.startswith("text_")) for batch in (widest, pieces)]
        assert texts[0] == dataset.max_source_length + dataset.max_target_length - 1
        with FakeTensorMode() as fake:
            model = LatentMemory(**real.arguments)
            task.prepare(model)
            batch = {key: fake.from_tensor(value) for key, value in widest.items()}
            loss, sums = task.loss(model, batch)
            loss.backward()
            task.rehearse(model, 3)
        assert loss.shape == sums["nll"].shape == ()
        assert any(param.grad is not None for param in model.parts()[settings["part"]])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"insert": "often"}, "task.insert must be one of"), ({"latents": "old"}, "task.latents must be one of"),
        ({"insert_share": 1.5}, "task.insert_share must lie"), ({"points": "last"}, "task.points must be one of"),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(dataset, settings, words):
    with pytest.raises(UsageError, match=words):
        task_of(dataset, **settings)


def test_an_unknown_part_is_refused(dataset):
    with pytest.raises(UsageError, match="part must be one of"):
        task_of(dataset, part="everything").prepare(model_of(dataset))
