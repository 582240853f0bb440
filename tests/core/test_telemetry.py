import ctypes
import subprocess
import sys

import pytest

from rtx_lab.core import telemetry
from rtx_lab.core.telemetry import EnergyMeter, disk_gb, gpu_metrics, gpus, ram_gb


class FakeDriver:
    """Two GPUs: one that tells everything, one (as a MIG slice) that tells its name only."""

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle):
        handle._obj.value = index + 1
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle, memory):
        memory._obj.total, memory._obj.free = 24 * 2**30, 20 * 2**30
        return 0 if handle.value == 1 else 3

    def nvmlDeviceGetUtilizationRates(self, handle, load):
        load._obj.gpu = 87
        return 0 if handle.value == 1 else 3

    def nvmlDeviceGetPowerUsage(self, handle, power):
        power._obj.value = 350_500
        return 0 if handle.value == 1 else 3

    def nvmlDeviceGetTemperature(self, handle, sensor, heat):
        assert sensor == 0
        heat._obj.value = 71
        return 0 if handle.value == 1 else 3

    def nvmlDeviceGetName(self, handle, buffer, size):
        buffer.value = b"RTX 4090"
        return 0


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.setattr(telemetry, "_nvml", FakeDriver)


def test_a_gpu_is_read_and_gaps_stay_gaps(driver):
    full, mute = gpus()
    assert (full.name, full.memory_total_gb, full.memory_free_gb) == ("RTX 4090", 24.0, 20.0)
    assert (full.utilization, full.power_w, full.temperature_c) == (87.0, 350.5, 71.0)
    assert full.uuid == "unknown"  # a driver without that function
    assert mute.name == "RTX 4090"
    assert (mute.memory_total_gb, mute.utilization, mute.power_w, mute.temperature_c) == (None, None, None, None)


def test_no_driver_is_no_gpu_and_no_error(monkeypatch):
    def missing(name):
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    telemetry._nvml.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpus() == []
    assert gpu_metrics() == {}
    telemetry._nvml.cache_clear()


def test_a_cpu_run_has_no_gpu_metrics(driver):
    pytest.importorskip("torch")
    assert gpu_metrics() == {}  # CUDA was not started by this process


def test_ram_and_disk_are_plausible(tmp_path):
    free, total = ram_gb() or (1.0, 2.0)
    assert 0 < free <= total
    free, total = disk_gb(tmp_path / "not" / "yet" / "there") or (0.0, 0.0)
    assert 0 < free <= total


def test_a_container_limit_counts(monkeypatch):
    limits = {"memory.max": 4 * 2**30, "memory.current": 3 * 2**30}
    monkeypatch.setattr(telemetry, "_number", lambda path: limits[path.name])
    assert ram_gb() == (1.0, 4.0)


def test_unreadable_memory_is_none(monkeypatch):
    monkeypatch.setattr(telemetry, "_fields", lambda path: {})
    assert ram_gb() is None


def test_energy_is_the_area_below_the_power():
    meter = EnergyMeter()
    assert meter.kwh is None
    for time_s, power_w in [(0, 100), (3600, 300), (7200, 300)]:  # mean 200 W for an hour, 300 W for an hour
        meter.add(time_s, power_w)
    assert meter.kwh == pytest.approx(0.5)


def test_energy_invents_nothing_for_gaps_and_continues_a_run():
    meter = EnergyMeter(kwh=1.0)
    meter.add(0, 100)
    meter.add(1800, None)
    meter.add(3600, 100)
    assert meter.kwh == 1.0
    meter.add(7200, 100)
    assert meter.kwh == pytest.approx(1.1)
    silent = EnergyMeter()
    silent.add(0, None)
    assert silent.kwh is None


def test_reading_the_machine_needs_no_torch():
    code = (
        "import sys; from rtx_lab.core import telemetry as t; t.gpus(), t.ram_gb(), t.gpu_metrics(); "
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
