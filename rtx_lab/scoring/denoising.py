"""From the records of filled-in texts to the metrics of a split, by share of hidden tokens.

A record is one text at one ratio: text, ratio, fixed_steps (0: the model halted by itself), num_tokens (hidden ones),
num_right, num_unigram (hidden tokens that equal the most frequent one), exact_match, nll (nats, summed), steps,
max_steps, flops; `_text` and `_gold` where texts are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from rtx_lab.scoring.intervals import mean_interval, partial_spearman, ratio_interval, wilson_interval

Record = dict[str, Any]
Metrics = dict[str, float | int | None]


def summarise(records: Sequence[Record], judge: str | None = None) -> Metrics:
    """Return flat metrics: of all texts and ratios together, under mask/<percent>/, and under fixed/<steps>/.

    Accuracy and loss are per hidden token, their intervals over texts: the tokens of one text are no independent
    draws. `gate_follows_difficulty` is Spearman's correlation of the steps with the loss per token of the same
    text among texts with equally much hidden: 0 for a gate that only counts. `judge` names a causal language model
    that rates the texts (see `rtx_lab.scoring.judge`).
    """
    halting = [record for record in records if not record["fixed_steps"]]
    metrics: Metrics = {"n": len(halting)} | _tokens(_by_text(halting)) | _cost(halting)
    metrics |= _gate(halting)
    rate = _rater(halting, judge)
    for ratio in sorted({record["ratio"] for record in halting}):
        group = [record for record in halting if record["ratio"] == ratio]
        found = {"n": len(group)} | _tokens(group) | _whole(group) | _cost(group) | rate(group)
        metrics |= {f"mask/{round(100 * ratio)}/{key}": value for key, value in found.items()}
    for steps in sorted({record["fixed_steps"] for record in records} - {0}):
        group = [record for record in records if record["fixed_steps"] == steps and record["steps"] == steps]
        if group:
            found = {"n": len(group)} | _tokens(group) | _cost(group)
            metrics |= {f"fixed/{steps}/{key}": value for key, value in found.items()}
    return metrics


def _by_text(records: Iterable[Record]) -> list[Record]:
    """One record per text, its ratios added up."""
    texts: dict[int, Record] = {}
    for record in records:
        total = texts.setdefault(record["text"], dict.fromkeys(_COUNTS, 0))
        for key in _COUNTS:
            total[key] += record[key]
    return list(texts.values())


_COUNTS = ("num_tokens", "num_right", "num_unigram", "nll")


def _tokens(records: Sequence[Record]) -> Metrics:
    """Accuracy and loss per hidden token, with intervals over texts; nothing where nothing is hidden."""
    counts = [record["num_tokens"] for record in records]
    if not sum(counts):
        return {}
    metrics: Metrics = {}
    for name, key in (("accuracy", "num_right"), ("loss", "nll")):
        values = [record[key] for record in records]
        mean = math.fsum(values) / sum(counts)
        metrics[name] = mean if math.isfinite(mean) else None
        interval = ratio_interval(values, counts)
        if interval and math.isfinite(mean):
            low, high = interval if name == "loss" else (max(0.0, interval[0]), min(1.0, interval[1]))
            metrics |= {f"{name}_low": low, f"{name}_high": high}
    metrics["unigram_accuracy"] = sum(record["num_unigram"] for record in records) / sum(counts)
    return metrics


def _whole(records: Sequence[Record]) -> Metrics:
    """How many texts were restored in full; a text of which nothing was hidden does not count."""
    judged = [bool(record["exact_match"]) for record in records if record["exact_match"] is not None]
    if not judged:
        return {}
    low, high = wilson_interval(sum(judged), len(judged))
    return {"exact_match": fmean(judged), "exact_match_low": low, "exact_match_high": high}


def _cost(records: Sequence[Record]) -> Metrics:
    if not records:
        return {}
    steps = [float(record["steps"]) for record in records]
    metrics: Metrics = {"avg_reasoning_steps": fmean(steps), "flops": fmean(record["flops"] for record in records)}
    interval = mean_interval(steps)
    if interval:
        metrics |= {"avg_reasoning_steps_low": interval[0], "avg_reasoning_steps_high": interval[1]}
    return metrics


def _gate(records: Sequence[Record]) -> Metrics:
    """Do the steps follow how hard a text is, once it is known how much of it is hidden?"""
    asked = [record for record in records if record["num_tokens"] and record["max_steps"] > 1]
    found = partial_spearman(
        [record["steps"] for record in asked],
        [record["nll"] / record["num_tokens"] for record in asked],
        [record["ratio"] for record in asked],
        [record["text"] for record in asked],
    )
    return {} if found is None else {"gate_follows_difficulty": found[0], "gate_follows_difficulty_p": found[1]}


def _rater(records: Sequence[Record], judge: str | None) -> Callable[[Sequence[Record]], Metrics]:
    """A function that compares the texts of a group with their originals; it gives nothing where no texts are kept."""
    if not any("_text" in record for record in records):
        return lambda group: {}
    rate = None
    if judge:
        from rtx_lab.scoring.judge import open_judge

        rate = open_judge(judge)

    def compare(group: Sequence[Record]) -> Metrics:
        texts, golds = [record["_text"] for record in group], [record["_gold"] for record in group]
        found: Metrics = {"bleu": bleu(texts, golds)}
        return found | dict(rate(texts, golds)) if rate else found

    return compare


def bleu(texts: Sequence[str], golds: Sequence[str]) -> float:
    """Corpus BLEU-4 in [0, 1] of texts against one original each; sacrebleu's, its 13a tokens, case kept."""
    from sacrebleu.metrics.bleu import BLEU

    return BLEU().corpus_score(list(texts), [list(golds)]).score / 100
