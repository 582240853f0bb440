from itertools import product

import numpy as np
import pytest
from scipy import stats

from rtx_lab.scoring.comparisons import (
    cohen_h,
    compare_correct,
    compare_values,
    detectable_difference,
    holm,
    mcnemar,
    mean_ranks,
    paired_bootstrap,
    paired_effect,
    sign_flip,
    two_way,
)


# Exact two-sided p of published 2 x 2 tables (VassarStats' calculator, as statsmodels' tests record it).
@pytest.mark.parametrize(
    ("only_left", "only_right", "p"),
    [(121, 59, 0.000004), (70, 59, 0.378688), (80, 59, 0.089452), (30, 60, 0.00206), (10, 30, 0.002221), (10, 10, 1.0)],
)
def test_mcnemar_equals_published_tables(only_left, only_right, p):
    assert mcnemar(only_left, only_right) == pytest.approx(p, abs=6e-7)


def test_mcnemar_equals_the_binomial_test():
    for only_left, only_right in product(range(12), range(0, 90, 7)):
        total = only_left + only_right
        twin = stats.binomtest(only_left, total).pvalue if total else 1.0
        assert mcnemar(only_left, only_right) == pytest.approx(twin, rel=1e-9)


def test_sign_flip_equals_every_sign_tried():
    for differences in ([3, -1, 2, 0, 2, 1], [2, 2, -2, 1], [0, 0], [5], [1, 1, 1, 3, -2, -2, 3, 1, 2]):
        sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
                for signs in product((-1, 1), repeat=len(differences))]  # fmt: skip
        expected = np.mean([total >= abs(sum(differences)) for total in sums])
        assert sign_flip(differences) == pytest.approx(expected, rel=1e-12)


def test_one_seed_a_side_is_mcnemar():
    left = [1, 1, 0, 0, 1, 0, 0, 0, 0, 1]
    right = [1, 0, 1, 1, 1, 1, 1, 0, 1, 1]
    found = compare_correct([left], [right])
    assert found.p == pytest.approx(stats.binomtest(1, 6).pvalue)
    assert found.difference == pytest.approx(0.4)
    assert found.discordance == pytest.approx(0.6)
    assert (found.num_items, found.num_seeds, found.method) == (10, (1, 1), "exact McNemar")
    twin = stats.ttest_rel(right, left).confidence_interval()
    assert (found.low, found.high) == pytest.approx((twin.low, twin.high))


def test_answers_repeated_by_seeds_that_agree_are_no_further_evidence():
    rng = np.random.default_rng(0)
    left, right = (rng.random((2, 80)) < [[0.4], [0.6]]).astype(float)
    once = compare_correct([left], [right])
    thrice = compare_correct([left] * 3, [right] * 3)
    assert thrice.p >= once.p
    assert thrice.difference == once.difference


def test_seeds_that_disagree_take_the_evidence_away():
    items = np.arange(400) / 400
    steady = [(items < cut).astype(float) for cut in (0.60, 0.60, 0.60)]
    lucky = [(items < cut).astype(float) for cut in (0.45, 0.66, 0.93)]
    found = compare_correct(steady, lucky)
    assert sign_flip((np.sum(lucky, 0) - np.sum(steady, 0)).astype(int)) < 1e-6
    assert found.p > 0.5
    assert found.low < 0 < found.high


def test_without_chance_between_items_two_way_is_students_t_over_seeds():
    left, right = np.repeat([[0.1], [0.3], [0.2]], 500, 1), np.repeat([[0.5], [0.4], [0.7]], 500, 1)
    gap, error, degrees = two_way(left, right)
    twin = stats.ttest_ind(right[:, 0], left[:, 0])
    assert gap / error == pytest.approx(twin.statistic)
    assert degrees == pytest.approx(twin.df)


def test_unequal_sides_and_no_items_are_refused():
    with pytest.raises(ValueError, match="2 items against 3"):
        compare_correct([[1, 0]], [[1, 0, 1]])
    with pytest.raises(ValueError, match="pairs are needed"):
        compare_values([[]], [[]])


def test_two_equal_sides_differ_in_nothing():
    same = [[1, 0, 1, 1], [1, 1, 0, 1]]
    for found in (compare_correct(same, same), compare_values(same, same)):
        assert (found.difference, found.p, found.effect, found.discordance) == (0, 1.0, 0.0, 0.25)


def test_the_t_test_keeps_its_level_with_seeds_that_vary():
    """Items, seeds and their meeting vary; nothing differs in truth."""
    rng, found = np.random.default_rng(1), []
    for _ in range(500):
        item = rng.normal(0, 1, 200)
        sides = [item + rng.normal(0, 0.2, (3, 1)) + rng.normal(0, 0.7, (3, 200)) > 0 for _ in range(2)]
        found.append(compare_correct(*sides))
    false = np.mean([one.p < 0.05 for one in found])
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    assert false < 0.08
    assert 0.92 < covered < 0.98


