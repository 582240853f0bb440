"""How often does the Wilson interval hold the true accuracy? Counted exactly, over every outcome of n items.

    python benchmarks/wilson_coverage.py [--quick]

For each n, the coverage at 999 true accuracies from .001 to .999 (`--quick`: 99): the binomial probability of all
outcomes whose 95 % interval holds the truth. The mean is over all of them; least and most are over true accuracies from
.05 to .95, and so is the bar `each` of .935 to .965: nearer to 0 and 1 a handful of outcomes decides, for any interval.
`kept` is the share of all 999 that stay inside. LogiQA's test set has 651 items, StrategyQA's 229, GSM8K's 1319.
"""

import argparse
import os
import platform
from importlib import metadata

import numpy as np
from scipy.stats import binom

from rtx_lab.scoring.intervals import wilson_interval

SIZES = (50, 100, 229, 300, 651, 1319, 1536)


def coverage(n: int, truths: np.ndarray) -> np.ndarray:
    """Return the probability, for each true accuracy, that the interval of n items holds it."""
    bounds = np.array([wilson_interval(right, n) for right in range(n + 1)])
    chance = binom.pmf(np.arange(n + 1)[:, None], n, truths[None])
    holds = (bounds[:, :1] <= truths) & (truths <= bounds[:, 1:])
    return (chance * holds).sum(0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="99 true accuracies instead of 999")
    steps = 100 if parser.parse_args().quick else 1000
    truths = np.arange(1, steps) / steps
    versions = (
        f"python {platform.python_version()}, scipy {metadata.version('scipy')}, torch {metadata.version('torch')}"
    )
    print(f"{os.cpu_count()} cores, {versions}; {len(truths)} true accuracies\n")
    print(f"{'n':>6}  {'mean':>7}  {'least':>7}  {'most':>7}  {'kept':>7}  bar")
    for n in SIZES:
        held = coverage(n, truths)
        usual = held[(truths >= 0.05) & (truths <= 0.95)]
        kept = np.mean((held >= 0.935) & (held <= 0.965))
        shares = f"{held.mean():>7.4f}  {usual.min():>7.4f}  {usual.max():>7.4f}  {kept:>7.1%}"
        print(f"{n:>6}  {shares}  {_judge(n, held, usual)}")


def _judge(n: int, held: np.ndarray, usual: np.ndarray) -> str:
    mean, each = 0.945 <= held.mean() <= 0.955, usual.min() >= 0.935 and usual.max() <= 0.965
    wanted = {"mean": mean} if n >= 100 else {}
    wanted |= {"each": each} if n >= 229 else {}
    return ", ".join(f"{name} {'reached' if good else 'NOT reached'}" for name, good in wanted.items()) or "none set"


if __name__ == "__main__":
    main()
