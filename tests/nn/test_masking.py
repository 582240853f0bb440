"""Masks are nested, spare what must not be masked, and belong to a sample's seed alone; schedules are what they say."""

import masks_by_definition as slow
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rtx_lab.core.errors import UsageError
from rtx_lab.nn.masking import (
    NOISE_SCHEDULES,
    SCHEDULES,
    alpha,
    alpha_slope,
    hashed_normal,
    hashed_uniform,
    masked_positions,
    masked_share,
    reveal_order,
    target_positions,
)

B, L = 6, 17
SEED = torch.tensor([0, 1, -5, 2**62 - 1, 20251120, 20251121])
LENGTHS = torch.tensor([17, 3, 9, 1, 17, 12])
MASKABLE = (torch.arange(L) % 5 != 0) & (torch.arange(L) < LENGTHS[:, None])


def _order():
    return reveal_order(hashed_uniform(SEED, L), MASKABLE)


def test_numbers_equal_their_definition():
    for stream in (0, 3):
        wanted = [[slow.uniform_of(seed, position, stream) for position in range(L)] for seed in SEED.tolist()]
        assert hashed_uniform(SEED, L, stream).tolist() == wanted


@pytest.mark.parametrize("draw", [hashed_uniform, hashed_normal])
def test_numbers_do_not_depend_on_length_or_neighbours(draw):
    whole = draw(SEED, 40)
    assert whole.dtype == torch.float32
    assert torch.equal(draw(SEED, L), whole[:, :L])
    assert torch.equal(draw(SEED[2:4], 40), whole[2:4])


def test_uniform_and_independent_over_seeds_positions_and_streams():
    seeds = torch.arange(4000)
    first, other = hashed_uniform(seeds, 8), hashed_uniform(seeds, 8, 3)
    counts = torch.histc(first, bins=8, min=0, max=1)
    assert (counts - 4000).abs().max() < 5 * (4000 * 7 / 8) ** 0.5
    assert first.max() < 1
    columns = torch.cat([first, other, hashed_normal(seeds, 8)], dim=1)
    off = torch.corrcoef(columns.T) - torch.eye(24)
    assert off.abs().max() < 5 / 4000**0.5


def test_normal():
    values = hashed_normal(torch.arange(4000), 8).flatten()
    assert values.isfinite().all()
    assert values.mean().abs() < 5 / len(values) ** 0.5
    assert (values.var() - 1).abs() < 5 * (2 / len(values)) ** 0.5
    share = (values.abs() < 1).float().mean()
    assert (share - 0.6827).abs() < 5 * (0.6827 * 0.3173 / len(values)) ** 0.5


def test_masks_equal_their_definition():
    order = _order()
    for visible in range(L + 1):
        masked = masked_positions(order, MASKABLE, torch.full((B,), visible))
        for sample, seed in enumerate(SEED.tolist()):
            found = set(masked[sample].nonzero()[:, 0].tolist())
            assert found == slow.masked_alone(seed, MASKABLE[sample].tolist(), visible)


def test_masks_are_nested_and_spare_special_tokens():
    order, before = _order(), MASKABLE
    for visible in range(L + 1):
        masked = masked_positions(order, MASKABLE, torch.full((B,), visible))
        assert not (masked & ~before).any()
        assert (masked.sum(1) == (MASKABLE.sum(1) - visible).clamp_min(0)).all()
        before = masked
    assert not before.any()
    assert torch.equal(masked_positions(order, MASKABLE, torch.zeros(B, dtype=torch.int64)), MASKABLE)


def test_every_sample_has_its_own_number_of_visible_tokens():
    visible = torch.tensor([2, 0, 1, 0, 9, 3])
    masked = masked_positions(_order(), MASKABLE, visible)
    assert masked.sum(1).tolist() == (MASKABLE.sum(1) - visible).clamp_min(0).tolist()


def test_targets_are_the_tokens_that_a_step_reveals():
    order = _order()
    rank = torch.stack([torch.tensor([0, 1]), torch.tensor([2, -1]), torch.tensor([-1, -1])]).expand(B, -1, -1)
    position = target_positions(order, rank)
    assert position.shape == (B, 3, 2)
    assert torch.equal(position[rank < 0], torch.zeros(B * 3, dtype=torch.int64))
    for step, (first, last) in enumerate(((0, 2), (2, 3))):
        seen = masked_positions(order, MASKABLE, torch.full((B,), first))
        left = masked_positions(order, MASKABLE, torch.full((B,), last))
        for sample in range(B):
            if MASKABLE[sample].sum() >= last:
                revealed = (seen & ~left)[sample].nonzero()[:, 0].tolist()
                assert sorted(position[sample, step, : last - first].tolist()) == revealed


def test_traced_on_fake_tensors_and_compiled_whole():
    def draw(seed, maskable, visible, rank):
        order = reveal_order(hashed_uniform(seed, L), maskable)
        return masked_positions(order, maskable, visible), target_positions(order, rank), hashed_normal(seed, 3)

    rank = torch.tensor([[[0, 1], [2, -1]]]).expand(B, -1, -1)
    visible = torch.full((B,), 4)
    compiled = torch.compile(draw, backend="eager", fullgraph=True)
    for found, wanted in zip(compiled(SEED, MASKABLE, visible, rank), draw(SEED, MASKABLE, visible, rank), strict=True):
        assert torch.equal(found, wanted)
    with FakeTensorMode() as mode:
        masked, position, _ = draw(*(mode.from_tensor(value) for value in (SEED, MASKABLE, visible, rank)))
        assert masked.shape == (B, L)
        assert position.shape == (B, 2, 2)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_masks_more_and_more_from_nothing_to_all(schedule):
    share = masked_share(schedule, np.arange(21) / 20)
    assert share[0] == 0
    assert share[-1] == 1
    assert (np.diff(share) > 0).all()


def test_schedules_are_what_their_names_say():
    progress = np.arange(1, 20) / 20
    for name in ("linear", "random", "scheduled"):
        assert (masked_share(name, progress) == progress).all()
    np.testing.assert_allclose(masked_share("cosine", progress), np.sin(np.pi / 2 * progress) ** 2, atol=1e-12)
    visible = 1 - masked_share("exponential", np.arange(21) / 20) * (1 - np.exp(-3))
    np.testing.assert_allclose(visible[1:] / visible[:-1], np.exp(-3 / 20))


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
def test_alpha_and_its_slope(schedule):
    time = np.linspace(0.01, 0.99, 50)
    assert alpha(schedule, 0.0) == 1
    assert alpha(schedule, 1.0) == pytest.approx(0, abs=1e-30)
    numeric = (alpha(schedule, time + 1e-6) - alpha(schedule, time - 1e-6)) / 2e-6
    np.testing.assert_allclose(alpha_slope(schedule, time), numeric, atol=1e-8)


@pytest.mark.parametrize("schedule", NOISE_SCHEDULES)
def test_the_nelbo_of_a_uniform_model_is_log_v(schedule):
    """The weight times the masked share is 1 on average over time: log V a masked token becomes log V a token."""
    time = (np.arange(100_000) + 0.5) / 100_000
    weight = -alpha_slope(schedule, time) / (1 - alpha(schedule, time))
    assert np.mean(weight * (1 - alpha(schedule, time))) == pytest.approx(1, abs=1e-4)


def test_unknown_names_are_refused():
    for call in (lambda: masked_share("square", 0.5), lambda: alpha("square", 0.5), lambda: alpha_slope("square", 0.5)):
        with pytest.raises(UsageError, match="linear"):
            call()
