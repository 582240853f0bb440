"""The local launcher with scripts of a few lines in the place of train.py: what one job does costs no other one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import ROOT

from rtx_lab.core.rundir import RunDir
from rtx_lab.sweep.command import flags_of
from rtx_lab.sweep.local import Launched, Settings, launch

SCRIPT = """
import ctypes, fcntl, json, os, pathlib, random, signal, sys, time
what, name = sys.argv[1].split("=")
place = pathlib.Path(name)
place.mkdir(exist_ok=True)
lock = open(place / ".lock", "a+b")
fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

def write(status, **more):
    (place / "config.yaml").write_text("{}")
    (place / "result.json").write_text(json.dumps({"status": status, **more}))

def stop(signum, frame):
    write("interrupted", reason=signal.Signals(signum).name)
    sys.exit(128 + signum)

if what == "raise": raise RuntimeError("no such luck")
if what == "kill": os.kill(os.getpid(), signal.SIGKILL)
if what == "segfault": ctypes.string_at(0)
if what == "exit": sys.exit(3)
if what == "refuse": sys.exit("error: model.num_slots must be positive")
if what == "vanish": os._exit(0)
if what == "sleep":
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1): signal.signal(signum, stop)
    (place / "started").touch()
    while not (place / "go").exists(): print("still here", flush=True); time.sleep(0.02)
if what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (place / "started").touch()
    while True: time.sleep(1)
(place / "seen.json").write_text(json.dumps({
    "argv": sys.argv, "cwd": os.getcwd(), "name": __name__, "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
    "planned": os.environ.get("RTX_LAB_PLANNED"), "own": os.environ.get("OWN"), "random": random.random(),
    "numpy": __import__("numpy").random.random(), "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "terminal": os.getsid(0) != os.getpid(), "files": len(os.listdir("/proc/self/fd")),
    "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "root": len(__import__("logging").root.handlers),
}))
print("a word to the log")
write("done", objective=0.5)
"""

DRIVER = """
import json, sys
from pathlib import Path
from rtx_lab.sweep.local import Launched, Settings, launch
from rtx_lab.sweep.door import enter
from rtx_lab.sweep import forked
forked.loaded_modules = list  # the scripts need none, and a test should not wait for torch
if __name__ == "__main__":
    words, settings = json.loads(sys.argv[1])
    jobs = [Launched((word,), Path(word.partition("=")[2])) for word in words]
    sys.exit(enter(lambda: launch(jobs, Settings(Path("job.py").absolute(), **settings))))
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working directory with the script in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "job.py").write_text(SCRIPT)
    (tmp_path / "driver.py").write_text(DRIVER)
    return tmp_path


def _jobs(*words, **more):
    return [Launched((word,), Path(word.partition("=")[2]), **more) for word in words]


def _run(jobs, **settings):
    return launch(jobs, Settings(Path("job.py").absolute(), **settings))


def _seen(name):
    return json.loads((Path(name) / "seen.json").read_text())


def test_what_one_job_does_costs_that_job_only(place, capfd):
    words = ("fine=a", "raise=b", "kill=c", "segfault=d", "exit=e", "refuse=f", "vanish=g", "fine=h")
    returns = _run(_jobs(*words))
    assert [one.return_value for one in returns] == [0.5, None, None, None, None, None, None, 0.5]
    assert [list(one.overrides) for one in returns] == [[word] for word in words]
    out, err = capfd.readouterr()
    assert "[1/8] done fine=a" in out
    assert "failed raise=b" in out
    assert "RuntimeError: no such luck" in out
    assert "killed kill=c" in out
    assert "by SIGKILL" in out
    assert "by SIGSEGV" in out
    assert "failed exit=e" in out
    assert "exit code 3" in out
    assert "model.num_slots must be positive" in out
    assert "failed vanish=g" in out
    assert "Traceback" not in out + err, "what a job prints goes to its own log"
    assert "Traceback" in (place / "b" / "train.log").read_text()
    assert "Fatal Python error: Segmentation fault" in (place / "d" / "train.log").read_text()
    assert (place / "a" / "train.log").read_text() == "a word to the log\n"


