"""Workers that live at the same time lease different devices, evenly; a lease ends with its process, killed or not."""

import subprocess
import sys

import pytest

WORKER = """
import os, sys
from pathlib import Path
from rtx_lab.sweep.leases import take_device
first = take_device(["0", "1"], Path(sys.argv[1]))
again = take_device(["0", "1"], Path(sys.argv[1]))
print(first, again, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def worker(tmp_path):
    started = []

    def start():
        command = [sys.executable, "-c", WORKER, str(tmp_path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        first, again, seen = process.stdout.readline().split()
        assert again == "None", "one lease a process"
        assert seen == first
        return process, first

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_workers_spread_over_the_devices_and_give_them_back(worker):
    four = [worker() for _ in range(4)]
    assert [device for _, device in four] == ["0", "1", "0", "1"]
    killed, device = four[1]
    killed.kill()
    killed.wait()
    assert worker()[1] == device == "1"


def test_there_is_nothing_to_lease_on_one_device(tmp_path, monkeypatch):
    from rtx_lab.sweep.leases import take_device

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert take_device(["0"], tmp_path) is None
    assert take_device(["cpu"], tmp_path) is None
    assert list(tmp_path.iterdir()) == []
