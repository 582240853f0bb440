"""Who inserts: each rule by what it must do, and draws that belong to a row and not to its batch."""

import pytest
import torch

from rtx_lab.inference import choices
from rtx_lab.inference.latent_rows import Decision

NUM = 4000


def decision(logits, weights, number=0, first_seed=0):
    count = len(logits)
    return Decision(
        torch.zeros(count, 2), torch.as_tensor(logits, dtype=torch.float32), torch.as_tensor(weights),
        torch.full((count,), number), torch.arange(first_seed, first_seed + count),
    )  # fmt: skip


def test_rules_without_chance():
    met = decision([2.0, -2.0, 0.0], [1, 5, 3])
    assert choices.always(met).tolist() == [1, 5, 3]
    assert choices.by_trigger(met).tolist() == [1, 0, 0]  # even odds insert nothing


def test_a_flip_takes_one_writing_the_other_way():
    met = decision([2.0, 2.0, -2.0, -2.0], [1, 4, 1, 4])
    assert choices.with_flips(met).tolist() == [1, 3, 0, 1]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_random_insertions_keep_their_share_whatever_the_trigger_says(share):
    counts = choices.at_random(share)(decision([9.0, -9.0] * (NUM // 2), [1] * NUM))
    assert set(counts.tolist()) <= {0, 1}
    assert counts.float().mean().item() == pytest.approx(share, abs=3 * (share * (1 - share) / NUM) ** 0.5)


def test_sampled_insertions_follow_the_trigger():
    p = torch.tensor([0.1, 0.5, 0.9])
    counts = choices.sampled(decision(p.logit().repeat_interleave(NUM).tolist(), [3] * (3 * NUM))).view(3, NUM)
    assert counts.min() == 0
    assert counts.max() == 3
    found, wanted = counts.float(), 3 * p
    assert ((found.mean(1) - wanted).abs() < 4 * (3 * p * (1 - p) / NUM).sqrt()).all()
    assert ((found.var(1) / (3 * p * (1 - p)) - 1).abs() < 0.15).all()  # binomial: writings draw apart


@pytest.mark.parametrize("rule", [choices.sampled, choices.at_random(0.5)])
def test_a_draw_belongs_to_seed_and_number(rule):
    whole = rule(decision([0.0] * 64, [2] * 64)).tolist()
    alone = [int(rule(decision([0.0], [2], first_seed=seed))[0]) for seed in range(64)]
    assert whole == alone
    beside_more = rule(Decision(torch.zeros(2, 2), torch.zeros(2), torch.tensor([2, 9]), *torch.zeros(2, 2).long()))
    assert int(beside_more[0]) == whole[0]
    assert rule(decision([0.0] * 64, [2] * 64, number=1)).tolist() != whole
