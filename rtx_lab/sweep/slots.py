"""Which job starts next on which device: a pure function of who waits and who runs."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CPU = "cpu"
"""The one device of a machine without GPU; it leaves CUDA_VISIBLE_DEVICES as it is."""

MOST_PASSES = 8
"""How often later jobs may start before one that does not fit yet; then a device is kept free for it."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a job asks of a device, its process included, and the memory of the device that its hardware names."""

    memory_gb: float = 0.0
    capacity_gb: float | None = None
    exclusive: bool = False


def choose(
    waiting: Sequence[tuple[Demand, int]], running: Mapping[str, Sequence[Demand]], jobs_per_device: int
) -> tuple[int, str] | None:
    """Return the position of the waiting job to start now and its device; None while nothing can start.

    `waiting` holds each job's demand and how often others were started before it. Jobs start in order, but one that
    does not fit now may be passed over MOST_PASSES times. After that the emptiest device takes no other job, so that
    it drains; a job alone on a device always fits.
    """
    devices = sorted(running, key=lambda device: len(running[device]))
    for position, (demand, passes) in enumerate(waiting):
        for device in devices:
            if fits(demand, running[device], jobs_per_device):
                return position, device
        if passes >= MOST_PASSES and devices:
            devices.pop(0)
    return None


def fits(demand: Demand, beside: Sequence[Demand], jobs_per_device: int) -> bool:
    """Whether a job may start on a device beside those that run there; by the share of memory that prices count on."""
    from rtx_lab.core.memory import USABLE  # torch

    if not beside:
        return True
    together = (demand, *beside)
    if len(together) > jobs_per_device or any(one.exclusive for one in together):
        return False
    capacities = [one.capacity_gb for one in together if one.capacity_gb is not None]
    return not capacities or sum(one.memory_gb for one in together) <= USABLE * min(capacities)


def find_devices(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Values of CUDA_VISIBLE_DEVICES, one for each GPU or MIG slice that jobs may use; `cpu` where there is none.

    CUDA is not touched: a process that has started it cannot give its GPU away.
    """
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = [name.strip() for name in listed.split(",")]
        end = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))  # as CUDA reads it
        return tuple(names[:end]) or (CPU,)
    try:
        shown = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return (CPU,)
    return parse_listing(shown) or (CPU,)


def parse_listing(shown: str) -> tuple[str, ...]:
    """Read `nvidia-smi -L`: the index of each GPU, or the UUIDs of its MIG slices where it is divided."""
    found: list[tuple[str, list[str]]] = []
    for line in shown.splitlines():
        if line.startswith("GPU "):
            found.append((line[4:].partition(":")[0], []))
        elif line.strip().startswith("MIG ") and found:
            found[-1][1].append(line.partition("UUID:")[2].strip(" )"))
    return tuple(name for index, slices in found for name in (slices or [index]))
