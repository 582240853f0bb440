"""The device: set up as asked, refused in one sentence, described in plain values."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml

from rtx_lab.core import device
from rtx_lab.core.errors import UsageError
from rtx_lab.core.schema import Hardware

CONF = Path(__file__).parents[2] / "conf" / "hardware"


@pytest.fixture(autouse=True)
def _settings():
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.use_deterministic_algorithms(False)


def hardware(**changes):
    return Hardware(**({"name": "x", "device": "cpu", "precision": "fp32", "memory_gb": 4, "num_threads": 1} | changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence():
    with pytest.raises(UsageError, match="needs an NVIDIA GPU and torch sees none here") as caught:
        device.setup(hardware(device="cuda", precision="bf16"))
    assert "hardware=cpu" in str(caught.value)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_precision_decides_autocast_and_scaler(precision, dtype):
    ready = device.setup(hardware(precision=precision))
    with ready.autocast:
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    with ready.autocast:  # one context serves every micro-batch
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == product.dtype
    assert product.dtype == (dtype or torch.float32)
    assert (ready.scaler is not None) == (precision == "fp16")
    assert torch.get_float32_matmul_precision() == ("highest" if precision == "fp32" else "high")


def test_threads_and_determinism_are_set():
    device.setup(hardware(num_threads=1, deterministic=True))
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    device.setup(hardware())
    assert not torch.are_deterministic_algorithms_enabled()


def test_seeding_gives_the_draws_of_manual_seed():
    ready = device.setup(hardware())
    ready.seed(5)
    ours = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(ours, torch.rand(3))


def test_memory_is_defined_on_a_cpu():
    ready = device.setup(hardware())
    before = ready.memory_in_use_gb()
    block = torch.ones(2**24)
    assert ready.memory_in_use_gb() - before == pytest.approx(2**26 / device.GB, rel=0.3)
    assert ready.peak_memory_gb() >= ready.memory_in_use_gb() - 1e-3
    assert block.sum() == 2**24


def test_detect_gives_concrete_values():
    found = device.detect("cpu")
    assert found["device"] == "cpu"
    assert found["precision"] == "fp32"
    assert found["num_threads"] == device.usable_cores() >= 1
    assert 0.5 < found["memory_gb"] < 1e5
    assert found["num_workers"] == 0
    assert not Hardware(**found).problems()


def test_a_group_limit_bounds_cores_and_memory(monkeypatch):
    files = {"/sys/fs/cgroup/cpu.max": "150000 100000\n", "/sys/fs/cgroup/memory.max": f"{2**31}\n"}
    monkeypatch.setattr(Path, "read_text", lambda self: files[str(self)])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    found = device.detect("cpu")
    assert (found["num_threads"], found["memory_gb"]) == (1, 2.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_preset_can_be_looked_at_without_a_gpu():
    assert device.detect("cuda")["num_threads"] >= 1


def test_every_preset_has_the_keys_of_the_schema_and_good_values():
    presets = sorted(CONF.glob("*.yaml"))
    assert [path.stem for path in presets] == ["auto", "cpu", "h200", "rtx3090", "rtx4090"]
    for path in presets:
        values = yaml.safe_load(path.read_text())
        assert list(values) == list(Hardware.__slots__)
        assert not Hardware(**values).problems()
        assert values["name"] == path.stem
        if values["device"] == "cuda":
            assert None not in values.values()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_ready():
    ready = device.setup(hardware(device="cuda", precision="bf16"))
    batch = ready.move({"x": torch.ones(4).pin_memory()})
    assert batch["x"].is_cuda
    assert ready.peak_memory_gb() >= ready.memory_in_use_gb() > 0
