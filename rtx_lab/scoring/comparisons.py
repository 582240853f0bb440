"""Is the difference between two settings real? Paired tests over the same items, with one or several seeds a side.

Legend: S seeds, I items, R resamples. A score is (S, I): every seed answered every item, both sides in the same order.

A difference can come from the items that were drawn and from the seeds that were trained. Answers of several seeds to
one item are not independent, so items, never answers, are the units. Two questions are asked; the larger p counts:

1. Over items, these trained models taken as they are: the sign-flip test of the differences per item, exact. For one
   seed a side it is McNemar's exact test; for several it is McNemar's pooled over seeds with the item as a cluster.
   Scores that are not right or wrong take the paired bootstrap over items instead.
2. Over items and seeds: Student's t with the variance of both, so that the finding would stand with other seeds too.
   With one seed on both sides this cannot be asked; a finding then speaks of two trained models, not of two settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
RESAMPLES = 4000
_CELLS = 8_000_000
"""Resampled cells held at once: 64 MB."""
_ROUNDING = 1e-12
"""What is below this share of the numbers that it was computed from comes from their rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Right minus left: the mean, its 95 % interval, the two-sided p, and what the next comparison needs to know.

    `effect` is Cohen's h for right-or-wrong scores and the paired standardised difference for others; `discordance` the
    share of answers in which the sides differ. `method` names the tests.
    """

    difference: float
    low: float
    high: float
    p: float
    effect: float
    standard_error: float
    degrees: float
    discordance: float
    num_items: int
    num_seeds: tuple[int, int]
    method: str


def compare_correct(left: ArrayLike, right: ArrayLike) -> Difference:
    """Compare two right-or-wrong scores (S, I); accuracies are means over seeds and items.

    Raises ValueError when the sides differ in their number of items.
    """
    left_SI, right_SI = _pair(left, right)
    seeds = len(left_SI), len(right_SI)
    # Scaled so that both sides carry equal weight and the difference of an item is a whole number.
    flips_I = np.rint(right_SI.sum(0) * seeds[0] - left_SI.sum(0) * seeds[1]).astype(int)
    p, method = sign_flip(flips_I), "exact McNemar"
    gap, error, degrees = two_way(left_SI, right_SI)
    if max(seeds) > 1:
        p, method = max(p, _t_test(gap, error, degrees)), "exact McNemar pooled over seeds; t over items and seeds"
    half = _quantile(0.975, degrees) * error
    effect = cohen_h(float(right_SI.mean()), float(left_SI.mean()))
    span = gap, max(-1.0, gap - half), min(1.0, gap + half)  # t with few seeds knows no bounds, an accuracy has them
    return _difference(left_SI, right_SI, span, (p, effect), (error, degrees), method)


def compare_values(
    left: ArrayLike, right: ArrayLike, weight: ArrayLike | None = None, *, resamples: int = RESAMPLES
) -> Difference:
    """Compare two scores of any kind (S, I); with `weight` (I,) every mean over items is a weighted one.

    Raises ValueError when the sides differ in their number of items.
    """
    left_SI, right_SI = _pair(left, right)
    weight_I = np.ones(left_SI.shape[1]) if weight is None else np.asarray(weight, float)
    drawn_R = paired_bootstrap(left_SI, right_SI, weight_I, resamples=resamples)
    low, high = (float(bound) for bound in np.quantile(drawn_R, (0.025, 0.975)))
    tail = min(int((drawn_R <= 0).sum()), int((drawn_R >= 0).sum()))
    p, method = min(1.0, 2 * (tail + 1) / (len(drawn_R) + 1)), "paired bootstrap over items"
    gap, error, degrees = two_way(_linear(left_SI, weight_I), _linear(right_SI, weight_I))
    if max(len(left_SI), len(right_SI)) > 1:
        p, method = max(p, _t_test(gap, error, degrees)), "paired bootstrap over items; t over items and seeds"
        half = _quantile(0.975, degrees) * error
        low, high = min(low, gap - half), max(high, gap + half)
    effect = paired_effect(_gaps(left_SI, right_SI))
    return _difference(left_SI, right_SI, (gap, low, high), (p, effect), (error, degrees), method)


def mcnemar(only_left: int, only_right: int) -> float:
    """Return the two-sided p of McNemar's exact test from the items that one side alone has right.

    Source: McNemar, Psychometrika 12 (1947); exact by the binomial of the discordant pairs.
    """
    return sign_flip(np.repeat([-1, 1], [only_left, only_right]))


def sign_flip(differences: ArrayLike) -> float:
    """Return the exact two-sided p that a sum of whole-numbered differences is this far from 0, signs being chance.

    The distribution is built by convolution, one binomial for each size of difference, without sampling. Differences of
    -1, 0 and 1 alone give McNemar's exact test. Source: Fisher, The Design of Experiments (1935), section 21.
    """
    from scipy.signal import fftconvolve
    from scipy.stats import binom

    values = np.abs(np.asarray(differences, int))
    observed = abs(int(np.asarray(differences, int).sum()))
    chance = np.ones(1)  # of the sums -total, -total + 2, ..., total
    for size in np.unique(values[values > 0]):
        count = int((values == size).sum())
        spread = np.zeros(count * size + 1)
        spread[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chance = np.maximum(fftconvolve(chance, spread), 0) if len(chance) > 1 else spread
    sums = np.abs(np.arange(len(chance)) * 2 - (len(chance) - 1))
    return float(min(1.0, chance[sums >= observed].sum()))


def two_way(left_SI: Array, right_SI: Array) -> tuple[float, float, float]:
    """Return the difference of means, its standard error over items and seeds, and the degrees of freedom of a t test.

    Items are crossed with seeds; the variance between seeds is pooled over both sides, and what of it the items explain
    is taken off once. Seeds of the two sides count as independent. With one seed a side only items vary.
    Source: Obuchowski and Rockette (1995) with the degrees of freedom of Hillis, Statistics in Medicine 26 (2007).
    """
    gap_I = _gaps(left_SI, right_SI)
    num_items = len(gap_I)
    over_items = float(gap_I.var(ddof=1)) / num_items if num_items > 1 else 0.0
    sides = [side for side in (left_SI, right_SI) if len(side) > 1]
    free = sum(len(side) - 1 for side in sides)
    if not free or num_items < 2:
        return float(gap_I.mean()), over_items**0.5, max(1.0, num_items - 1)
    share = 1 / len(left_SI) + 1 / len(right_SI)
    over_seeds = share * sum(float(side.mean(1).var(ddof=1)) * (len(side) - 1) for side in sides) / free
    explained = share * sum(_residual(side) for side in sides) / (free * (num_items - 1)) / num_items
    variance = over_items + max(0.0, over_seeds - explained)
    if variance < (_ROUNDING * _size(left_SI, right_SI)) ** 2:
        return float(gap_I.mean()), 0.0, float(num_items - 1)
    spread = over_items**2 / (num_items - 1) + over_seeds**2 / free
    return float(gap_I.mean()), variance**0.5, variance**2 / spread


def paired_bootstrap(
    left_SI: Array, right_SI: Array, weight_I: Array, *, resamples: int = RESAMPLES, seed: int = 0
) -> Array:
    """Return the difference of the (weighted) means in every resample of the items (R,); equal seeds, equal draws.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 8.
    """
    generator = np.random.default_rng(seed)
    gap_I = _gaps(left_SI, right_SI) * weight_I
    num_items = len(gap_I)
    block = max(1, _CELLS // num_items)
    drawn = []
    for start in range(0, resamples, block):
        rows_RI = generator.integers(0, num_items, size=(min(block, resamples - start), num_items))
        drawn.append(gap_I[rows_RI].sum(1) / weight_I[rows_RI].sum(1))
    return np.concatenate(drawn)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values corrected for their number, in the order given; the chance of any false finding is then kept.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    corrected, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected


def cohen_h(right: float, left: float) -> float:
    """Return Cohen's h of two proportions: .2 small, .5 medium, .8 large. Source: Cohen (1988), chapter 6."""
    return float(2 * np.arcsin(right**0.5) - 2 * np.arcsin(left**0.5))


