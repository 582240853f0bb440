"""What a trigger learns through the stage's own loss where the right decisions are known."""

import itertools

import pytest
import torch
from small_trigger import CUT, small_dataset, small_task
from torch import nn

from rtx_lab.core.sections import Generation, Ltpo
from rtx_lab.tasks.rollouts import Group
from rtx_lab.tasks.trigger import TriggerTask

UPDATES, GROUPS, SIZE, WIDTH = 150, 8, 8, 2


class Coin(nn.Module):
    """A trigger's head alone, as a latent memory has it: it begins at even odds."""

    trigger = "head"

    def __init__(self):
        super().__init__()
        self.trigger_head = nn.Linear(WIDTH, 1)
        nn.init.zeros_(self.trigger_head.weight)
        nn.init.zeros_(self.trigger_head.bias)

    def insertion_logit(self, state):
        return self.trigger_head(state).squeeze(-1)


def drawn(model, generator, reward):
    """Groups of one decision each, sampled from the policy; `reward` tells what an insertion in a state is worth."""
    groups = []
    for row in range(GROUPS):
        state = 2 * torch.rand(WIDTH, generator=generator) - 1
        chance = model.insertion_logit(state).detach().sigmoid()
        inserting = int((torch.rand(SIZE, generator=generator) < chance).sum())
        ways = [(action, count) for action, count in ((0, SIZE - inserting), (1, inserting)) if count]
        actions = torch.tensor([[action] for action, _ in ways])
        worth = torch.tensor([reward(state) if action else 0.0 for action, _ in ways], dtype=torch.float64)
        groups.append(
            Group(
                row=row, weight_R=torch.tensor([count for _, count in ways]), correct_R=worth, action_RJ=actions,
                state_RJD=state.expand(len(ways), 1, WIDTH), text_RT=torch.zeros(len(ways), 1, dtype=torch.int64),
                at_RJ=torch.zeros(len(ways), 1, dtype=torch.int64),
            )
        )  # fmt: skip
    return groups


def learn(reward, updates=UPDATES, **values):
    torch.manual_seed(0)
    task, model, generator = small_task(small_dataset(), **values), Coin(), torch.Generator().manual_seed(1)
    adamw = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0)
    for _ in range(updates):
        batch = task.crediting.batch_of(model, drawn(model, generator, reward))
        adamw.zero_grad()
        (task.loss(model, batch)[0] / task.weight(batch)).backward()
        adamw.step()
    states = 2 * torch.rand(2000, WIDTH, generator=generator) - 1
    return states, model.insertion_logit(states).detach().sigmoid()


@pytest.mark.parametrize("normalise", ["std", "none"])
def test_insertions_that_help_where_a_feature_is_positive_are_learnt(normalise):
    states, chance = learn(lambda state: 1.0 if state[0] > 0 else -1.0, normalise=normalise)
    assert ((chance > 0.5) == (states[:, 0] > 0)).float().mean() > 0.95


def test_without_a_use_there_is_nothing_to_learn():
    _, chance = learn(lambda state: 0.0, updates=5)
    assert (chance - 0.5).abs().max() < 1e-6


def test_what_an_insertion_costs_makes_it_rarer():
    rates = [
        float((learn(lambda state: float(state[0]), insertion_cost=cost, normalise="none")[1] > 0.5).float().mean())
        for cost in (0.0, 0.1, 0.3, 0.7)
    ]
    assert rates == sorted(rates, reverse=True)
    assert all(more - less > 0.02 for more, less in itertools.pairwise(rates)), rates
    assert 0.4 < rates[0] < 0.6
    assert rates[-1] < 0.3


@pytest.mark.parametrize("weights", [{"entropy_weight": 0.3}, {"kl_weight": 0.3, "entropy_weight": 0.0}], ids=str)
def test_where_nothing_can_be_learnt_odds_are_drawn_towards_even_ones(weights):
    """Groups whose writings are all as good: what is left are the entropy and the distance to even odds, by hand."""
    task, model = small_task(small_dataset(), **weights), Coin()
    torch.nn.init.constant_(model.trigger_head.bias, 1.5)
    groups = drawn(model, torch.Generator().manual_seed(1), lambda state: 0.0)
    batch = task.crediting.batch_of(model, groups)
    loss, _ = task.loss(model, batch)
    (slope,) = torch.autograd.grad(loss, model.trigger_head.bias)
    logit = torch.tensor(1.5, requires_grad=True)
    p = logit.sigmoid()
    action = torch.cat([group.action_RJ.flatten() for group in groups])
    count = torch.cat([group.weight_R for group in groups])
    if "kl_weight" in weights:  # the estimate k3 of the distance to even odds, over the decisions that were taken
        ratio = torch.where(action == 1, 0.5 / p, 0.5 / (1 - p))
        wanted = 0.3 * (count * (ratio - ratio.log() - 1)).sum()
    else:
        wanted = 0.3 * (count * (p * p.log() + (1 - p) * (1 - p).log())).sum()
    torch.testing.assert_close(loss.detach(), wanted.detach(), check_dtype=False, rtol=1e-5, atol=1e-6)
    (by_hand,) = torch.autograd.grad(wanted, logit)
    torch.testing.assert_close(slope[0], by_hand, check_dtype=False, rtol=1e-4, atol=1e-5)
    if "kl_weight" not in weights:
        assert slope[0] > 0  # descent lowers the odds


@pytest.mark.parametrize(
    ("given", "remembers"),
    [({}, True), ({"memoise": False}, False), ({"latents": "noise"}, False), ({"ltpo": Ltpo(enabled=True)}, False),
     ({"generation": Generation(max_new_tokens=18, temperature=0.5)}, False)],
    ids=str,
)  # fmt: skip
def test_only_answers_without_chance_are_remembered_by_their_decisions(given, remembers):
    settings = {"dataset": small_dataset(), "cut": CUT, "generation": Generation(max_new_tokens=18), "ltpo": Ltpo()}
    assert TriggerTask(**(settings | given)).memoise == remembers
