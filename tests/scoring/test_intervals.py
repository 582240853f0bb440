import random

import numpy as np
import pytest
from scipy import stats

from rtx_lab.scoring.intervals import describe, mean_interval, spearman, wilson_interval


# Newcombe, Statistics in Medicine 17 (1998), table I, method 3; the last row by symmetry.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_equals_published_tables(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_equals_scipy_everywhere():
    numbers = random.Random(0)
    for _ in range(200):
        n = numbers.randrange(1, 5000)
        successes = numbers.randrange(n + 1)
        level = numbers.choice([0.8, 0.9, 0.95, 0.99])
        twin = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
        assert wilson_interval(successes, n, level) == pytest.approx((twin.low, twin.high), abs=1e-12)


@pytest.mark.parametrize("n", [100, 229, 651])
def test_wilson_covers_what_it_says(n):
    """Exact: the binomial probability of all outcomes whose interval holds the truth, for accuracies on a grid."""
    truths = np.arange(1, 200) / 200
    bounds = np.array([wilson_interval(right, n) for right in range(n + 1)])
    holds = (bounds[:, :1] <= truths) & (truths <= bounds[:, 1:])
    held = (holds * stats.binom.pmf(np.arange(n + 1)[:, None], n, truths)).sum(0)
    assert 0.945 <= held.mean() <= 0.955
    if n >= 229:
        usual = held[(truths >= 0.05) & (truths <= 0.95)]
        assert usual.min() >= 0.935
        assert usual.max() <= 0.965


def test_wilson_of_nothing_says_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5), (0, -1)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(ValueError, match="not a proportion"):
        wilson_interval(successes, n)


def test_mean_interval_equals_scipy():
    values = [3, 5, 5, 6, 2, 4.5]
    twin = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((twin.low, twin.high))
    assert mean_interval([4, 4, 4]) == (4.0, 4.0)
    assert mean_interval([4]) is None
    assert mean_interval([]) is None


def test_spearman_of_monotone_and_of_tied_data():
    assert spearman([1, 2, 3, 4], [10, 20, 50, 90]) == pytest.approx((1.0, 0.0))
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1])[0] == pytest.approx(-1.0)
    # Ranks 1, 2.5, 2.5, 4 against 1..4: covariance by hand gives 4.5 / sqrt(4.5 * 5).
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4])[0] == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_spearman_is_none_where_it_is_undefined():
    assert spearman([4, 4, 4, 4], [1, 2, 3, 4]) is None
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([], []) is None
    with pytest.raises(ValueError, match="pairs"):
        spearman([1, 2, 3], [1, 2])


def test_describe():
    assert describe([1, 2, 6]) == {"n": 3, "mean": 3, "std": pytest.approx(7**0.5), "min": 1, "median": 2, "max": 6}
    assert describe([5])["std"] == 0.0
    assert describe([]) == {"n": 0}
