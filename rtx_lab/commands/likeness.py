"""How like one run is to another of the same configuration: the first difference, and the band that seeds allow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from rtx_lab.core import checkpoint
from rtx_lab.core.rundir import RunDir, canonical, signature
from rtx_lab.report.runs import load_runs
from rtx_lab.scoring.intervals import mean_interval

_LEAST_SEEDS = 3
"""Runs from which a band of seeds is taken: with two, Student's factor is 12.7 and the band says nothing."""


@dataclass(frozen=True, slots=True)
class Band:
    """Where the metric of a run of the same configuration may lie, and where that comes from."""

    metric: str
    low: float
    high: float
    source: str


def first_difference(one: RunDir, other: RunDir) -> str | None:
    """The first difference between two finished runs in words (file, place, both values); None for equal runs.

    Compared bit for bit: what was logged but for times, memory and the state of the machine; predictions; metrics;
    the weights of the best checkpoint, where both runs keep checkpoints.
    """
    return next(_differences(one, other), None)


def _differences(one: RunDir, other: RunDir) -> Iterator[str]:
    for left, right in zip_longest(one.read_metrics(), other.read_metrics(), fillvalue={}):
        step = left.get("step", right.get("step"))
        yield from _keys(f"metrics.jsonl, step {step}", _repeatable(left), _repeatable(right))
    for number, (left, right) in enumerate(zip_longest(_rows(one), _rows(other), fillvalue={}), start=1):
        row = left.get("id", right.get("id"))
        yield from _keys(f"predictions.jsonl, line {number} (row {row})", left, right)
    found = [(run.read_result() or {}).get("metrics") or {} for run in (one, other)]
    yield from _keys("result.json, metrics", *found)
    weights = [_weights(run) for run in (one, other)]
    if None not in weights and weights[0] != weights[1]:
        yield f"best checkpoint, model.safetensors, sha256: {weights[0]} was, {weights[1]} is"


def _keys(place: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*left, *right]):
        was, now = left.get(key, "absent"), right.get(key, "absent")
        if was != now:
            yield f"{place}, {key}: {was!r} was, {now!r} is"


def _repeatable(line: Mapping[str, Any]) -> dict[str, Any]:
    """A logged line without what depends on the machine's mood."""
    moods = ("_s", "_gb", "data_wait")
    return {k: v for k, v in line.items() if not k.endswith(moods) and not k.startswith("gpu_")}


def _rows(run: RunDir) -> list[dict[str, Any]]:
    if not run.predictions_path.exists():
        return []
    return [json.loads(line) for line in run.predictions_path.read_text(encoding="utf-8").splitlines()]


def _weights(run: RunDir) -> str | None:
    best = checkpoint.best(run.checkpoints)
    if best is None:
        return None
    return json.loads((best / "manifest.json").read_bytes())["files"]["model.safetensors"]["sha256"]


def seed_band(run: RunDir, config: Mapping[str, Any], result: Mapping[str, Any]) -> Band | None:
    """The 95 % band for one more run: from the seeds found beside `run`, else the Wilson interval of its own accuracy.

    Of at least three seeds it is Student's prediction interval for one value more, wider than that of their mean.
    None where neither is to be had.
    """
    metric = judged_metric(result)
    values = _replicates(run, config, metric)
    if len(values) >= _LEAST_SEEDS and (interval := mean_interval(values)) is not None:
        centre, half = sum(interval) / 2, (interval[1] - interval[0]) / 2 * math.sqrt(len(values) + 1)
        return Band(metric, centre - half, centre + half, f"{len(values)} seeds beside it")
    metrics = result.get("metrics") or {}
    low, high = metrics.get(f"{metric}_low"), metrics.get(f"{metric}_high")
    if low is None or high is None:
        return None
    return Band(metric, low, high, "Wilson interval of this run alone, since fewer than three seeds are beside it")


def judged_metric(result: Mapping[str, Any]) -> str:
    """The metric that a run is judged by: the monitored one, on test."""
    return f"test/{str(result.get('monitor') or 'validation/accuracy').partition('/')[2]}"


def _replicates(run: RunDir, config: Mapping[str, Any], metric: str) -> list[float]:
    """The metric of every finished run beside `run` that differs in the seed alone, itself included."""
    alike = signature(canonical({**config, "seed": 0}))
    beside = [near for near in load_runs(run.path.resolve().parent) if near.status == "done"]
    same = [near for near in beside if signature(canonical({**near.config, "seed": 0})) == alike]
    return [value for near in same if (value := near.metric(metric)) is not None]


def surroundings(result: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs between the surroundings of two runs: versions of packages and the commit of the code."""
    was, now = result.get("versions") or {}, other.get("versions") or {}
    keys = dict.fromkeys([*was, *now])
    found = [f"{k}: {was.get(k, 'none')} was, {now.get(k, 'none')} is" for k in keys if was.get(k) != now.get(k)]
    code = [_commit(record.get("git")) for record in (result, other)]
    if code[0] != code[1] or "changed" in code[0]:
        found.append(f"code: {code[0]} was, {code[1]} is")
    return found


def _commit(git: Mapping[str, Any] | None) -> str:
    if not git:
        return "no git checkout"
    return f"commit {str(git.get('commit'))[:12]}" + (" with changed files" if git.get("changed") else "")
