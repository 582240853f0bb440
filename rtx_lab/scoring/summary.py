"""From the records of single items to the metrics of a split.

A record holds id, correct, exact_match, f1, nll (sum over target tokens, nats), num_tokens, steps, max_steps (0 where a
model does not iterate), difficulty and family (None where a dataset has none). Absent keys leave their metrics out.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from statistics import fmean
from typing import Any

from rtx_lab.scoring.intervals import mean_interval, spearman, wilson_interval

Record = dict[str, Any]
Metrics = dict[str, float | int | None]


def summarise(records: list[Record]) -> Metrics:
    """Return flat metrics, always in the same order: n, accuracy (with _low, _high), f1, exact_match, loss, steps.

    Groups stand under difficulty/<d>/ and family/<f>/ with accuracy, its interval, n and avg_reasoning_steps; the
    histogram under steps_histogram/<k> (share of items). spearman_steps_difficulty (and _p) is left out where it is
    undefined, an interval where n < 2; a loss that is not finite is None, which is null in JSON.
    """
    metrics: Metrics = _accuracy(records)
    for key in ("f1", "exact_match"):
        values = _values(records, key)
        if values:
            metrics[key] = fmean(values)
    metrics |= _loss(records)
    stepped = [record for record in records if record.get("max_steps")]
    metrics |= _steps(stepped)
    metrics |= _rank_correlation(stepped)
    metrics |= _groups(
        records, "difficulty", lambda value: (0, float(value), "") if _is_number(value) else (1, 0.0, str(value))
    )
    metrics |= _groups(records, "family", str)
    return metrics


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _values(records: Iterable[Record], key: str) -> list[float]:
    return [float(record[key]) for record in records if record.get(key) is not None]


def _accuracy(records: list[Record]) -> Metrics:
    judged = _values(records, "correct")
    metrics: Metrics = {"n": len(records)}
    if judged:
        low, high = wilson_interval(int(sum(judged)), len(judged))
        metrics |= {"accuracy": fmean(judged), "accuracy_low": low, "accuracy_high": high}
    return metrics


def _loss(records: list[Record]) -> Metrics:
    pairs = [(record["nll"], record["num_tokens"]) for record in records if record.get("nll") is not None]
    tokens = sum(count for _, count in pairs)
    if not tokens:
        return {}
    loss = math.fsum(nll for nll, _ in pairs) / tokens
    return {"loss": loss if math.isfinite(loss) else None}


def _average_steps(records: list[Record]) -> Metrics:
    steps = _values(records, "steps")
    if not steps:
        return {}
    metrics: Metrics = {"avg_reasoning_steps": fmean(steps)}
    interval = mean_interval(steps)
    if interval:
        metrics |= {"avg_reasoning_steps_low": interval[0], "avg_reasoning_steps_high": interval[1]}
    return metrics


def _steps(records: list[Record]) -> Metrics:
    if not records:
        return {}
    metrics = _average_steps(records)
    metrics["early_termination_rate"] = fmean(record["steps"] < record["max_steps"] for record in records)
    counts = Counter(int(record["steps"]) for record in records)
    for steps in range(max(int(record["max_steps"]) for record in records) + 1):
        metrics[f"steps_histogram/{steps}"] = counts[steps] / len(records)
    return metrics


def _rank_correlation(records: list[Record]) -> Metrics:
    pairs = [(record["steps"], record["difficulty"]) for record in records if _is_number(record.get("difficulty"))]
    result = spearman([steps for steps, _ in pairs], [difficulty for _, difficulty in pairs])
    return {} if result is None else {"spearman_steps_difficulty": result[0], "spearman_steps_difficulty_p": result[1]}


def _groups(records: list[Record], key: str, order: Callable[[Any], Any]) -> Metrics:
    groups: dict[Any, list[Record]] = {}
    for record in records:
        if record.get(key) is not None:
            groups.setdefault(record[key], []).append(record)
    metrics: Metrics = {}
    for name in sorted(groups, key=order):
        found = _accuracy(groups[name]) | _average_steps([record for record in groups[name] if record.get("max_steps")])
        metrics |= {f"{key}/{name}/{metric}": value for metric, value in found.items()}
    return metrics
