"""What a planned job is, and the record of it that its run directory holds before it starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rtx_lab.core.labels import label_of
from rtx_lab.core.rundir import RunDir
from rtx_lab.core.schema import Settled


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job is not run while others are: its price, a missing input, or no parent to inherit from."""

    kind: str
    reason: str


@dataclass(slots=True)
class Job:
    """One distinct experiment: the overrides that first named it, its run directory, what is known before it runs."""

    overrides: tuple[str, ...]
    settled: Settled
    run: RunDir
    parents: Sequence[dict[str, Any]] = ()
    """How inherited values were chosen, one record per rule."""
    refusal: Refusal | None = None
    left_out: str = ""
    """Why it is left out, where it was asked for only where it fits."""
    price: Any = None
    alternatives: tuple[Job, ...] = ()
    """Of a job whose inherited values are not known yet: one job for each that they can be."""
    isolated: bool = False
    """Had a process of its own: if that was killed, the job itself was meant."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further entries of plan.json."""
    number: int | None = None
    """Its place among all trials of a search, from 1 on."""
    title: str = ""
    """What a search calls it while it runs."""

    @property
    def key(self) -> str:
        """Jobs of equal key are one job."""
        open_keys = "|".join(sorted(job.settled.directory for job in self.alternatives))
        return open_keys or self.settled.directory

    @property
    def is_open(self) -> bool:
        return bool(self.alternatives)

    @property
    def variants(self) -> tuple[Job, ...]:
        """What this job may turn out to be."""
        return self.alternatives or (self,)

    @property
    def memory_gb(self) -> float:
        """What the job takes of its device, its process included, for packing several on one; 0 without a price."""
        from rtx_lab.core.device import GB
        from rtx_lab.core.memory import PROCESS_BYTES

        return (self.price.peak_bytes + PROCESS_BYTES) / GB if self.price is not None else 0.0


def planned_of(jobs: Iterable[Job]) -> list[Job]:
    """What jobs may turn out to be, those that are refused left aside."""
    return [variant for job in jobs if job.refusal is None for variant in job.variants]


def is_waiting(jobs: Iterable[Job], planned: Iterable[Job]) -> bool:
    """Whether some of these `planned` ones have not ended, or of the jobs they come from some are not known yet."""
    is_open = any(job.is_open for job in jobs if job.refusal is None)
    return is_open or any(job.run.status() != "done" for job in planned)


def names_of(jobs: Sequence[Job]) -> list[str]:
    """What tells a job from the others of its phase: its overrides without those that all share, labels beside them."""
    phases: dict[str, list[Job]] = {}
    for job in jobs:
        phases.setdefault(job.settled.run.phase, []).append(job)
    shared = {
        phase: set.intersection(*(set(job.overrides) for job in own)) if len(own) > 1 or len(phases) > 1 else set()
        for phase, own in phases.items()
    }
    prefix = {phase: f"{phase}: " if len(phases) > 1 else "" for phase in phases}
    names = []
    for job in jobs:
        phase = job.settled.run.phase
        own = _name(job, (line for line in job.overrides if line not in shared[phase]))
        names.append((prefix[phase] + own).removesuffix(": ") or job.settled.directory)
    return names


def _name(job: Job, overrides: Iterable[str]) -> str:
    labels, config = job.settled.run.labels, job.settled.config
    named = [(line, label_of(labels, line, config)) for line in overrides]
    return " ".join(f"{line} ({label})" if label else line for line, label in named)


def plan_record(job: Job) -> dict[str, Any]:
    """What plan.json says of a job."""
    return {
        "signature": job.settled.signature,
        "overrides": list(job.overrides),
        "price": job.price.as_plain() if job.price is not None else None,
        "predicted_peak_memory_gb": job.price.predicted_peak_memory_gb if job.price is not None else None,
        "exclusive": job.settled.run.exclusive,
        "parents": list(job.parents),
        **job.extra,
    }
