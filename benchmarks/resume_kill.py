"""Whether a run that was killed by SIGKILL at any of its 60 steps ends as if nothing had happened.

Run: python benchmarks/resume_kill.py [--quick]
For accumulation 1 and 3 and 0 and 2 loader workers, one run is killed at each step (in the forward pass, after the
logged line, or while a checkpoint is written) and started again. Bar: digest of the weights and loss series identical.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATHS = [str(ROOT / "tests" / "reference"), str(ROOT)]
sys.path[:0] = PATHS

STEPS, CHECKPOINT_EVERY, GLOBAL_BATCH = 60, 4, 12
PLACES = ("forward", "line", "write")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, accumulation: int, workers: int, kill_at: int | None, place: str) -> None:
    """Train the toy in this process, going on where the folder left off; die where told."""
    from toy_training import ToyModel, digest, train

    from rtx_lab.core.checkpoint import Store

    multiprocessing.set_start_method("fork", force=True)  # for the loader's workers, who cannot be pickled
    if kill_at is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # orphaned workers complain when they find their parent gone
    with (folder / "metrics.jsonl").open("a") as lines:

        def show(step, record):
            lines.write(json.dumps({"step": step, "loss": record["loss"], "grad_norm": record["grad_norm"]}) + "\n")
            lines.flush()
            if step == kill_at and place == "line":
                die()
            if place == "write" and kill_at is not None and step >= kill_at:
                die_at_fsync()  # the next checkpoint is never finished

        task = dying_task((kill_at or 0) if place == "forward" else 0, accumulation, workers)
        store = Store(folder=folder / "checkpoints")
        plan = {"checkpoint_every": CHECKPOINT_EVERY}
        model, outcome, _ = train(task, ToyModel(), steps=STEPS, store=store, show=show, plan=plan)
    assert outcome.status == "done"
    (folder / "digest").write_text(digest(model))
    os._exit(0)  # without the clean-up of a server that is not this process's own


def dying_task(kill_at: int, accumulation: int, workers: int):
    """The toy task, dying in the first forward pass of a step (0: of none)."""
    from toy_training import ToyTask

    class Dying(ToyTask):
        calls = 0

        def loss(self, model, batch):
            self.calls += 1
            if self.calls == (kill_at - 1) * accumulation + 1:
                die()
            return super().loss(model, batch)

    return Dying(micro_batch=GLOBAL_BATCH // accumulation, workers=workers)


def die_at_fsync() -> None:
    fsync = os.fsync

    def deadly_fsync(handle: int) -> None:
        fsync(handle)
        die()

    os.fsync = deadly_fsync


def series(folder: Path) -> dict[int, tuple[float, float]]:
    """Loss and norm by step; a step that was logged twice must have been the same twice."""
    seen: dict[int, tuple[float, float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        values = (row["loss"], row["grad_norm"])
        if seen.setdefault(row["step"], values) != values:
            raise ValueError(f"step {row['step']} was {seen[row['step']]}, then {values}")
    return seen


def start(context, folder: Path, *arguments) -> int | None:
    folder.mkdir(exist_ok=True)
    child = context.Process(target=run, args=(folder, *arguments))
    child.start()
    child.join()
    return child.exitcode


def one_way(context, root: Path, accumulation: int, workers: int, steps: Sequence[int]) -> list[str]:
    """Kill and resume at each of the steps; return what differed from the undisturbed run."""
    straight = root / f"straight-{accumulation}-{workers}"
    assert start(context, straight, accumulation, workers, None, "") == 0
    wrong = []
    for step in steps:
        folder = root / "killed"
        place = PLACES[step % 3]
        first = start(context, folder, accumulation, workers, step, place)
        second = start(context, folder, accumulation, workers, None, "")
        same = second == 0 and (folder / "digest").read_text() == (straight / "digest").read_text()
        if first != -signal.SIGKILL or not same or series(folder) != series(straight):
            wrong.append(f"accumulation {accumulation}, workers {workers}, step {step}, {place}: {first}, {second}")
        shutil.rmtree(folder)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every 13th step")
    parser.add_argument("--steps", type=int, nargs="+", default=range(1, STEPS + 1), help="steps to be killed at")
    parser.add_argument("--cut", type=int, nargs=2, metavar=("ACCUMULATION", "WORKERS"), help="one way alone")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(PATHS)  # the server does not see our sys.path
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_training", "torch._dynamo"])  # what the first optimizer would import: 2 s
    print(f"{os.cpu_count()} cores, torch {version('torch')}; killed at each step and started again\n")
    steps = options.steps[::13] if options.quick else options.steps
    root = Path(tempfile.mkdtemp())
    total = bad = 0
    begin = time.perf_counter()
    try:
        for accumulation, workers in [options.cut] if options.cut else product((1, 3), (0, 2)):
            wrong = one_way(context, root, accumulation, workers, steps)
            print(
                f"accumulation {accumulation}, workers {workers}: {len(steps) - len(wrong)} of {len(steps)} identical"
            )
            for problem in wrong:
                print("  differs:", problem)
            total, bad = total + len(steps), bad + len(wrong)
    finally:
        shutil.rmtree(root)
    print(f"{total - bad} of {total} resumed runs identical, in {time.perf_counter() - begin:.0f} s")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
