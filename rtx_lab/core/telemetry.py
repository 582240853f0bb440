"""What the machine is doing: memory, disk, GPU load, power and temperature.

What cannot be read is absent (None or a missing key), never an error: numbers about the machine must not stop a run.
NVML is called directly (a dozen C functions), because torch's own readings need a binding that is rarely installed.
"""

import ctypes
import functools
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GIB = 2**30
_TEMPERATURE_GPU = 0  # nvmlTemperatureSensors_t: the die
_JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as its driver sees it, all processes together; None where the driver does not tell."""

    uuid: str
    name: str
    memory_total_gb: float | None
    memory_free_gb: float | None
    utilization: float | None  # percent of the last sample period in which a kernel ran
    power_w: float | None
    temperature_c: float | None


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


@functools.cache
def _nvml() -> Any | None:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return library if library.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None


def gpus() -> list[Gpu]:
    """Return every NVIDIA GPU of the machine, without loading torch; empty without a driver."""
    library = _nvml()
    if library is None:
        return []
    count = ctypes.c_uint(0)
    if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    found = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)) == 0:
            found.append(_read(library, handle))
    return found


def gpu_metrics() -> dict[str, float]:
    """Return gpu_utilization (%), gpu_power_w and gpu_temperature_c of this process's CUDA device, those readable."""
    torch = sys.modules.get("torch")
    library = _nvml()
    if library is None or torch is None or not torch.cuda.is_initialized():
        return {}
    handle = _handle(_uuid(torch))
    if handle is None:
        return {}
    gpu = _read(library, handle)
    readings = {"gpu_utilization": gpu.utilization, "gpu_power_w": gpu.power_w, "gpu_temperature_c": gpu.temperature_c}
    return {key: value for key, value in readings.items() if value is not None}


def _uuid(torch: Any) -> str:
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


@functools.cache
def _handle(uuid: str) -> Any | None:
    # By uuid, not by number: CUDA and the driver may count the cards in different orders.
    library, handle = _nvml(), ctypes.c_void_p()
    if library is None or library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) != 0:
        return None
    return handle


def _read(library: Any, handle: Any) -> Gpu:
    memory, load, power, heat = _Memory(), _Utilization(), ctypes.c_uint(0), ctypes.c_uint(0)
    has_memory = _told(library, "nvmlDeviceGetMemoryInfo", handle, ctypes.byref(memory))
    has_load = _told(library, "nvmlDeviceGetUtilizationRates", handle, ctypes.byref(load))
    has_power = _told(library, "nvmlDeviceGetPowerUsage", handle, ctypes.byref(power))
    has_heat = _told(library, "nvmlDeviceGetTemperature", handle, _TEMPERATURE_GPU, ctypes.byref(heat))
    return Gpu(
        uuid=_text(library, "nvmlDeviceGetUUID", handle),
        name=_text(library, "nvmlDeviceGetName", handle),
        memory_total_gb=memory.total / GIB if has_memory else None,
        memory_free_gb=memory.free / GIB if has_memory else None,
        utilization=float(load.gpu) if has_load else None,
        power_w=power.value / 1000 if has_power else None,
        temperature_c=float(heat.value) if has_heat else None,
    )


def _told(library: Any, function: str, *arguments: Any) -> bool:
    try:
        return getattr(library, function)(*arguments) == 0
    except AttributeError:  # an older driver
        return False


def _text(library: Any, function: str, handle: Any) -> str:
    buffer = ctypes.create_string_buffer(96)
    told = _told(library, function, handle, buffer, ctypes.c_uint(96))
    return buffer.value.decode(errors="replace") if told else "unknown"


def ram_gb() -> tuple[float, float] | None:
    """Return free and total main memory in GiB, the container's limit included; None where it cannot be read."""
    info = _fields(Path("/proc/meminfo"))
    if "MemAvailable" not in info or "MemTotal" not in info:
        return None
    free, total = info["MemAvailable"], info["MemTotal"]
    limit, used = _number(Path("/sys/fs/cgroup/memory.max")), _number(Path("/sys/fs/cgroup/memory.current"))
    if limit is not None and used is not None and limit < total:
        free, total = min(free, max(0, limit - used)), limit
    return free / GIB, total / GIB


def disk_gb(path: Path) -> tuple[float, float] | None:
    """Return free and total space in GiB of the disk that holds (or would hold) `path`; None where unreadable."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return usage.free / GIB, usage.total / GIB


class EnergyMeter:
    """Integrates power over time (trapezoids between readings), in kWh.

    A gap without readings contributes nothing, so a reading that fails makes the sum too small rather than invented.
    """

    def __init__(self, kwh: float | None = None) -> None:
        """Start at `kwh`, what an earlier part of the same run has used; None while nothing was ever read."""
        self.kwh = kwh
        self._last: tuple[float, float] | None = None

    def add(self, time_s: float, power_w: float | None) -> None:
        """Take one reading; `time_s` is any clock that does not go back, `power_w` is None where it is unreadable."""
        if power_w is None:
            self._last = None
            return
        if self._last is not None:
            elapsed_s, mean_w = time_s - self._last[0], (power_w + self._last[1]) / 2
            self.kwh = (self.kwh or 0.0) + max(0.0, elapsed_s) * mean_w / _JOULES_PER_KWH
        self._last = (time_s, power_w)


def _fields(path: Path) -> dict[str, int]:
    """Read 'Name:   123 kB' lines as bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines if line.endswith(" kB"))
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in pairs}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
