"""One optimizer step of the large model on real GSM8K on a CPU: does it work, how long does it take, how much memory?

    RTX_LAB_DATA=FOLDER RTX_LAB_TOKENIZERS=FOLDER python benchmarks/gsm8k_large_step.py [--quick]

model=bilinear_large dataset=gsm8k with the default budget (global batch 64 in micro-batches of 16), composed, built and
trained as `python train.py` does, without the evaluation. A fresh process; the peak is its whole resident size from
start to end, libraries and tokenising included. Bar: at most 6 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
OVERRIDES = ("model=bilinear_large", "dataset=gsm8k", "hardware=cpu", "budget.steps=1", "budget.log_every=1")
QUICK = (
    "dataset=arithmetic",
    "dataset.num_train=64",
    "model.num_slots=16",
    "model.d_model=64",
    "model.bilinear_rank=8",
)
BAR_GB = 6.0


def measure(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Compose, build and train one step in this process."""
    from hydra import compose, initialize_config_dir

    from rtx_lab.core.components import bind
    from rtx_lab.core.schema import settle
    from rtx_lab.core.training import Plan
    from rtx_lab.loop import fit
    from rtx_lab.run import build
    from rtx_lab.sweep.door import COMPOSE_KEYWORDS

    with initialize_config_dir(config_dir=str(ROOT / "conf"), **COMPOSE_KEYWORDS):
        config = compose("config", overrides=list(overrides), return_hydra_config=True)
    parts = build(settle(config).run)
    update = bind(parts.run.optim)(parts.model, 1)
    batches = next(parts.task.batches(parts.model, 0, 1))
    lines: list[dict[str, Any]] = []
    start = time.perf_counter()
    outcome = fit(
        parts.model, parts.task, update, Plan(steps=1, log_every=1), parts.device, seed=parts.run.seed,
        log=lines.append, evaluate=lambda: {parts.task.monitor: 0.0},
    )  # fmt: skip
    return {
        "status": outcome.status,
        "seconds": time.perf_counter() - start,
        "loss": lines[0]["loss"],
        "samples": sum(len(batch["index"]) for batch in batches),
        "pieces": len(batches),
        "tokens": sum(int(batch["source_mask"].sum()) + int(parts.task.weight(batch)) for batch in batches),
        "parameters": sum(parameter.numel() for parameter in parts.model.parameters()),
        "peak_gb": parts.device.peak_memory_gb(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="built-in data and small sizes")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(OVERRIDES + (QUICK if options.quick else ()))))
        return
    if not options.quick and not os.environ.get("RTX_LAB_DATA"):
        sys.exit("RTX_LAB_DATA is not set: give the folder that holds gsm8k/, or try --quick")
    arguments = [sys.executable, __file__, "--measure", *(["--quick"] if options.quick else [])]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    from importlib.metadata import version

    print(f"{' '.join(OVERRIDES + (QUICK if options.quick else ()))}")
    print(f"one step in a fresh process; {os.cpu_count()} cores, torch {version('torch')}\n")
    print("| status | parameters | samples | micro-batches | tokens | loss | s | peak resident GB |")
    print("|---|---|---|---|---|---|---|---|")
    row = [found["status"], f"{found['parameters']:,}", *(found[key] for key in ("samples", "pieces", "tokens"))]
    row += [f"{found['loss']:.3f}", f"{found['seconds']:.1f}", f"{found['peak_gb']:.2f}"]
    print("| " + " | ".join(map(str, row)) + " |")
    reached = found["status"] == "done" and found["peak_gb"] <= BAR_GB
    print(f"\nbar {BAR_GB} GB: {'reached' if reached else 'NOT reached'}")


if __name__ == "__main__":
    main()