def test_a_job_is_the_script_as_a_shell_would_start_it(place, monkeypatch):
    monkeypatch.setenv("OWN", "value")
    _run(_jobs("fine=a", "fine=b"), hydra_overrides=("hydra.verbose=true",))
    a, b = _seen("a"), _seen("b")
    assert a["argv"] == [str(place / "job.py"), "fine=a", "hydra.verbose=true"]
    assert (a["cwd"], a["name"], a["own"]) == (str(place), "__main__", "value")
    assert a["planned"] == str(place / "a")
    assert a["random"] != b["random"]
    assert a["numpy"] != b["numpy"]
    assert (a["blocked"], a["term"], a["terminal"], a["root"]) == ([], True, False, 0)


def test_each_job_has_its_device_and_no_more_than_allowed_run_at_once(place):
    words = ("sleep=a", "sleep=b", "sleep=c", "sleep=d", "fine=e")
    process = _start_driver(words, {"devices": ["0", "GPU-x"], "jobs_per_device": 2})
    _await(lambda: all(Path(name, "started").exists() for name in "abcd"))
    time.sleep(0.3)
    assert not Path("e").exists(), "four of four places are taken"
    for name in "abcd":
        Path(name, "go").touch()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert sorted(_seen(name)["cuda"] for name in "abcd") == ["0", "0", "GPU-x", "GPU-x"]
    assert "on GPU GPU-x" in output


def test_memory_and_exclusiveness_are_kept(place):
    big = {"memory_gb": 12.0, "hardware_memory_gb": 24.0}
    jobs = [*_jobs("fine=a", "fine=b", **big), *_jobs("fine=c", exclusive=True), *_jobs("fine=d")]
    assert [one.return_value for one in _run(jobs, jobs_per_device=4)] == [0.5] * 4


def test_what_a_sweep_has_not_planned_says_so(place, monkeypatch):
    monkeypatch.setenv("RTX_LAB_PLANNED", "/of/another/sweep")
    _run(_jobs("fine=a", planned=False))
    assert _seen("a")["planned"] is None


def test_a_job_without_a_directory_runs_and_leaves_no_folder(place, capfd):
    (returned,) = _run([Launched(("exit=a",), None)])
    assert returned.return_value is None
    assert "failed exit=a" in capfd.readouterr().out


def test_a_folder_that_cannot_be_made_costs_that_job_only(place, capfd):
    (place / "a").write_text("a file")
    returns = _run([Launched(("fine=a",), Path("a")), *_jobs("fine=b")])
    assert [one.return_value for one in returns] == [None, 0.5]
    assert "cannot start" in capfd.readouterr().out


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 0)])
def test_a_signal_lets_jobs_save_and_starts_no_other(place, signum, code):
    process = _start_driver(("sleep=a", "sleep=b", "fine=c"), {"jobs_per_device": 2})
    _await(lambda: Path("a", "started").exists() and Path("b", "started").exists())
    os.killpg(process.pid, signum)  # as a terminal does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    for name in "ab":
        assert RunDir(Path(name)).read_result() == {"status": "interrupted", "reason": signum.name}
    assert not Path("c").exists()
    assert "Traceback" not in output


def test_a_second_signal_ends_what_will_not_stop(place):
    process = _start_driver(("deaf=a",), {})
    _await(lambda: Path("a", "started").exists())
    process.terminate()
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "killed deaf=a" in output
    assert RunDir(Path("a")).status() == "new"


def test_jobs_of_a_killed_sweep_finish_and_nothing_else_stays(place):
    process = _start_driver(("sleep=a", "fine=b"), {})
    _await(lambda: Path("a", "started").exists())
    family = _descendants(process.pid)
    process.kill()
    process.communicate(timeout=60)  # the pipe closes although the job goes on
    assert RunDir(Path("a")).status() == "running"
    Path("a", "go").touch()
    _await(lambda: RunDir(Path("a")).status() == "done")
    _await(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))
    assert not Path("b").exists()


def _start_driver(words, settings):
    return subprocess.Popen(
        [sys.executable, "driver.py", json.dumps([words, settings])],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def _await(condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("this did not come about")


def _descendants(pid):
    """The process, its fork server and resource tracker, and their jobs."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["-m", "a=1", "--config-name", "x", "b=2", "-cd=conf"], ("--config-name", "x", "-cd=conf")),
        (["--multirun", "a=1"], ()),
    ],
)
def test_flags_of_hydra_reach_the_job_but_for_multirun(words, flags):
    assert flags_of(words) == flags
