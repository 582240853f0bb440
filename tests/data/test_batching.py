import itertools

import numpy as np
import pytest

from rtx_lab.core.partition import group_tokens
from rtx_lab.data.batching import NOBODY, SORT_WINDOW, StepPlan, axes, cut, epoch_order, steps_per_epoch

CASES = [(1, 4), (3, 4), (4, 4), (64, 64), (1000, 64), (999, 7), (64 * SORT_WINDOW + 5, 64), (10, 1)]


def step_indices(lengths, *, seed, step, global_batch):
    return StepPlan(lengths, seed=seed, global_batch=global_batch).indices(step)


def lengths_of(num, seed=0):
    return np.random.default_rng(seed).integers(5, 200, num)


@pytest.mark.parametrize(("num", "batch"), CASES)
def test_every_epoch_sees_every_sample_once(num, batch):
    plan = StepPlan(lengths_of(num), seed=3, global_batch=batch)
    for epoch in range(3):
        first = 1 + epoch * plan.steps_per_epoch
        steps = [plan.indices(first + turn) for turn in range(plan.steps_per_epoch)]
        assert sorted(np.concatenate(steps)) == list(range(num))
        assert all(len(rows) == batch for rows in steps[:-1])
        assert len(steps[-1]) == (num % batch or batch)


@pytest.mark.parametrize(("num", "batch"), CASES)
def test_a_step_is_a_pure_function_of_seed_and_step(num, batch):
    lengths = lengths_of(num)
    plan = StepPlan(lengths, seed=3, global_batch=batch)
    steps = [1, 2 * plan.steps_per_epoch, 5, 1, 3 * plan.steps_per_epoch + 1]
    forwards = [plan.indices(step) for step in steps]
    for step, rows in zip(steps, forwards, strict=False):
        assert np.array_equal(step_indices(lengths, seed=3, step=step, global_batch=batch), rows)


def test_epochs_and_seeds_differ():
    lengths = lengths_of(1000)
    orders = {tuple(epoch_order(lengths, seed=s, epoch=e, global_batch=64)) for s in range(3) for e in range(3)}
    assert len(orders) == 9


def test_long_and_short_batches_come_mixed():
    """Batches hold neighbours in length, but an epoch does not go from short to long."""
    lengths = lengths_of(6400)
    plan = StepPlan(lengths, seed=0, global_batch=64)
    means = [lengths[plan.indices(step)].mean() for step in range(1, 101)]
    assert abs(np.corrcoef(means, range(100))[0, 1]) < 0.3
    assert np.std(means) > 0.8 * np.std(lengths)


def test_the_short_step_is_not_a_biased_sample():
    lengths = np.sort(lengths_of(670))
    shorts = np.concatenate([step_indices(lengths, seed=s, step=11, global_batch=64) for s in range(30)])
    assert abs(lengths[shorts].mean() - lengths.mean()) < 12


@pytest.mark.parametrize("micro", [1, 8, 16, 24, 64, 100])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_a_step_is_the_same_set_however_it_is_cut(micro, world):
    lengths = lengths_of(1000)
    for step in (1, 16):
        rows = step_indices(lengths, seed=1, step=step, global_batch=64)
        ranks = [cut(rows, lengths, micro_batch=micro, rank=rank, world_size=world) for rank in range(world)]
        assert len({len(pieces) for pieces in ranks}) == 1
        pieces = [piece for rank in ranks for piece in rank]
        real = np.concatenate([piece for piece in pieces if piece[0] != NOBODY])
        assert sorted(real) == sorted(rows)
        assert all(len(piece) <= micro for piece in pieces)
        assert all(list(piece) == [NOBODY] for piece in pieces if NOBODY in piece)


def test_micro_batches_do_not_depend_on_the_world():
    lengths = lengths_of(1000)
    rows = step_indices(lengths, seed=1, step=2, global_batch=64)
    alone = [tuple(piece) for piece in cut(rows, lengths, micro_batch=8)]
    together = [tuple(p) for rank in range(4) for p in cut(rows, lengths, micro_batch=8, rank=rank, world_size=4)]
    assert sorted(alone) == sorted(together)


