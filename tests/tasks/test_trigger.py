"""The trigger's stage: gradients by hand, credit by enumeration, rollouts as written alone, cuts, and prices."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_trigger import CUT, Parity, small_dataset, small_model, small_task
from torch._subclasses.fake_tensor import FakeTensorMode
from toy_training import host

from rtx_lab import loop, optim
from rtx_lab.core.errors import UsageError
from rtx_lab.core.gradients import step_seed
from rtx_lab.core.training import Plan
from rtx_lab.data.batching import NOBODY
from rtx_lab.data.collate import collate
from rtx_lab.inference import choices
from rtx_lab.inference.latent_writing import write
from rtx_lab.inference.latents import woven
from rtx_lab.tasks.rollouts import Verdicts, roll_out
from rtx_lab.tasks.solver import seeds
from rtx_lab.tasks.trigger import _states

ROWS = np.arange(4)


@pytest.fixture(scope="module")
def dataset():
    return small_dataset()


@pytest.fixture(scope="module")
def model():
    made = small_model()
    made.train_only("trigger")
    return made


def groups_of(task, model, choose=choices.sampled, size=8, rows=ROWS, turn=1):
    batch = collate(task.prompts[0], rows)
    own = seeds(batch["index"], step_seed(task.cut.seed, turn))
    return roll_out(model, task.solver, batch, own, group_size=size, choose=choose, verdicts=Parity())


def forced(task, model, row, actions):
    """One answer of a prompt that decides as it is told; its correctness and all its decisions."""
    batch = collate(task.prompts[0], [row])

    def choose(decision):
        wanted = [actions[number] if number < len(actions) else None for number in decision.number_N.tolist()]
        follow = (decision.logit_N > 0).long()
        return torch.tensor([own if one is None else one for one, own in zip(wanted, follow.tolist(), strict=True)])

    written = write(
        model.eval(), batch["source"], batch["source_mask"], torch.zeros(1, dtype=torch.int64),
        limits=task.solver.limits, ends=task.solver.delimiters, choose=choose, source=woven, decides=True,
    )  # fmt: skip
    ids = written.token_BT[0, : int(written.length_B[0])].tolist()
    return Parity().of(row, (), ids, False), [one for one in written.action_BJ[0].tolist() if one >= 0]


def gradient(task, model, batches):
    model.zero_grad()
    weight = sum(float(task.weight(batch)) for batch in batches)
    for batch in batches:
        (task.loss(model, batch)[0] / weight).backward()
    return torch.cat([param.grad.flatten() for param in model.parameters() if param.grad is not None])


def test_every_prompt_is_written_as_often_as_asked_and_each_way_once(dataset, model):
    task = small_task(dataset)
    groups = groups_of(task, model)
    for group in groups:
        ways = [tuple(row) for row in group.action_RJ.tolist()]
        assert int(group.weight_R.sum()) == 8
        assert len(set(ways)) == len(ways)
        for correct, way in zip(group.correct_R.tolist(), ways, strict=True):
            taken = [action for action in way if action >= 0]
            assert forced(task, model, group.row, taken) == (bool(correct), taken)
    assert sum(len(group.weight_R) for group in groups) >= 12
    assert len({float(group.correct_R.mean()) for group in groups}) > 1


def test_writings_of_a_prompt_decide_independently_after_they_part(dataset):
    """With even odds a later decision of two rows that parted agrees half the time, not always."""
    model, task = small_model(), small_task(dataset)
    torch.nn.init.zeros_(model.trigger_head.weight)
    agreed = []
    for turn in range(1, 9):
        for group in groups_of(task, model, size=2, turn=turn):
            if len(group.weight_R) == 2 and group.action_RJ.shape[1] > 1 and (group.action_RJ[:, 0] >= 0).all():
                first, second = group.action_RJ.tolist()
                if first[0] != second[0] and min(first[1], second[1]) >= 0:
                    agreed.append(first[1] == second[1])
    assert len(agreed) >= 10
    assert 0.15 < np.mean(agreed) < 0.85


@pytest.mark.parametrize("normalise", ["std", "none"])
def test_gradient_is_the_score_of_coins_by_hand(dataset, model, normalise):
    task = small_task(dataset, normalise=normalise, entropy_weight=0.0, insertion_cost=0.1)
    groups = groups_of(task, model)
    found = gradient(task, model, [task.crediting.batch_of(model, groups)])
    head, wanted, count = model.trigger_head, torch.zeros(33, dtype=torch.float64), 0
    for group in groups:
        every = []
        for row, weight in enumerate(group.weight_R.tolist()):
            reward = float(group.correct_R[row]) - 0.1 * group.action_RJ[row].tolist().count(1)
            every += [(reward, row)] * weight
        mean = sum(reward for reward, _ in every) / 8
        deviation = (sum((reward - mean) ** 2 for reward, _ in every) / 7) ** 0.5
        for reward, row in every:
            advantage = (reward - mean) / (deviation + 1e-4) if normalise == "std" else reward - mean
            for action, state in zip(group.action_RJ[row].tolist(), group.state_RJD[row], strict=True):
                if action >= 0:
                    p = float((state @ head.weight[0] + head.bias[0]).detach().sigmoid())
                    wanted -= advantage * (action - p) * torch.cat([state, torch.ones(1)])
                    count += 1
    assert count == sum(int((g.weight_R[:, None] * (g.action_RJ >= 0)).sum()) for g in groups)
    assert wanted.norm() > 1e-2
    torch.testing.assert_close(found, wanted / count, rtol=0, atol=1e-6)


def test_a_policy_that_moved_far_is_clipped_and_groups_that_are_flat_keep_entropy_alone(dataset, model):
    task = small_task(dataset, entropy_weight=0.0)
    groups = groups_of(task, model)
    groups[1] = replace(groups[1], correct_R=torch.ones_like(groups[1].correct_R))
    batch = task.crediting.batch_of(model, groups)
    _, sums = task.loss(model, batch)
    assert float(sums["share_clipped"]) == 0
    moved = batch | {"old_log_p": batch["old_log_p"] - 0.5 * batch["advantage"].sign()}
    sums = task.loss(model, moved)[1]
    taught = batch["weight"] * (batch["advantage"] != 0)
    assert float(sums["share_clipped"]) == float(taught.sum()) > 0
    assert gradient(task, model, [moved]).abs().max() == 0
    flat = batch["flat"] == 1
    assert 0 < flat.sum() < 4
    assert (batch["advantage"][flat] == 0).all()
    assert float(sums["share_zero_variance"]) == float(batch["weight"][flat].sum())
    only = {name: value[flat] for name, value in batch.items()}
    assert gradient(task, model, [only]).abs().max() == 0
    assert gradient(small_task(dataset, entropy_weight=0.1), model, [only]).abs().max() > 0


def test_flips_are_worth_what_enumeration_says(dataset, model):
    task = small_task(dataset, credit="flip", insertion_cost=0.25)
    groups = groups_of(task, model, choices.with_flips)
    batch = task.crediting.batch_of(model, groups)
    worths = []
    for place, group in enumerate(groups):
        right, base = forced(task, model, group.row, [])
        reward = right - 0.25 * sum(base)
        known = batch["weight"][place].sum(0)
        assert known[: len(base)].tolist() == [1] * len(base)
        assert known[len(base) :].sum() == 0
        for j in range(len(base)):
            right, taken = forced(task, model, group.row, [*base[:j], 1 - base[j]])
            worths.append(reward - (right - 0.25 * sum(taken)))
            found = (batch["advantage"][place] * batch["weight"][place]).sum(0)[j]
            assert float(found) == pytest.approx(worths[-1], abs=1e-6)
    assert len({round(worth, 6) for worth in worths}) >= 3


@pytest.mark.parametrize("trigger", ["head", "lora"])
def test_gradient_does_not_depend_on_the_cut(dataset, trigger):
    model = small_model(trigger)
    model.train_only("trigger")
    for param in model.parts()["trigger"][:-2]:
        torch.nn.init.normal_(param, std=0.1)
    found = []
    for size in (4, 1):
        task = small_task(dataset, cut=replace(CUT, micro_batch=size))
        own = [task.written(model, rows, 1, Parity()) for rows in task._rows(1)]
        assert len(own) == 4 // size
        found.append(gradient(task, model, own))
    assert found[0].abs().max() > 1e-3
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)


def test_a_trigger_that_reads_by_itself_reads_again_what_it_judged(dataset):
    model = small_model("lora")
    model.train_only("trigger")
    for param in model.parts()["trigger"][:-2]:
        torch.nn.init.normal_(param, std=0.1)
    task = small_task(dataset)
    groups = groups_of(task, model)
    batch = task.crediting.batch_of(model, groups)
    found = _states(model.eval(), batch)
    assert "state" not in batch
    assert found.requires_grad
    for place, group in enumerate(groups):
        decided = group.action_RJ >= 0
        own = found[place, : decided.shape[0], : decided.shape[1]]
        torch.testing.assert_close(own[decided], group.state_RJD[decided], rtol=1e-8, atol=1e-10)
    model.train()
    _, sums = task.loss(model, batch | {"old_log_p": batch["old_log_p"]})
    assert float(sums["share_clipped"]) == 0  # dropout would move the odds


def test_rewards_are_judged_once(dataset, model):
    task = small_task(dataset)
    verdicts = Verdicts(task.solver, task.prompts[0], by_actions=True)
    end = task.prompts[0].target(0).tolist()
    assert [verdicts.of(0, (1, 0), end, False) for _ in range(3)] == [True] * 3
    assert verdicts.num_judged == 1
    verdicts.of(0, (1, 1), end, False)
    assert verdicts.num_judged == 1
    verdicts.of(1, (1, 0), end, False)
    assert verdicts.num_judged == 2
    assert not verdicts.of(NOBODY, (1,), end, False)
    assert not verdicts.of(2, (1,), end, True)
    assert verdicts.num_judged == 2


def test_prompts_are_a_fixed_part_of_training(dataset):
    half, whole = small_task(dataset, prompts_share=0.5), small_task(dataset)
    other = small_task(dataset, prompts_share=0.5, cut=replace(CUT, seed=8))
    assert 16 < len(half.prompts[1]) < 48
    assert len(whole.prompts[1]) == 64
    assert half.prompts[1].tolist() == other.prompts[1].tolist()
    rows = np.concatenate([np.concatenate(half._rows(turn)) for turn in range(1, half.steps_per_epoch + 1)])
    assert sorted(rows) == half.prompts[1].tolist()
    assert half.describe(2) == [half.prompts[0].record(int(row))["id"] for row in half._rows(2)[0]]


def test_writings_serve_several_steps(dataset, model):
    task = small_task(dataset, num_iterations=2)
    made = list(itertools.islice(task.batches(model, 1, 4), 3))
    assert made[1] is made[2]
    assert made[0] is not made[1]
    assert made[0][0]["index"].tolist() != made[1][0]["index"].tolist()
    assert task.describe(1) == task.describe(2) != task.describe(3)


@pytest.mark.parametrize("trigger", ["head", "lora"])
def test_the_stage_runs_and_moves_the_trigger_alone(dataset, trigger):
    model, task = small_model(trigger, torch.float32), small_task(dataset, insertion_cost=0.1)
    task.prepare(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    update = optim.adamw(model, 3, lr=1e-2)
    plan = Plan(steps=3, log_every=1, eval_every=100, checkpoint_every=100)
    lines = []
    outcome = loop.fit(
        model, task, update, plan, host(), seed=3, log=lines.append, evaluate=lambda: {"validation/accuracy": 0.0}
    )
    assert outcome.status == "done"
    assert model.training
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all("trigger" in name for name in moved)
    assert {"reward", "insertion_rate", "entropy", "share_clipped", "share_zero_variance"} <= lines[0].keys()
    assert 0 < lines[0]["insertion_rate"] < 1
    assert 0 < lines[0]["entropy"] <= 0.6932


@pytest.mark.parametrize("trigger", ["head", "lora"])
def test_prices_without_memory(dataset, trigger):
    task = small_task(dataset)
    with FakeTensorMode():
        fake = small_model(trigger, torch.float32)
        fake.train_only("trigger")
        loss, _ = task.loss(fake, task.example_batch(fake, 2))
        loss.backward()
        task.rehearse(fake, 2)
    assert fake.trigger_head.weight.grad is not None


def test_what_is_out_of_range_is_said_at_once(dataset):
    with pytest.raises(UsageError) as error:
        small_task(dataset, group_size=1, clip=2.0, credit="luck", insert="always", insertion_cost=-1.0)
    for key in ("group_size", "clip", "credit", "insert ", "insertion_cost"):
        assert f"task.{key}" in str(error.value)


def test_the_trigger_decides_in_evaluations(dataset, model):
    task = small_task(dataset)
    batch = next(iter(task.held_out("watch")))
    with torch.no_grad():
        records = task.score(model.eval(), batch, "watch")
    assert task.num_scored("watch") == 8
    assert {record["row"] for record in records} <= set(range(8))
    rates = [len(record["inserted_at"]) / max(1, len(record["decided_at"])) for record in records]
    assert min(rates) < max(rates)
