"""The device that a run computes on: what the machine offers, how it is set up, and how much memory is in use.

One GB is 2**30 bytes everywhere, as the makers of GPUs count the memory on a card.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rtx_lab.core.errors import UsageError

GB = 2**30
_STREAM_DRAWS = 1009
_MALLOC_OPTIONS = {-3: 32 * 2**20, -1: 2**31 - 1, -2: 256 * 2**20}
"""M_MMAP_THRESHOLD (32 MiB is its limit), M_TRIM_THRESHOLD and M_TOP_PAD of malloc.h."""
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class HardwareLike(Protocol):
    """What `setup` reads of the hardware section."""

    device: str
    precision: str | None
    memory_gb: float | None
    num_threads: int | None
    deterministic: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that is ready to compute: where, in which precision, and with how much memory."""

    torch_device: torch.device
    precision: str
    memory_gb: float
    autocast: AbstractContextManager[Any]
    scaler: torch.amp.GradScaler | None
    """For fp16 alone: gradients below 6e-8 vanish in half precision unless the loss is scaled."""

    @property
    def is_cuda(self) -> bool:
        return self.torch_device.type == "cuda"

    def move(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bring a host batch to the device without waiting for the copy (pinned host memory)."""
        return {name: value.to(self.torch_device, non_blocking=True) for name, value in batch.items()}

    def seed(self, seed: int, stream: int = 0) -> None:
        """Seed the generators that a step draws from: host and, where used, this GPU.

        Processes that train together take the same seed, which what belongs to a sample may depend on (its depth), and
        different streams, so that their dropout masks differ.

        `torch.manual_seed` would visit every backend that torch knows: 100 microseconds a step instead of one.
        """
        torch.default_generator.manual_seed(seed)
        if self.is_cuda:
            torch.cuda.manual_seed(seed)
        if stream:
            torch.rand(stream * _STREAM_DRAWS, device=self.torch_device)

    def release(self) -> None:
        """Give cached blocks back after an out-of-memory, so that smaller ones can be cut from them."""
        if self.is_cuda:
            torch.cuda.empty_cache()

    def memory_in_use_gb(self) -> float:
        """Tensors alive on the GPU, or the resident size of this process on a CPU."""
        return torch.cuda.memory_allocated(self.torch_device) / GB if self.is_cuda else _status_gb("VmRSS")

    def peak_memory_gb(self) -> float:
        """The largest value that `memory_in_use_gb` ever had in this process."""
        return torch.cuda.max_memory_allocated(self.torch_device) / GB if self.is_cuda else _status_gb("VmHWM")

    def reserved_gb(self) -> float | None:
        """What the allocator holds of the GPU for tensors, freed blocks included; None on a CPU."""
        return torch.cuda.memory_reserved(self.torch_device) / GB if self.is_cuda else None

    def peak_reserved_gb(self) -> float | None:
        """The largest value that `reserved_gb` ever had in this process."""
        return torch.cuda.max_memory_reserved(self.torch_device) / GB if self.is_cuda else None


def setup(hardware: HardwareLike) -> Device:
    """Make the device of a concrete hardware section ready: threads, precision, determinism.

    Raises UsageError when a GPU is asked for and none is there, or when it cannot compute in the precision named.
    """
    place = _place(hardware.device)
    precision = hardware.precision or "fp32"
    if precision == "bf16" and place.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise UsageError(
            f"hardware.precision=bf16 needs a GPU of the Ampere generation or newer, and "
            f"{torch.cuda.get_device_name(place)} is older: use hardware.precision=fp16"
        )
    if hardware.num_threads:
        torch.set_num_threads(hardware.num_threads)
    # fp32 means fp32; where bf16 or fp16 is allowed, the matrix products left in fp32 may use TF32
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    _set_deterministic(hardware.deterministic)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    else:
        _keep_freed_memory()
    dtype = _DTYPES[precision]
    return Device(
        torch_device=place,
        precision=precision,
        memory_gb=hardware.memory_gb or detect(place.type)["memory_gb"],
        autocast=contextlib.nullcontext() if dtype is torch.float32 else torch.autocast(place.type, dtype=dtype),
        # a sum over tokens is larger than the mean that 65536 was chosen for
        scaler=torch.amp.GradScaler(place.type, init_scale=2.0**12) if dtype is torch.float16 else None,
    )


def _place(kind: str) -> torch.device:
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(
            "this hardware preset needs an NVIDIA GPU and torch sees none here: "
            "use hardware=cpu or hardware=auto (plan=true works without a GPU)"
        )
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def _keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one: fresh pages cost a CPU step up to a fifth of its time."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _MALLOC_OPTIONS.items():
            mallopt(option, value)


def _set_deterministic(wanted: bool) -> None:
    if wanted:
        # cuBLAS reads this once, when its first handle is made
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.deterministic = wanted
    torch.backends.cudnn.benchmark = False


def detect(device: str = "auto") -> dict[str, Any]:
    """Look at this machine and return concrete values for the hardware keys that can be seen.

    `device` is auto, cpu or cuda; for cuda without a GPU the host's values are returned, so that a preset can be
    planned anywhere. Rates for the price are left to the presets.
    """
    threads = usable_cores()
    found: dict[str, Any] = {"name": "cpu", "device": "cpu", "precision": "fp32", "memory_gb": _ram_gb()}
    if device in ("auto", "cuda") and torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        memory_gb = round(card.total_memory / GB, 1)
        found = {"name": card.name, "device": "cuda", "precision": precision, "memory_gb": memory_gb}
    workers = min(4, threads) if found["device"] == "cuda" else 0
    return found | {"num_threads": threads, "num_workers": workers}


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut down to the quota of its control group."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def _ram_gb() -> float:
    """Memory that this process may use: what is built in, cut down to the limit of its control group."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return round(total / GB, 1)


def _status_gb(key: str) -> float:
    """A line of /proc/self/status, which counts in KiB; 0 where there is no such file."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024 / GB
    return 0.0
