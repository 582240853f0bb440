"""What one run tells about its batches: memory, speed, time, score. None where a quantity was not measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rtx_lab.report.pairing import lower_is_better
from rtx_lab.report.runs import Run, is_number

Measures = dict[str, float | None]
"""Quantity -> its value in one run."""

SHARE = 0.95
"""A run has come close when it reaches this share of the best score of the study."""
PURPOSES = ("data", "train", "evaluation", "checkpoint")

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    """One evaluation while training; `time_s` counts from the start of training, None where it was not logged."""

    step: float
    time_s: float | None
    score: float
    span: tuple[float, float] | None


def read_looks(lines: Sequence[Line], leaf: str) -> list[Look]:
    """Return the evaluations of a run that measured `leaf` on validation, in order."""
    key, looks = f"validation/{leaf}", []
    for line in lines:
        if is_number(line.get(key)) and is_number(line.get("step")):
            low, high, time_s = line.get(f"{key}_low"), line.get(f"{key}_high"), line.get("time_s")
            span = (float(low), float(high)) if is_number(low) and is_number(high) else None
            looks.append(Look(line["step"], float(time_s) if is_number(time_s) else None, float(line[key]), span))
    return looks


def best_look(looks: Sequence[Look], leaf: str) -> Look | None:
    """Return the first of the best evaluations, None without any."""
    sign = 1.0 if lower_is_better(leaf) else -1.0
    return min(looks, key=lambda look: (sign * look.score, look.step), default=None)


def measure(run: Run, lines: Sequence[Line], leaf: str) -> Measures:
    """Return everything that can be read from one run alone."""
    looks = read_looks(lines, leaf)
    best, kept = best_look(looks, leaf), run.result.get("best")
    kept_score = kept.get("value") if isinstance(kept, Mapping) else None
    found = _memory(run, lines) | _speed(lines) | _time(run)
    found["final_score"] = looks[-1].score if looks else None
    found["best_score"] = best.score if best else float(kept_score) if is_number(kept_score) else None
    found["validation_score"] = run.metric(f"validation/{leaf}")
    found["test_score"] = run.metric(f"test/{leaf}")
    found["best_min"] = best.time_s / 60 if best and best.time_s is not None else None
    peak, score = found["peak_allocated_gb"], found["best_score"]
    per_gb = None if lower_is_better(leaf) or not peak or score is None else score / peak
    return found | {"score_per_gb": per_gb}


def reach(looks: Sequence[Look], leaf: str, target: float | None) -> Measures:
    """Return minutes and steps until the first evaluation that is at least as good as the target."""
    sign = 1.0 if lower_is_better(leaf) else -1.0
    first = next((look for look in looks if target is not None and sign * look.score <= sign * target), None)
    minutes = first.time_s / 60 if first and first.time_s is not None else None
    return {"minutes_to_target": minutes, "steps_to_target": first.step if first else None}


def slope(found: Measures, looks: Sequence[Look], leaf: str, untrained: float | None) -> float | None:
    """Return how much better the score became per minute until the best evaluation.

    From the untrained score, measured as the final one (all beams, all rows), where it is known; else from the first
    evaluation on.
    """
    sign = -1.0 if lower_is_better(leaf) else 1.0
    score, minutes = found.get("validation_score"), found.get("best_min")
    if untrained is not None:
        return sign * (score - untrained) / minutes if score is not None and minutes else None
    best = best_look(looks, leaf)
    if best is None or best.time_s is None or looks[0].time_s is None or best.time_s <= looks[0].time_s:
        return None
    return sign * (best.score - looks[0].score) / ((best.time_s - looks[0].time_s) / 60)


def out_of_memory(run: Run) -> list[Line]:
    """Return what the run recorded of each time memory ran out; the failure that ended it is one of them."""
    events = run.result.get("events")
    found = [event for event in events if isinstance(event, Mapping)] if isinstance(events, list) else []
    found = [event for event in found if event.get("event") == "out_of_memory"]
    ended = [{"event": "out_of_memory", "reason": run.result.get("reason")}] * (run.status == "out_of_memory")
    return [*found, *ended]


def shape_words(event: Line) -> str:
    """Return where memory ran out and what was done: `step 3: 64 samples, 64 x 512; went on with 32`."""
    parts = []
    if is_number(event.get("micro_batch")):
        parts.append(f"{event['micro_batch']} samples")
    if is_number(event.get("micro_tokens")):
        parts.append(f"{event['micro_tokens']} tokens")
    parts += [_dimensions(event["shape"])] if event.get("shape") else []
    after = f"; went on with {event['retried_with']}" if event.get("retried_with") is not None else ""
    told = f": {', '.join(parts)}" if parts else ""
    return f"{_place(event)}{told}{after}"


def _place(event: Line) -> str:
    if event.get("reason"):
        return str(event["reason"])
    named = [
        f"step {event['step']}" if "step" in event else "",
        f"evaluation of {event['split']}" if "split" in event else "",
        str(event.get("where") or ""),
    ]
    return " ".join(part for part in named if part) or "place not recorded"


def _dimensions(shape: Any) -> str:
    if isinstance(shape, Mapping):
        return ", ".join(f"{name} {_dimensions(size)}" for name, size in shape.items())
    if isinstance(shape, list):
        return " x ".join(str(size) for size in shape)
    return str(shape)


def _memory(run: Run, lines: Sequence[Line]) -> Measures:
    """From the result, which counts the final evaluation too, else from the logged lines."""
    found: Measures = {}
    for kind, name in (("memory", "allocated"), ("reserved", "reserved")):
        levels, peaks = _numbers(lines, f"{kind}_gb"), _numbers(lines, f"peak_{kind}_gb")
        mean, peak = run.metric(f"mean_{kind}_gb"), run.metric(f"peak_{kind}_gb")
        found[f"mean_{name}_gb"] = mean if mean is not None else fmean(levels) if levels else None
        found[f"peak_{name}_gb"] = peak if peak is not None else max(peaks, default=None)
    found["num_oom"] = float(len(out_of_memory(run))) if run.result else None
    return found


def _speed(lines: Sequence[Line]) -> Measures:
    """Rates over all logged steps but those of the first line, which warm up, where there are others."""
    timed, before = [], 0.0
    for line in lines:
        if is_number(line.get("step_time_s")) and is_number(line.get("step")):
            timed.append((line, line["step"] - before, line["step_time_s"] * (line["step"] - before)))
            before = line["step"]
    timed = timed[1:] or timed
    seconds = sum(spent for *_, spent in timed)
    found: Measures = {"steps_per_s": sum(steps for _, steps, _ in timed) / seconds if seconds else None}
    for key in ("samples_per_s", "tokens_per_s", "padded_tokens_per_s"):
        known = [(line[key], spent) for line, _, spent in timed if is_number(line.get(key))]
        weight = sum(spent for _, spent in known)
        found[key] = sum(rate * spent for rate, spent in known) / weight if weight else None
    real, padded = found["tokens_per_s"], found["padded_tokens_per_s"]
    found["padding_efficiency"] = real / padded if real is not None and padded else None
    return found


def _time(run: Run) -> Measures:
    split, total_s = run.result.get("time_split_s"), run.metric("time_s")
    known = split if isinstance(split, Mapping) else {}
    found: Measures = {
        f"{name}_min": float(known[name]) / 60 if is_number(known.get(name)) else None for name in PURPOSES
    }
    told = [value for value in found.values() if value is not None]
    found["total_min"] = total_s / 60 if total_s is not None else None
    rest = total_s / 60 - sum(told) if total_s is not None and len(told) == len(PURPOSES) else None
    return found | {"rest_min": max(0.0, rest) if rest is not None else None}


def _numbers(lines: Sequence[Line], key: str) -> list[float]:
    return [float(line[key]) for line in lines if is_number(line.get(key))]
