import json
import os
import subprocess
import sys

import pytest
import torch

from rtx_lab.__main__ import main
from rtx_lab.commands import checks, doctor
from rtx_lab.core import checkpoint, telemetry
from rtx_lab.core.telemetry import Gpu


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))


def gpu(**changes):
    base = {"uuid": "u", "name": "RTX 4090", "memory_total_gb": 24.0, "memory_free_gb": 23.5}
    return Gpu(**(base | {"utilization": 3.0, "power_w": 20.0, "temperature_c": 40.0} | changes))


PRESET = {"name": "rtx4090", "device": "cuda", "memory_gb": 24.0}


@pytest.mark.parametrize(
    ("changes", "state", "word"),
    [
        ({}, "ok", ""),
        ({"memory_free_gb": 12.0}, "warn", "nvidia-smi"),
        ({"memory_total_gb": 12.0, "memory_free_gb": 12.0}, "fail", "assumes 24 GB"),
        ({"temperature_c": 85.0}, "warn", "hot"),
        ({"temperature_c": 92.0}, "fail", "cool down"),
        ({"temperature_c": None, "utilization": None, "power_w": None}, "ok", ""),
        ({"memory_total_gb": None, "memory_free_gb": None}, "ok", ""),
    ],
)
def test_a_gpu_against_its_preset(changes, state, word):
    check = checks._gpu("gpu 0", gpu(**changes), PRESET)
    assert check.state == state
    assert word in check.remedy
    assert "RTX 4090" in check.finding


def test_no_gpu_fails_a_gpu_preset_alone(monkeypatch):
    monkeypatch.setattr(telemetry, "gpus", list)
    assert [check.state for check in checks.gpus(PRESET)] == ["fail"]
    assert [check.state for check in checks.gpus({"name": "cpu", "device": "cpu"})] == ["ok"]


@pytest.mark.parametrize(("free", "state"), [(100.0, "ok"), (10.0, "warn"), (1.0, "fail")])
def test_disk_against_the_preset(free, state, monkeypatch, tmp_path):
    monkeypatch.setattr(telemetry, "disk_gb", lambda path: (free, 200.0))
    assert checks.disk(PRESET, tmp_path).state == state


@pytest.mark.parametrize(("free", "preset", "state"), [(60.0, 24, "ok"), (16.0, 24, "warn"), (1.0, None, "fail")])
def test_ram_against_the_preset(free, preset, state, monkeypatch):
    monkeypatch.setattr(telemetry, "ram_gb", lambda: (free, 64.0))
    assert checks.ram({"name": "x", "memory_gb": preset}).state == state


def test_unreadable_memory_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(telemetry, "ram_gb", lambda: None)
    monkeypatch.setattr(telemetry, "disk_gb", lambda path: None)
    assert checks.ram(PRESET).state == checks.disk(PRESET, tmp_path).state == "warn"


def test_packages_missing_and_outside_their_range(monkeypatch):
    assert checks.packages().state == "ok"
    monkeypatch.setattr(checks, "_version", lambda name: None if name == "peft" else "0.0.1")
    check = checks.packages()
    assert check.state == "fail"
    assert "missing: peft" in check.finding


def test_wandb_key_and_waiting_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / "main" / "run" / "wandb" / "offline-run-1").mkdir(parents=True)
    check = checks.wandb(tmp_path)
    assert check.state == "warn"
    assert "WANDB_API_KEY" in check.remedy
    assert "1 offline runs not synced" in check.finding
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x")
    assert checks.wandb(tmp_path).state == "ok"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert "secret" not in checks.wandb(tmp_path).finding


def save(folder, step):
    store = checkpoint.Store(folder=folder / "checkpoints")
    (folder / "config.yaml").write_text("budget: {}")
    return checkpoint.save(store, {"step": step, "best": None}, torch.nn.Linear(2, 2))


def test_checkpoints_are_read_to_the_last_bit(tmp_path):
    assert [check.state for check in checks.checkpoints(tmp_path)] == ["ok"]
    run = tmp_path / "main" / "run"
    run.mkdir(parents=True)
    save(run, 1)
    newest = save(run, 2) / "model.safetensors"
    assert [check.state for check in checks.checkpoints(tmp_path)] == ["ok"]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 4
    newest.write_bytes(data)
    (check,) = checks.checkpoints(tmp_path)
    assert check.state == "warn"
    assert "step-00000001" in check.remedy
    (run / "checkpoints" / "step-00000001" / "manifest.json").write_text("{")
    (check,) = checks.checkpoints(tmp_path)
    assert check.state == "fail"


def test_data_sets_built_in_present_and_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("RTX_LAB_DATA", str(tmp_path))
    monkeypatch.setenv("RTX_LAB_TOKENIZERS", str(tmp_path))
    found = {check.name: check for check in checks.datasets(doctor.conf_folder() / "dataset")}
    assert found["data reasoning"].state == found["data arithmetic"].state == "ok"
    assert {"gsm8k", "logiqa", "strategyqa", "commonsenseqa", "sst2"} <= {name.removeprefix("data ") for name in found}
    assert found["data gsm8k"].state == "warn"
    assert "RTX_LAB_" in found["data gsm8k"].remedy


def test_a_broken_preset_of_data_is_a_failed_row(tmp_path):
    (tmp_path / "odd.yaml").write_text("_target_: rtx_lab.nothing.at_all")
    (tmp_path / "worse.yaml").write_text("a: [")
    assert [check.state for check in checks.datasets(tmp_path)] == ["fail", "fail"]


def test_table_json_and_exit_code(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checks, "datasets", lambda folder: iter(()))
    monkeypatch.setattr(telemetry, "gpus", list)
    monkeypatch.setattr(telemetry, "ram_gb", lambda: (60.0, 64.0))
    monkeypatch.setattr(telemetry, "disk_gb", lambda path: (500.0, 900.0))
    assert main(["doctor", "--hardware", "cpu", "--runs", str(tmp_path)]) == 0
    assert "hardware=cpu: 0 failed" in capsys.readouterr().out
    assert main(["doctor", "--hardware", "rtx4090", "--runs", str(tmp_path), "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert {"name", "state", "finding", "remedy"} == set(rows[0])
    assert [row["name"] for row in rows if row["state"] == "fail"] == ["gpu"]


def test_unknown_and_broken_presets(tmp_path, monkeypatch, capsys):
    assert main(["doctor", "--hardware", "rtx409"]) == 2
    assert "did you mean rtx4090?" in capsys.readouterr().err
    (tmp_path / "conf" / "hardware").mkdir(parents=True)
    (tmp_path / "conf" / "hardware" / "odd.yaml").write_text("a: [")
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--hardware", "odd"]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_doctor_needs_no_torch_without_checkpoints(tmp_path):
    code = (
        "import sys; from rtx_lab.__main__ import main; "
        f"main(['doctor', '--runs', {str(tmp_path)!r}]); sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ, check=False)
    assert result.returncode == 0, result.stderr
