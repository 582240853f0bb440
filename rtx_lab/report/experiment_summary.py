"""What a phase with stages did, job by job: times, status, scores, memory, log; as text and for other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rtx_lab.report.outcomes import Outcome, short
from rtx_lab.report.rouge import KINDS, is_rouge, name_of, tokens_of
from rtx_lab.report.runs import Run, is_number
from rtx_lab.report.wording import number, words

TEXT, DATA = "experiment_summary.txt", "experiment_summary.json"
NOT_RECORDED = "not recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job of the phase; `scores` holds value, low and high of each score by the name of the metric."""

    experiment: str
    run: str
    seed: int | None
    status: str
    reason: str
    start: str | None
    end: str | None
    minutes: float | None
    scores: dict[str, tuple[float, float | None, float | None]]
    peak_memory_gb: float | None
    log: str | None


def summary_texts(study: Mapping[str, Any], runs: Sequence[Run], missing: Sequence[Outcome]) -> dict[str, str]:
    """Return experiment_summary.txt and .json by name for a phase with stages; nothing for another one."""
    stages = [str(stage) for stage in study.get("stages") or []]
    if not stages:
        return {}
    jobs = _jobs(study, stages, runs, missing)
    return {TEXT: _as_text(study, stages, jobs), DATA: _as_json(study, stages, jobs)}


def _jobs(
    study: Mapping[str, Any], stages: Sequence[str], runs: Sequence[Run], missing: Sequence[Outcome]
) -> list[Job]:
    """In the order of the stages; a job that never got a run directory is one too."""
    known = {run.name: run for run in runs}
    names = [str(job) for job in study.get("jobs") or []]
    found = [_job(known[name]) for name in names if name in known]
    told = {(job.experiment, short(job.run), job.status) for job in found}
    rest = [one for one in missing if (one.phase, one.job, one.status) not in told]
    found += [
        Job(experiment=_stage_of(one, stages), run=one.job, seed=None, status=one.status, reason=one.reason, start=None,
            end=None, minutes=None, scores={}, peak_memory_gb=None, log=None)
        for one in rest
    ]  # fmt: skip
    order = {stage: place for place, stage in enumerate(stages)}
    return sorted(found, key=lambda job: (order.get(job.experiment, len(order)), job.experiment, job.run))


def _stage_of(one: Outcome, stages: Sequence[str]) -> str:
    """A job that was refused stands under the command's phase; its name begins with its own."""
    head = one.job.partition(":")[0]
    return head if head in stages else one.phase


def _job(run: Run) -> Job:
    done = run.status == "done"
    minutes = run.metric("time_s")
    return Job(
        experiment=run.phase,
        run=run.name,
        seed=run.seed,
        status=run.status,
        reason="" if done else run.problem or " ".join(str(run.result.get("reason") or "").split()),
        start=_moment(run.result.get("started_at")),
        end=_moment(run.result.get("ended_at")),
        minutes=None if minutes is None else minutes / 60,
        scores=_scores(run) if done else {},
        peak_memory_gb=run.metric("peak_memory_gb"),
        log=f"{run.name}/train.log" if (run.path / "train.log").is_file() else None,
    )


def _scores(run: Run) -> dict[str, tuple[float, float | None, float | None]]:
    """ROUGE-1, -2 and -L where the run tells them, else the metric that it monitors; on test."""
    leaf = str(run.result.get("monitor") or "").rpartition("/")[2]
    leaves = [f"{kind}_{tokens_of(leaf)}" for kind in KINDS] if is_rouge(leaf) else [leaf]
    found = {}
    for one in leaves:
        value = run.metric(f"test/{one}")
        if value is not None:
            found[one] = (value, run.metric(f"test/{one}_low"), run.metric(f"test/{one}_high"))
    return found