def test_pieces_hold_neighbours_in_length():
    lengths = lengths_of(1000)
    rows = step_indices(lengths, seed=1, step=2, global_batch=64)
    pieces = cut(np.random.default_rng(0).permutation(rows), lengths, micro_batch=16)
    assert [tuple(piece) for piece in pieces] == [tuple(piece) for piece in cut(rows, lengths, micro_batch=16)]
    ends = [(lengths[piece].min(), lengths[piece].max()) for piece in pieces]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ends))


def test_impossible_plans_and_steps_are_refused():
    for num, batch in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match="at least one sample"):
            StepPlan(lengths_of(num), seed=0, global_batch=batch)
    with pytest.raises(ValueError, match="from 1"):
        StepPlan(lengths_of(4), seed=0, global_batch=2).indices(0)
    assert [steps_per_epoch(num, 64) for num in (1, 64, 65)] == [1, 1, 2]


def pairs_of(num, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(5, 200, num), rng.integers(2, 60, num)], axis=1)


@pytest.mark.parametrize("lengths", [lengths_of(300), pairs_of(300)], ids=["one", "two"])
@pytest.mark.parametrize("micro_tokens", [100, 700, 4000, 10**6])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_micro_tokens_limit_what_a_micro_batch_holds_with_its_padding(lengths, micro_tokens, world):
    plan = StepPlan(lengths, seed=1, global_batch=64)
    for step in range(1, plan.steps_per_epoch + 1):
        rows = plan.indices(step)
        alone = cut(rows, lengths, micro_tokens=micro_tokens)
        assert sorted(np.concatenate(alone)) == sorted(rows)
        assert all(group_tokens(axes(lengths)[piece]) <= micro_tokens or len(piece) == 1 for piece in alone)
        ranks = [cut(rows, lengths, micro_tokens=micro_tokens, rank=rank, world_size=world) for rank in range(world)]
        assert len({len(pieces) for pieces in ranks}) == 1
        together = [tuple(piece) for pieces in ranks for piece in pieces if piece[0] != NOBODY]
        assert sorted(together) == sorted(tuple(piece) for piece in alone)


def test_the_order_of_a_step_changes_no_micro_batch():
    lengths = pairs_of(64)
    rows = np.arange(64)
    shuffled = np.random.default_rng(1).permutation(rows)
    pieces = [[tuple(p) for p in cut(order, lengths, micro_tokens=2000)] for order in (rows, shuffled)]
    assert pieces[0] == pieces[1]


def test_every_epoch_of_pairs_sees_every_sample_once():
    lengths = pairs_of(999)
    plan = StepPlan(lengths, seed=3, global_batch=64)
    for epoch in range(2):
        steps = [plan.indices(1 + epoch * plan.steps_per_epoch + turn) for turn in range(plan.steps_per_epoch)]
        assert sorted(np.concatenate(steps)) == list(range(999))


def test_a_window_of_one_step_mixes_at_random():
    """Steps of the default window hold samples alike in length, those of a window of one all lengths."""
    lengths = lengths_of(6400)
    spreads = {}
    for window in (1, 10, SORT_WINDOW):
        plan = StepPlan(lengths, seed=0, global_batch=64, sort_window=window)
        spreads[window] = np.mean([np.std(lengths[plan.indices(step)]) for step in range(1, 101)])
    assert spreads[1] > 0.9 * np.std(lengths) > 5 * spreads[10] > 5 * spreads[SORT_WINDOW]
    whole = StepPlan(lengths, seed=0, global_batch=64, sort_window=1)
    assert sorted(np.concatenate([whole.indices(step) for step in range(1, 101)])) == list(range(6400))


def test_padding_stays_below_eight_percent_on_spread_lengths():
    """The bar of real-token efficiency, on lengths that vary more than those of GSM8K."""
    lengths = np.random.default_rng(0).lognormal(4, 0.4, 7473).astype(int)
    plan = StepPlan(lengths, seed=0, global_batch=64)
    pieces = [
        p for step in range(1, plan.steps_per_epoch + 1) for p in cut(plan.indices(step), lengths, micro_batch=32)
    ]
    assert sum(lengths[p].sum() for p in pieces) / sum(lengths[p].max() * len(p) for p in pieces) >= 0.92
