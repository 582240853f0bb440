"""What training hides: nested counts, every kind of target, and draws that follow their laws."""

from types import SimpleNamespace

import numpy as np
import pytest

from rtx_lab.tasks.corruption import draw, most_targets

CHAIN = {
    "objective": "chain", "total_steps": 20, "min_chain_length": 1, "max_chain_length": 5, "masking": "linear",
    "supervision": "newly_revealed", "commit": False,
}  # fmt: skip
COUNTS = np.array([126, 126, 40, 7, 1, 0])


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def chain(seed=0, progress=1.0, counts=COUNTS, **settings):
    return draw(SimpleNamespace(**CHAIN | settings), counts, rng(seed), progress)


@pytest.mark.parametrize("masking", ["linear", "exponential", "cosine", "random", "scheduled"])
def test_every_chain_step_shows_more_and_never_less(masking):
    for seed in range(30):
        drawn = chain(seed, masking=masking)
        assert (np.diff(drawn.visible, axis=1) >= 0).all()
        assert (drawn.visible >= 0).all()
        assert (drawn.visible <= COUNTS[:, None]).all()
        assert drawn.noise[:, :1].max() <= 1
        assert drawn.noise.min() >= 0
        assert np.allclose(np.diff(drawn.noise, axis=1), -1 / 20)


def test_linear_counts_are_those_of_the_original():
    drawn = chain(3)
    start = np.round(drawn.noise[:, 0] * 20).astype(int)
    for row, count in enumerate(COUNTS):
        expected = [int((1 - (start[row] - step) / 20) * count + 1e-9) for step in range(drawn.visible.shape[1])]
        assert drawn.visible[row].tolist() == expected


def test_newly_revealed_targets_part_the_masked_tokens_and_all_masked_repeats_them():
    part = chain(5)
    assert (part.first == part.visible[:, :-1]).all()
    assert (part.last == part.visible[:, 1:]).all()
    assert (part.size == part.visible[:, -1] - part.visible[:, 0]).all()
    whole = chain(5, supervision="all_masked")
    assert (whole.first == whole.visible[:, :1]).all()
    assert (whole.last == COUNTS[:, None]).all()
    committed = chain(5, supervision="all_masked", commit=True)
    assert (committed.first == committed.visible[:, :-1]).all(), "what was committed is no target any more"


def test_ranks_name_each_target_once():
    drawn = chain(7)
    for row, steps in enumerate(drawn.target_rank()):
        named = steps[steps >= 0]
        assert named.tolist() == list(range(drawn.visible[row, 0], drawn.visible[row, -1]))


def test_chain_lengths_are_those_asked_for_and_one_for_a_step():
    lengths = [chain(seed, min_chain_length=2, max_chain_length=4).visible.shape[1] - 1 for seed in range(60)]
    assert set(lengths) == {2, 3, 4}


def test_a_schedule_of_starts_begins_with_light_noise():
    early = chain(1, progress=0.1, masking="scheduled", max_chain_length=1, counts=np.full(200, 100))
    assert early.noise[:, 0].max() <= 0.1 + 1e-9
    late = chain(1, progress=1.0, masking="scheduled", max_chain_length=1, counts=np.full(200, 100))
    assert late.noise[:, 0].max() > 0.9


def test_independent_masks_have_binomial_counts_nested_step_by_step():
    drawn = chain(2, masking="random", min_chain_length=5, counts=np.full(4000, 100))
    masked = 100 - drawn.visible
    for step in range(masked.shape[1]):
        assert masked[:, step].mean() == pytest.approx(100 * drawn.noise[:, step].mean(), rel=0.03)
    one = drawn.noise[:, 0] == 0.5
    assert masked[one, 0].std() == pytest.approx(5.0, rel=0.2)  # sqrt(100 / 4)


def test_mlm_hides_its_ratio_and_at_least_one_token():
    drawn = draw(SimpleNamespace(objective="mlm", mask_ratio=0.15), COUNTS, rng(), 1.0)
    assert (COUNTS - drawn.visible[:, 0]).tolist() == [19, 19, 6, 1, 1, 0]
    assert (drawn.size == COUNTS - drawn.visible[:, 0]).all()


def test_cmlm_hides_any_number_equally_often():
    counts = np.full(20000, 10)
    drawn = draw(SimpleNamespace(objective="cmlm"), counts, rng(), 1.0)
    seen = np.bincount(10 - drawn.visible[:, 0], minlength=11)
    assert seen[0] == 0
    assert abs(seen[1:] - 2000).max() < 250


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_nelbo_of_a_uniform_model_is_log_v(schedule):
    """E[w(t) masked / n] is 1, so that a uniform model, which loses log V per masked token, has NELBO log V."""
    counts = np.full(1_000_000, 8192)
    drawn = draw(SimpleNamespace(objective="mdlm", noise_schedule=schedule), counts, rng(), 1.0)
    masked = counts - drawn.visible[:, 0]
    assert (drawn.weight * masked).sum() / drawn.size.sum() == pytest.approx(1.0, abs=1e-4)
    assert (drawn.size == 8192).all()


def test_draws_depend_on_the_generator_alone():
    first, again, other = chain(11), chain(11), chain(12)
    assert (first.visible == again.visible).all()
    assert first.visible.shape != other.visible.shape or (first.visible != other.visible).any()


def test_rows_are_the_same_draw_cut():
    drawn = chain(4)
    cut = drawn.rows(np.array([2, 0]))
    assert (cut.visible == drawn.visible[[2, 0]]).all()
    assert (cut.size == drawn.size[[2, 0]]).all()


@pytest.mark.parametrize("masking", ["linear", "exponential", "cosine", "random", "scheduled"])
@pytest.mark.parametrize("supervision", ["newly_revealed", "all_masked"])
def test_no_step_has_more_targets_than_the_price_allows_for(masking, supervision):
    settings = {"masking": masking, "supervision": supervision}
    most = most_targets(SimpleNamespace(**CHAIN | settings), 126)
    for seed in range(40):
        _, steps, rows = chain(seed, counts=np.full(64, 126), **settings).target_rank().shape
        assert steps <= most[0]
        assert rows <= most[1]
