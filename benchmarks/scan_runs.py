"""How long do 10,000 finished run directories take to read? python benchmarks/scan_runs.py [--count N] [--quick]

Makes them in a temporary folder (40 distinct configurations x seeds, 150 logged lines, 200 predictions each) and times,
in a process with a warm file cache: the listing of `status`, what a report loads before it computes, and the status and
result of every directory, which is what a sweep asks before it launches a job.
"""

import argparse
import copy
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sized
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from rtx_lab.commands.status import list_rows
from rtx_lab.core.rundir import find_runs
from rtx_lab.report.runs import load_runs

BAR_S = 5.0
CONFIG: dict[str, Any] = {
    "model": {"_target_": "rtx_lab.models.connection_transformer.ConnectionTransformer", "d_model": 256, "dropout": 0.0}
    | {f"setting_{number}": number for number in range(20)},
    "dataset": {"_target_": "rtx_lab.data.generated.reasoning", "num_train": 8000},
    "optim": {"_target_": "rtx_lab.optim.adamw", "lr": 1e-4, "betas": [0.9, 0.999]},
    "task": {"_target_": "rtx_lab.tasks.answer.AnswerTask"},
    "hardware": {"name": "cpu", "device": "cpu", "num_threads": 1, "precision": "fp32"},
    "budget": {"global_batch": 64, "micro_batch": 64, "epochs": None, "steps": 150},
    "tracking": {"wandb": "off", "tags": []},
    "phase": "main",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="200 directories")
    args = parser.parse_args()
    count = 200 if args.quick else args.count
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "multirun")
        make(root, count)
        machine = f"{os.cpu_count()} cores, torch {version('torch')} (not loaded), Python {platform.python_version()}"
        print(f"{count} finished run directories; {machine}\n")
        scans: dict[str, Callable[[Path], Sized]] = {
            "resume scan: status and result of all": _scan,
            "python -m rtx_lab status: rows": list_rows,
            "report: configurations and results": load_runs,
        }
        for name, scan in scans.items():
            before = time.perf_counter()
            found = len(scan(root))
            seconds = time.perf_counter() - before
            verdict = "reached" if seconds <= BAR_S else "NOT reached"
            print(f"{name:40} {found} found in {seconds:.2f} s; bar {BAR_S:.0f} s for 10,000: {verdict}")


def _scan(root: Path) -> list[tuple[str, Any]]:
    return [(run.status(), run.read_result()) for run in find_runs(root)]


def make(root: Path, count: int) -> None:
    """Write `count` finished runs below `root`, as large as those of a study."""
    lines = "".join(json.dumps({"step": step, "loss": 1 / step, "grad_norm": 0.5}) + "\n" for step in range(1, 151))
    rows = "".join(json.dumps({"id": f"row-{number}", "correct": 1, "steps": 3}) + "\n" for number in range(200))
    metrics = {f"{split}/metric_{number}": 0.5 for split in ("validation", "test") for number in range(100)}
    metrics |= {"test/accuracy": 0.5, "test/accuracy_low": 0.4, "test/accuracy_high": 0.6}
    for number in range(count):
        config: dict[str, Any] = copy.deepcopy(CONFIG) | {"seed": number // 40}
        config["model"]["num_slots"] = 8 * (1 + number % 40)
        folder = root / f"phase_{number % 10}" / f"run-n{config['model']['num_slots']}-seed{number}-{number:012x}"
        (folder / "checkpoints" / "step-00000150").mkdir(parents=True)
        result = {
            "status": "done",
            "steps": 150,
            "total_steps": 150,
            "best": {"step": 100, "value": 0.5},
            "time_s": 1.0,
        }
        (folder / ".lock").touch()
        (folder / "config.yaml").write_text(yaml.dump(config, sort_keys=False, Dumper=yaml.CSafeDumper))
        (folder / "result.json").write_text(
            json.dumps(result | {"time_s": 1.0, "signature": f"{number:012x}", "metrics": metrics})
        )
        (folder / "metrics.jsonl").write_text(lines)
        (folder / "predictions.jsonl").write_text(rows)


if __name__ == "__main__":
    main()
