"""Kill a 12-job study at random, start it again until it is done, and compare with the study that nobody touched.

python benchmarks/sweep_kill.py                 100 kills of the sweep, of a job, or of both: about 10 minutes
python benchmarks/sweep_kill.py --quick         5 kills

Lost: a job that does not end as done. Run twice: a finished job whose result was written again, or a step that was
logged twice. The study is started afresh whenever it comes through before the kills are spent.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from rtx_lab.core.rundir import RunDir, find_runs

ROOT = Path(__file__).resolve().parent.parent
NUM_JOBS = 12
STUDY = (
    *("dataset.num_train=256", "dataset.num_validation=64", "dataset.num_test=64"),
    *("model.d_model=16", "model.num_slots=8", "model.bilinear_rank=4", "hardware=cpu", "hardware.num_threads=1"),
    *("budget.steps=60", "budget.eval_every=20", "budget.checkpoint_every=10", "budget.log_every=1"),
    *("tracking.tensorboard=false", f"seed=range(0,{NUM_JOBS})"),
)
VICTIMS = ("sweep", "job", "both")
SHARE_WHILE_PLANNING = 0.15
LONGEST_DELAY_S = 2.0
MOST_STARTS = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="5 kills")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        calm, disturbed = Path(folder, "calm"), Path(folder, "disturbed")
        calm.mkdir()
        if _start(calm).wait() != 0:
            sys.exit((calm / "sweep.log").read_text())
        counts = _disturb(disturbed, _table(calm), 5 if arguments.quick else arguments.kills, arguments.seed)
    print(f"{NUM_JOBS} tiny jobs, {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}")
    for what in (*(f"kills of {victim}" for victim in VICTIMS), "studies", "starts"):
        print(f"{what:24} {counts[what]}")
    wrong = ("lost", "run twice", "different from undisturbed")
    for what in wrong:
        print(f"{what:24} {counts[what]}")
    sys.exit(1 if any(counts[what] for what in wrong) else 0)


def _disturb(folder: Path, expected: dict[str, str], kills: int, seed: int) -> Counter[str]:
    """Kill studies in `folder` until `kills` are spent and the last study is done."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    finished: dict[Path, tuple[int, int]] = {}
    for _ in range(MOST_STARTS):
        folder.mkdir(exist_ok=True)
        process = _start(folder)
        counts["starts"] += 1
        for victim in _victims(rng, process, lambda: kills - sum(counts[f"kills of {v}"] for v in VICTIMS)):
            counts[f"kills of {victim}"] += 1
        code = process.wait()
        counts["run twice"] += _written_again(folder, finished)
        if code != 0:
            continue
        _count_study(folder, expected, counts)
        if sum(counts[f"kills of {victim}"] for victim in VICTIMS) >= kills:
            return counts
        shutil.rmtree(folder)
        finished.clear()
    sys.exit(f"not done after {MOST_STARTS} starts:\n{(folder / 'sweep.log').read_text()}")


def _victims(rng: random.Random, process: subprocess.Popen[bytes], left) -> Iterator[str]:
    """Kill the sweep, one of its jobs, or both, as long as the sweep lives; yield who was killed."""
    while process.poll() is None and left() > 0:
        victim = rng.choice(VICTIMS)
        if rng.random() >= SHARE_WHILE_PLANNING:
            while process.poll() is None and not _jobs(process.pid):
                time.sleep(0.01)
        elif victim != "sweep":
            continue
        time.sleep(rng.uniform(0, LONGEST_DELAY_S))
        targets = [] if victim == "sweep" else _jobs(process.pid)
        if process.poll() is not None or (victim != "sweep" and not targets):
            continue
        if victim != "job":
            process.kill()
            process.wait()
        for pid in targets:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        yield victim


def _start(folder: Path) -> subprocess.Popen[bytes]:
    with open(folder / "sweep.log", "ab") as log:
        command = [sys.executable, str(ROOT / "train.py"), "-m", "hydra/launcher=local", *STUDY]
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})


def _jobs(pid: int) -> list[int]:
    """The processes below the sweep that lead a session: its jobs."""
    found = [pid]
    with suppress(OSError):
        for parent in found:
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    jobs = []
    for child in found[1:]:
        with suppress(OSError):
            jobs += [child] if os.getsid(child) == child else []
    return jobs


def _written_again(folder: Path, finished: dict[Path, tuple[int, int]]) -> int:
    """How many results of finished jobs have been written anew since the last look."""
    again = 0
    for run in find_runs(folder):
        if (run.read_result() or {}).get("status") == "done":
            found = run.result_path.stat()
            stamp = (found.st_ino, found.st_mtime_ns)
            again += finished.setdefault(run.path, stamp) != stamp
    return again


def _count_study(folder: Path, expected: dict[str, str], counts: Counter[str]) -> None:
    counts["studies"] += 1
    table = _table(folder)
    counts["lost"] += len(expected.keys() - table.keys())
    counts["different from undisturbed"] += sum(table[name] != row for name, row in expected.items() if name in table)
    for run in find_runs(folder):
        steps = Counter(record["step"] for record in run.read_metrics() if "loss" in record)
        counts["run twice"] += any(count > 1 for count in steps.values())


def _table(folder: Path) -> dict[str, str]:
    """What a study found, job by job: its result without times, its learning curve, its predictions."""
    return {run.path.name: _findings(run) for run in find_runs(folder) if run.status() == "done"}


def _findings(run: RunDir) -> str:
    result = run.read_result() or {}
    kept = {key: result.get(key) for key in ("metrics", "best", "steps", "objective", "digests", "signature")}
    timed = ("_s", "memory_gb", "data_wait")
    curve = [{k: v for k, v in record.items() if not k.endswith(timed)} for record in run.read_metrics()]
    weights = sorted(str(path.relative_to(run.path)) for path in run.checkpoints.glob("*/manifest.json"))
    return json.dumps([kept, curve, run.predictions_path.read_text(), weights], sort_keys=True)


if __name__ == "__main__":
    main()
