"""How long does it take to plan a sweep? 512 jobs without and with prices, against Hydra's own way to compose them.

    python benchmarks/plan_sweep.py            512 jobs and 48 shapes
    python benchmarks/plan_sweep.py --quick    64 jobs and 4 shapes

Prints seconds and ratios. The directories of both ways are compared job by job.
"""

import argparse
import os
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

import hydra_plugins.rtx_lab.study  # noqa: F401  registers schema and sweeper
from rtx_lab.core.schema import settle
from rtx_lab.pricing.trace import num_traced
from rtx_lab.sweep.door import COMPOSE_KEYWORDS
from rtx_lab.sweep.grid import expand
from rtx_lab.sweep.session import Session

CONF = Path(__file__).parent.parent / "conf"
SLOW_SAMPLE = 32
"""Jobs composed by Hydra itself; its time grows in proportion."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    seeds, slots, ranks = (16, "8,16", "4,8") if quick else (128, "8,16,32,64", "8")
    identity = [f"seed=range(0,{seeds})", f"model.num_slots={slots}", "hardware=cpu", "plan=true"]
    shapes = [f"model.num_slots={slots},24,48" if not quick else f"model.num_slots={slots}"]
    shapes += [f"model.bilinear_rank={ranks if quick else '4,8,12,16,24,32,48,64'}", "hardware=cpu", "plan=true"]
    print(f"{len(os.sched_getaffinity(0))} cores, torch {version('torch')}, hydra {version('hydra-core')}")
    with initialize_config_dir(config_dir=str(CONF), job_name="train", **COMPOSE_KEYWORDS):
        _plan(identity)
        _price(shapes)


def _session(arguments: list[str]) -> tuple[Session, list[tuple[str, ...]]]:
    loader = GlobalHydra.instance().config_loader()
    master = loader.load_configuration("config", arguments, RunMode.MULTIRUN)
    context = SimpleNamespace(config_loader=loader)
    points = expand({}, arguments, context)  # type: ignore[arg-type]
    return Session(context, lambda _: None, master), points  # type: ignore[arg-type]


def _plan(arguments: list[str]) -> None:
    start = time.perf_counter()
    session, points = _session(arguments)
    jobs = session.outline(points)
    fast_s = time.perf_counter() - start
    loader, master = GlobalHydra.instance().config_loader(), session.master
    sample = points[:: max(1, len(points) // SLOW_SAMPLE)]
    start = time.perf_counter()
    slow = [settle(loader.load_sweep_config(master, list(point))).directory for point in sample]
    slow_s = (time.perf_counter() - start) * len(points) / len(sample)
    planned = {job.overrides: job.settled.directory for job in jobs}
    assert slow == [planned[point] for point in sample], "both ways name the same directories"
    print(f"{len(points)} jobs validated and identified: {fast_s:.1f} s, torch's import included")
    print(f"composed by Hydra one by one: {slow_s:.1f} s ({len(sample)} measured), ratio {fast_s / slow_s:.2f}")


def _price(arguments: list[str]) -> None:
    session, points = _session(arguments)
    jobs = session.outline(points)
    before = num_traced()
    start = time.perf_counter()
    session.price(jobs)
    print(f"{num_traced() - before} distinct shapes priced: {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    session.price(jobs)
    print(f"priced again, every shape known: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
