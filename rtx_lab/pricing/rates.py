"""How fast a machine computes and what it draws: from the hardware section, else constants stated here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rtx_lab.core.device import GB
from rtx_lab.core.sections import Hardware
from rtx_lab.pricing.work import Operators

_THREAD_TFLOPS, _THREAD_BANDWIDTH_GB_S, _THREAD_POWER_W = 0.165, 10.0, 32.5
"""One thread of a recent server processor in fp32: half of what conf/hardware/cpu.yaml states for two."""
_CPU_LAUNCH_S = 3.2e-6
"""What PyTorch spends on an operator besides its arithmetic, on a CPU: measured there with tensors of 8 elements."""
_GPU_LAUNCH_S = 6e-6
"""Time between two small kernels that the host launches one by one. Not measured: the usual few microseconds."""
_GPU_WORKSPACE_BYTES = 32 * 2**20
"""What cuBLAS takes of PyTorch's memory: 32 MiB on Hopper, about 8 before (torch's default). Not measured."""
_RESIDENT_BYTES = 0.43 * GB
"""Resident size of a run on a CPU besides its tensors: Python, torch, tokenizers, TensorBoard. Measured on the default
run; the allocator's leftovers come on top and are calibrated."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Floating-point operations and bytes a second, seconds an operator, and watts (None where nobody said)."""

    flops: float
    bandwidth: float
    launch_s: float
    power_w: float | None

    def seconds(self, operators: Iterable[Operators]) -> float:
        """Time by a roofline: an operator takes its arithmetic or its traffic, the longer of them, and its launch."""
        return sum(
            each.count * (self.launch_s + max(each.flops / self.flops, each.moved_bytes / self.bandwidth))
            for each in operators
        )


def rates_of(hardware: Hardware) -> Rates | None:
    """The rates of a settled hardware section; None for a GPU whose rates nobody has given."""
    tflops, bandwidth, power_w = hardware.peak_tflops, hardware.bandwidth_gb_s, hardware.power_w
    if hardware.device == "cpu":
        threads = hardware.num_threads or 1
        tflops = tflops or threads * _THREAD_TFLOPS
        bandwidth = bandwidth or threads * _THREAD_BANDWIDTH_GB_S
        return Rates(tflops * 1e12, bandwidth * 1e9, _CPU_LAUNCH_S, power_w or threads * _THREAD_POWER_W)
    if tflops is None or bandwidth is None:
        return None
    return Rates(tflops * 1e12, bandwidth * 1e9, _GPU_LAUNCH_S, power_w)


def workspace_bytes(hardware: Hardware) -> int:
    """What libraries take of the memory that tensors are counted in."""
    return _GPU_WORKSPACE_BYTES if hardware.device == "cuda" else 0


def reported_gb(hardware: Hardware, tensor_bytes: float) -> float:
    """What `Device.peak_memory_gb` would report for this peak of tensors: on a CPU it is the size of the process."""
    return (tensor_bytes + (_RESIDENT_BYTES if hardware.device == "cpu" else 0.0)) / GB