def test_paired_bootstrap_equals_scipys():
    rng = np.random.default_rng(2)
    left, right = rng.gamma(2, 1, (1, 60)), rng.gamma(2.4, 1, (1, 60))
    drawn = paired_bootstrap(left, right, np.ones(60), resamples=20_000)
    twin = stats.bootstrap(
        (right[0] - left[0],), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    spread = twin.high - twin.low
    assert np.quantile(drawn, (0.025, 0.975)) == pytest.approx((twin.low, twin.high), abs=0.04 * spread)
    assert (drawn == paired_bootstrap(left, right, np.ones(60), resamples=20_000)).all()


def test_bootstrap_intervals_hold_the_truth():
    rng, held = np.random.default_rng(4), 0
    for _ in range(300):
        item = rng.exponential(1, 100)
        found = compare_values([item], [item * 0.5 + rng.normal(0.5, 1, 100)], resamples=600)
        held += found.low <= 0 <= found.high  # E(item / 2 + .5 - item) = 0
    assert 0.91 < held / 300 < 0.98


def test_weights_make_a_ratio_of_sums():
    left, right, tokens = [[2.0, 1.0, 4.0]], [[1.0, 1.0, 1.0]], [1, 2, 7]
    found = compare_values(left, right, tokens)
    assert found.difference == pytest.approx((1 * -1 + 2 * 0 + 7 * -3) / 10)


def test_equal_weights_change_nothing():
    rng = np.random.default_rng(5)
    left, right = rng.random((2, 30)), rng.random((2, 30))
    assert compare_values(left, right) == compare_values(left, right, np.full(30, 4.0))


# Holm (1979); the second row is Wikipedia's example, the third R's p.adjust((1:5) / 100, "holm").
@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        ([], []),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.6, 0.7], [1.0, 1.0]),
    ],
)
def test_holm_equals_known_examples(given, corrected):
    assert holm(given) == pytest.approx(corrected)


def test_holm_keeps_the_chance_of_any_false_finding():
    rng = np.random.default_rng(6)
    p = rng.random((4000, 8))
    p[:, :3] *= 1e-4  # three true findings make the others easier, never too easy
    false = np.mean([min(holm(list(row))[3:]) < 0.05 for row in p])
    assert 0.03 < false < 0.06
    assert np.mean(p[:, 3:].min(1) < 0.05) > 0.2


def test_effect_sizes():
    # ES.h(0.5, 0.4) of R's pwr; Cohen (1988), table 6.2.1: .80 against .50 is .6435
    assert cohen_h(0.5, 0.4) == pytest.approx(0.2013579, abs=1e-7)
    assert cohen_h(0.8, 0.5) == pytest.approx(0.6435, abs=1e-4)
    assert cohen_h(0.0, 1.0) == pytest.approx(-np.pi)
    assert paired_effect([1, 2, 3]) == pytest.approx(2.0)
    assert paired_effect([1.0]) == paired_effect([2, 2]) == 0.0


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e9])
def test_what_varies_by_rounding_alone_has_no_unit(size):
    left = size * np.random.default_rng(9).random(40)
    right = left + 0.1 * size
    found = compare_values(left, right)
    assert np.ptp(right - left) > 0, "the differences are not equal to the last bit"
    assert found.difference == pytest.approx(0.1 * size)
    assert found.effect == 0.0
    assert paired_effect(0.1 * size + 1e-3 * right) == pytest.approx(
        np.mean(0.1 * size + 1e-3 * right) / np.std(1e-3 * right, ddof=1)
    )


def test_what_only_rounding_tells_apart_is_no_difference():
    rng = np.random.default_rng(8)
    left = rng.random((3, 50))
    right = left[[2, 0, 1]]  # the same scores, their means in another order
    assert (left.mean(0) != right.mean(0)).any()
    found = compare_values(left, right)
    assert (found.difference, found.p, found.effect) == (0.0, 1.0, 0.0)


def test_the_detectable_difference_is_found_four_times_in_five():
    rng, items, discordant = np.random.default_rng(7), 400, 0.3
    error = np.sqrt(discordant / items)
    gap = detectable_difference(float(error), items - 1)
    assert gap == pytest.approx((1.966 + 0.843) * error, rel=1e-3)
    chances = [(discordant - gap) / 2, (discordant + gap) / 2, 1 - discordant]
    found = [mcnemar(*rng.multinomial(items, chances)[:2]) < 0.05 for _ in range(1500)]
    assert 0.75 < np.mean(found) < 0.85
    assert detectable_difference(0.0, 10) is None
    assert detectable_difference(0.01, 10, alpha=0.01) > detectable_difference(0.01, 10)


def test_mean_ranks_equal_demsars_table():
    """Demsar, JMLR 7 (2006), table 2: AUC of C4.5 with m, cf and both on 14 data sets; mean ranks 3.143 to 1.964.

    The last two of one row are both .975 in print and ranked 2 and 3: by a digit that is not printed.
    """
    rows = """.763 .768 .771 .798|.599 .591 .590 .569|.954 .971 .968 .967|.628 .661 .654 .657|.882 .888 .886 .898
        |.936 .931 .916 .931|.661 .668 .609 .685|.583 .583 .563 .625|.775 .838 .866 .875|1 1 1 1|.940 .962 .965 .962
        |.619 .666 .614 .669|.972 .981 .9751 .975|.957 .978 .946 .970"""
    table = [[float(cell) for cell in row.split()] for row in rows.split("|")]
    names = ("C4.5", "m", "cf", "both")
    scores = {name: {str(i): row[place] for i, row in enumerate(table)} for place, name in enumerate(names)}
    ranks = mean_ranks(scores)
    assert [round(ranks[name], 3) for name in names] == [3.143, 2.0, 2.893, 1.964]


def test_mean_ranks_use_shared_datasets_alone():
    assert mean_ranks({"a": {"x": 1.0, "y": 0.0}, "b": {"x": 2.0}}) == {"a": 2.0, "b": 1.0}
    assert mean_ranks({"a": {"x": 1.0}, "b": {"y": 2.0}}) == mean_ranks({}) == {}