def paired_effect(difference_I: ArrayLike) -> float:
    """Return the mean difference in units of its standard deviation over items.

    0 where the differences do not vary, or by rounding alone: there is no unit then.
    """
    values = np.asarray(difference_I, float)
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return float(values.mean()) / spread if spread > _ROUNDING * float(np.abs(values).max()) else 0.0


def detectable_difference(
    standard_error: float, degrees: float, *, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """Return the smallest true difference that such a comparison finds with this power; None where nothing varied.

    The standard error carries the number of items, their discordance and the number of seeds. Two-sided.
    Source: Connor, Biometrics 43 (1987), in its normal form, with t instead of normal quantiles.
    """
    if standard_error <= 0:
        return None
    return (_quantile(1 - alpha / 2, degrees) + _quantile(power, degrees)) * standard_error


def mean_ranks(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the mean rank of each setting over the datasets that all of them have: {setting: {dataset: score}}.

    1 is best, a higher score is better, ties share the mean of their ranks. Empty without a shared dataset.
    Source: Demsar, JMLR 7 (2006).
    """
    from scipy.stats import rankdata

    settings = list(scores)
    shared = sorted(set.intersection(*(set(scores[name]) for name in settings))) if settings else []
    if not shared:
        return {}
    ranks = [rankdata([-scores[name][dataset] for name in settings]) for dataset in shared]
    return {name: fmean(float(row[place]) for row in ranks) for place, name in enumerate(settings)}


def _pair(left: ArrayLike, right: ArrayLike) -> tuple[Array, Array]:
    left_SI, right_SI = np.atleast_2d(np.asarray(left, float)), np.atleast_2d(np.asarray(right, float))
    if left_SI.shape[1] != right_SI.shape[1] or not left_SI.shape[1]:
        raise ValueError(f"{left_SI.shape[1]} items against {right_SI.shape[1]}: pairs are needed")
    return left_SI, right_SI


def _gaps(left_SI: Array, right_SI: Array) -> Array:
    """Right minus left per item (I,), means over seeds; 0 where the two are equal but for rounding."""
    gap_I = right_SI.mean(0) - left_SI.mean(0)
    return np.where(np.abs(gap_I) > _ROUNDING * _size(left_SI, right_SI), gap_I, 0.0)


def _size(left_SI: Array, right_SI: Array) -> float:
    return max(float(np.abs(left_SI).max()), float(np.abs(right_SI).max()))


def _difference(
    left_SI: Array,
    right_SI: Array,
    span: tuple[float, float, float],
    finding: tuple[float, float],
    error: tuple[float, float],
    method: str,
) -> Difference:
    unequal = np.mean([(left_I != right_I).mean() for left_I in left_SI for right_I in right_SI])
    return Difference(
        difference=span[0],
        low=span[1],
        high=span[2],
        p=finding[0],
        effect=finding[1],
        standard_error=error[0],
        degrees=error[1],
        discordance=float(unequal),
        num_items=left_SI.shape[1],
        num_seeds=(len(left_SI), len(right_SI)),
        method=method,
    )


def _linear(side_SI: Array, weight_I: Array) -> Array:
    """Items whose plain mean is the weighted mean of `side_SI`, with the spread of the ratio to first order."""
    mean_S1 = (side_SI * weight_I).sum(1, keepdims=True) / weight_I.sum()
    return (side_SI - mean_S1) * (weight_I / weight_I.mean()) + mean_S1


def _residual(side_SI: Array) -> float:
    rest = side_SI - side_SI.mean(0) - side_SI.mean(1, keepdims=True) + side_SI.mean()
    return float((rest**2).sum())


def _t_test(gap: float, error: float, degrees: float) -> float:
    from scipy.special import stdtr

    if error == 0:
        return 1.0 if gap == 0 else 0.0
    return float(2 * stdtr(degrees, -abs(gap) / error))


def _quantile(share: float, degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))
