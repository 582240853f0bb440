"""From the records of single dialogues to the metrics of a split.

A record holds rouge1, rouge2, rougeL and rouge (their mean), each F1 from 0 to 1 and with the name of the tokens that
were counted behind it (`rouge1_characters`), the same of the lead control, nll (sum over tokens, nats), num_tokens.
Records without a reference count in `n` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from rtx_lab.scoring.intervals import mean_interval

NAMES = ("rouge1", "rouge2", "rougeL", "rouge")
LEAD_TURNS = 3
"""Turns that the control copies: the summary of a dialogue that needs no model."""
CONTROL = f"lead{LEAD_TURNS}"

Metrics = dict[str, float | int | None]


def summarise(records: list[dict[str, Any]], tokens: Sequence[str]) -> Metrics:
    """Return n, then each ROUGE with its 95 % interval (`_low`, `_high`) over dialogues, the control's, and the loss.

    Keys end in the name of the tokens: scores over different tokens must never be compared.
    """
    judged = [record for record in records if "nll" in record]
    metrics: Metrics = {"n": len(records)}
    if not judged:
        return metrics
    for key in (f"{name}_{kind}" for kind in tokens for name in NAMES):
        values = [float(record[key]) for record in judged]
        metrics[key] = fmean(values)
        if interval := mean_interval(values):
            metrics |= {f"{key}_low": max(0.0, interval[0]), f"{key}_high": min(1.0, interval[1])}
        metrics[f"{CONTROL}_{key}"] = fmean(float(record[f"{CONTROL}_{key}"]) for record in judged)
    count = sum(record["num_tokens"] for record in judged)
    metrics["loss"] = sum(record["nll"] for record in judged) / count if count else None
    metrics["mean_characters"] = fmean(record["num_characters"] for record in judged)
    reference = fmean(len(record["gold"]) for record in judged)
    metrics["length_ratio"] = metrics["mean_characters"] / reference if reference else None
    return metrics