def _as_json(study: Mapping[str, Any], stages: Sequence[str], jobs: Sequence[Job]) -> str:
    start, end = _ends(jobs)
    rows = []
    for place, job in enumerate(jobs, start=1):
        scores = {
            leaf: {"value": value, "low": low, "high": high, "tokens": tokens_of(leaf) or None}
            for leaf, (value, low, high) in job.scores.items()
        }
        rows.append(
            {"number": place, "experiment": job.experiment, "run": job.run, "seed": job.seed, "status": job.status,
             "reason": job.reason, "start": job.start, "end": job.end, "minutes": job.minutes, "scores": scores,
             "peak_memory_gb": job.peak_memory_gb, "log": job.log}
        )  # fmt: skip
    whole = {
        "phase": study.get("phase"), "command": study.get("command"), "stages": list(stages), "start": start,
        "end": end, "minutes": _minutes_between(start, end), "minutes_of_jobs": _total(jobs),
        "done": sum(job.status == "done" for job in jobs), "total": len(jobs), "experiments": rows,
    }  # fmt: skip
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _as_text(study: Mapping[str, Any], stages: Sequence[str], jobs: Sequence[Job]) -> str:
    start, end = _ends(jobs)
    done, total = sum(job.status == "done" for job in jobs), _total(jobs)
    lines = [
        f"experiment summary: {study.get('phase') or '-'}",
        f"stages   {', '.join(stages)}",
        f"start    {_shown(start)}",
        f"end      {_shown(end)}",
        f"took     {_duration(_minutes_between(start, end))}; all jobs together {_duration(total)}",
        f"done     {done} of {len(jobs)}",
    ]
    for place, job in enumerate(jobs, start=1):
        lines += ["", *_say_job(place, job)]
    return "\n".join(lines) + "\n"


def _say_job(place: int, job: Job) -> list[str]:
    seed = "" if job.seed is None else f", seed {job.seed}"
    lines = [
        f"{place:2}. {job.experiment}{seed}: {job.status}, {_duration(job.minutes)}",
        f"    run      {job.run}",
        f"    from     {_shown(job.start)} to {_shown(job.end)}",
    ]
    if job.reason:
        lines.append(f"    reason   {job.reason}")
    if job.scores:
        lines.append(f"    scores   {', '.join(_score(leaf, *span) for leaf, span in job.scores.items())}")
    peak = NOT_RECORDED if job.peak_memory_gb is None else f"{job.peak_memory_gb:.2f} GB at most"
    return [*lines, f"    memory   {peak}", f"    log      {job.log or NOT_RECORDED}"]


def _score(leaf: str, value: float, low: float | None, high: float | None) -> str:
    name = name_of(leaf) if is_rouge(leaf) else words(leaf)
    span = "" if low is None or high is None else f" [{number(low)}, {number(high)}]"
    return f"{name} {number(value)}{span}"


def _moment(value: object) -> str | None:
    """A time as result.json has it, None where it is none."""
    try:
        return datetime.fromisoformat(str(value)).isoformat() if value else None
    except ValueError:
        return None


def _ends(jobs: Sequence[Job]) -> tuple[str | None, str | None]:
    starts, ends = [job.start for job in jobs if job.start], [job.end for job in jobs if job.end]
    return min(starts, default=None), max(ends, default=None)


def _minutes_between(start: str | None, end: str | None) -> float | None:
    if start is None or end is None:
        return None
    return round((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds() / 60, 3)


def _total(jobs: Sequence[Job]) -> float | None:
    known = [job.minutes for job in jobs if is_number(job.minutes)]
    return round(sum(known), 3) if known else None


def _shown(moment: str | None) -> str:
    return NOT_RECORDED if moment is None else moment.replace("T", " ").replace("+00:00", " UTC")


def _duration(minutes: float | None) -> str:
    if minutes is None:
        return NOT_RECORDED
    hours, rest = divmod(round(minutes), 60)
    return f"{hours} h {rest} min" if hours else f"{minutes:.1f} min"
