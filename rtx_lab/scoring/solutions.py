"""Written solutions: whether their final number is right, and from the records of single answers to metrics.

A record holds id, row, prompt, prediction, gold, solution (the reference), correct, correct_strict, num_tokens, cut
(stopped by a limit), decided_at and inserted_at (places in the answer, 0 = the prompt's end), num_latents, seconds,
difficulty and family; with test-time optimisation ltpo_first and ltpo_best (rewards, means over insertions), ltpo_moved
(|dM| / |M|) and ltpo_steps, None or absent where nothing was optimised. Absent keys leave their metrics out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from rtx_lab.scoring import summary
from rtx_lab.scoring.answers import extract_number, marked_answer, numbers_equal, parse_number
from rtx_lab.scoring.intervals import wilson_interval

Record = dict[str, Any]
Metrics = dict[str, float | int | None]
MEANS = {
    "latents_per_answer": "num_latents",
    "tokens_per_answer": "num_tokens",
    "seconds_per_answer": "seconds",
    "share_cut": "cut",
}
LTPO_MEANS = {"ltpo_moved": "ltpo_moved", "ltpo_steps": "ltpo_steps"}


def judge(text: str, gold: str) -> dict[str, bool]:
    r"""Return `correct` and `correct_strict` of an answer, by numbers (`1,000` is `1000`, `5.00` is `5`).

    Strict asks for the number behind the last `####` or, where there is none, in the last `\boxed{}`; the other also
    takes what `answers.extract_number` finds without these marks. An unreadable answer is wrong; so is any answer to
    an unreadable `gold`.
    """
    correct = numbers_equal(extract_number(text), parse_number(gold))
    return {"correct": correct, "correct_strict": correct and ("\\boxed" in text or marked_answer(text) is not None)}


def summarise(records: Sequence[Record]) -> Metrics:
    """Return flat metrics, always in the same order.

    n, accuracy and accuracy_strict (each with _low, _high: Wilson, 95 %), insertion_rate (share of all decisions that
    insert; left out where none was taken), latents, tokens and seconds per answer, share_cut, and with test-time
    optimisation ltpo_reward_gain (best less first), ltpo_moved and ltpo_steps; then the groups by difficulty and family
    of `summary.summarise`.
    """
    found = summary.summarise(list(records))
    head = {name: value for name, value in found.items() if "/" not in name}
    groups = {name: value for name, value in found.items() if "/" in name}
    means = _means(records, MEANS) | _reward_gain(records) | _means(records, LTPO_MEANS)
    return {**head, **_strict(records), **_insertion_rate(records), **means, **groups}


def answer_lines(records: Sequence[Record]) -> str:
    """Return the answers in the format of the original's answer.json, which is JSON lines.

    One object for each answer {prompt, solution, completion, metrics: {compute_reward}}, then one {summary_metrics:
    {compute_reward}} with their mean, None without answers. The reward is 1 for `correct`, else 0.
    """
    rewards = [float(record["correct"]) for record in records]
    lines: list[dict[str, Any]] = [
        {
            "prompt": record["prompt"],
            "solution": record["solution"],
            "completion": record["prediction"],
            "metrics": {"compute_reward": reward},
        }
        for record, reward in zip(records, rewards, strict=True)
    ]
    lines.append({"summary_metrics": {"compute_reward": fmean(rewards) if rewards else None}})
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def _strict(records: Sequence[Record]) -> Metrics:
    judged = _values(records, "correct_strict")
    if not judged:
        return {}
    low, high = wilson_interval(int(sum(judged)), len(judged))
    return {"accuracy_strict": fmean(judged), "accuracy_strict_low": low, "accuracy_strict_high": high}


def _insertion_rate(records: Sequence[Record]) -> Metrics:
    taken = [record for record in records if record.get("decided_at")]
    decisions = sum(len(record["decided_at"]) for record in taken)
    return {"insertion_rate": sum(len(record["inserted_at"]) for record in taken) / decisions} if decisions else {}


def _reward_gain(records: Sequence[Record]) -> Metrics:
    gains = [
        record["ltpo_best"] - record["ltpo_first"]
        for record in records
        if record.get("ltpo_first") is not None and record.get("ltpo_best") is not None
    ]
    return {"ltpo_reward_gain": fmean(gains)} if gains else {}


def _means(records: Sequence[Record], names: dict[str, str]) -> Metrics:
    values = {metric: _values(records, key) for metric, key in names.items()}
    return {metric: fmean(found) for metric, found in values.items() if found}


def _values(records: Sequence[Record], key: str) -> list[float]:
    return [float(record[key]) for record in records if record.get(key) is not None]
