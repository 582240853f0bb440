"""Intervals and rank correlation for the numbers that a run reports."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, median, stdev
from typing import cast


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion; (0, 1) when nothing was counted.

    Raises ValueError unless 0 <= successes <= n. Source: Wilson, JASA 22 (1927).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: not a proportion")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # At the ends the formula gives 0 and 1 exactly on paper only.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Return Student's t interval of a mean, or None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    centre = fmean(values)
    half = float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * stdev(values) / math.sqrt(len(values))
    return centre - half, centre + half


def spearman(left: Sequence[float], right: Sequence[float]) -> tuple[float, float] | None:
    """Return Spearman's rho and its two-sided p, or None where undefined (fewer than 3 pairs, a constant side)."""
    if len(left) != len(right):
        raise ValueError(f"{len(left)} values against {len(right)}: pairs are needed")
    if len(left) < 3 or len(set(left)) < 2 or len(set(right)) < 2:
        return None
    from scipy.stats import spearmanr

    rho, p = cast(tuple[float, float], spearmanr(left, right))
    return float(rho), float(p)


def describe(values: Sequence[float]) -> dict[str, float | int]:
    """Return n, mean, std (sample), min, median and max; only n for an empty sequence."""
    if not values:
        return {"n": 0}
    return {
        "n": len(values),
        "mean": fmean(values),
        "std": stdev(values) if len(values) > 1 else 0.0,
        "min": float(min(values)),
        "median": float(median(values)),
        "max": float(max(values)),
    }


def ratio_interval(
    values: Sequence[float], counts: Sequence[float], confidence: float = 0.95
) -> tuple[float, float] | None:
    """Return an interval of sum(values) / sum(counts) over groups that stay together, or None for fewer than two.

    The groups (texts) are the draws, not what is counted in them (tokens): linearised ratio with Student's t, as in
    survey sampling (Cochran, Sampling Techniques, 1977, chapter 6).
    """
    n, total = len(values), sum(counts)
    if n < 2 or not total:
        return None
    from scipy.special import stdtrit

    ratio = math.fsum(values) / total
    rest = math.fsum((value - ratio * count) ** 2 for value, count in zip(values, counts, strict=True))
    error = math.sqrt(rest / (n - 1) / n) / (total / n)
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * error
    return ratio - half, ratio + half


def partial_spearman(
    left: Sequence[float], right: Sequence[float], groups: Sequence[float], clusters: Sequence[int]
) -> tuple[float, float] | None:
    """Return the rank correlation within groups and its two-sided p, or None where undefined.

    Ranks are taken within each group and centred there, so that nothing that differs between groups counts. What
    belongs to one cluster (a text at several ratios) is one draw: p is normal, with the variance over clusters.
    """
    import numpy as np
    from scipy.stats import norm, rankdata

    x, y, group = (np.asarray(column, float) for column in (left, right, groups))
    a, b = np.zeros(len(x)), np.zeros(len(x))
    for value in np.unique(group):
        own = group == value
        a[own], b[own] = (rankdata(column[own]) - (own.sum() + 1) / 2 for column in (x, y))
    spread = math.sqrt(float(a @ a) * float(b @ b))
    shares = np.bincount(np.unique(np.asarray(clusters), return_inverse=True)[1], weights=a * b) if len(x) else a
    error = math.sqrt(float(shares @ shares))
    if len(shares) < 3 or not spread or not error:
        return None
    return max(-1.0, min(1.0, float(a @ b) / spread)), float(2 * norm.sf(abs(float(shares.sum())) / error))
