"""What a job costs before and after its training: jobs 2..n of a local sweep against a fresh `python train.py`.

Run: python benchmarks/job_start.py [--quick]
Overhead is the wall time of the job's process minus the time of its logged steps. Bar: median
of jobs 2..n <= 0.35 x median of fresh processes. Both kinds take turns, so that other load meets both.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from rtx_lab.core.rundir import find_runs

TRAIN = Path(__file__).resolve().parent.parent / "train.py"
BAR = 0.35
TINY = (
    *("dataset.num_train=256", "dataset.num_validation=64", "dataset.num_test=64"),
    *("model.d_model=16", "model.num_slots=8", "model.bilinear_rank=4", "hardware=cpu", "hardware.num_threads=1"),
    *("budget.steps=20", "budget.eval_every=20", "budget.log_every=1", "tracking.tensorboard=false"),
)
ENDED = re.compile(r"\] done seed=(\d+) \(([\d.]+) s\)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round instead of three")
    rounds = 1 if parser.parse_args().quick else 3
    warm, fresh = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            place = Path(folder, str(number))
            place.mkdir()
            warm += _swept(place)
            fresh += [_alone(place, seed) for seed in (100, 101)]
    print(f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}; overhead in s, median (least)")
    for name, times in (("python train.py", fresh), ("jobs 2..n of local", warm)):
        print(f"{name:20} {statistics.median(times):6.2f} ({min(times):.2f}) of {len(times)}")
    ratio = statistics.median(warm) / statistics.median(fresh)
    print(f"ratio {ratio:.2f}, bar {BAR}: {'reached' if ratio <= BAR else 'NOT reached'}")


def _swept(place: Path) -> list[float]:
    """Overheads of jobs 2..5 of a sweep, by the launcher's own clock."""
    command = [sys.executable, str(TRAIN), "-m", "hydra/launcher=local", *TINY, "seed=1,2,3,4,5"]
    shown = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True).stdout
    walls = {int(seed): float(time_s) for seed, time_s in ENDED.findall(shown)}
    return [walls[seed] - _training_s(place, seed) for seed in (2, 3, 4, 5)]


def _alone(place: Path, seed: int) -> float:
    started = time.monotonic()
    subprocess.run(
        [sys.executable, str(TRAIN), *TINY, f"seed={seed}"], cwd=place, check=True, stdout=subprocess.DEVNULL
    )
    return time.monotonic() - started - _training_s(place, seed)


def _training_s(place: Path, seed: int) -> float:
    """Seconds of the logged steps of a run."""
    (run,) = (run for run in find_runs(place) if f"-seed{seed}-" in run.path.name)
    return sum(record.get("step_time_s", 0.0) for record in run.read_metrics())


if __name__ == "__main__":
    main()
