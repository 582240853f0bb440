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
