"""What `python train.py --help` costs beside an app with an empty function and the same configuration.

    python benchmarks/help_start.py [--quick]

The empty app is a folder of its own with the same conf/ and hydra_plugins/ and a train.py whose function does nothing;
both print the same help, in fresh processes, in turn. Best of 5 each. Bar: at most 1.1 times the empty app.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EMPTY = """
import hydra

KEYWORDS = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}


@hydra.main(config_path="conf", config_name="config", **KEYWORDS)
def main(config):
    pass


main()
"""


def empty_app(folder: Path) -> Path:
    """Copy what Hydra reads, and write the smallest train.py that reads it."""
    for name in ("conf", "hydra_plugins"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "train.py").write_text(EMPTY)
    return folder


def seconds(folder: Path) -> float:
    """Wall time of one `python train.py --help` in a process of its own."""
    # the plugin of the empty app is its own copy; what that imports is found where it always is
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]))
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "train.py", "--help"], cwd=folder, env=environment, capture_output=True)
    taken = time.perf_counter() - start
    if done.returncode or b"== Groups" not in done.stdout:
        raise RuntimeError(f"no help in {folder}: {done.stderr.decode()[-500:]}")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="once each instead of best of 5")
    rounds = 1 if parser.parse_args().quick else 5
    with tempfile.TemporaryDirectory() as folder:
        apps = {"rtx_lab": ROOT, "empty app": empty_app(Path(folder))}
        for place in apps.values():
            seconds(place)  # byte code is compiled once
        taken: dict[str, list[float]] = {name: [] for name in apps}
        for _ in range(rounds):
            for name, place in apps.items():
                taken[name].append(seconds(place))
    best = {name: min(times) for name, times in taken.items()}
    ratio = best["rtx_lab"] / best["empty app"]
    print(f"python train.py --help, best of {rounds}; {os.cpu_count()} cores, torch {version('torch')}\n")
    print("| app | s | times the empty app |\n|---|---|---|")
    for name, value in best.items():
        print(f"| {name} | {value:.3f} | {value / best['empty app']:.3f} |")
    print(f"\nbar 1.1: {'reached' if ratio <= 1.1 else 'NOT reached'}")


if __name__ == "__main__":
    main()
