"""Whether the traced peak of a training step is the one that its allocator sees, over 40 small configurations.

Run: python benchmarks/predicted_memory.py [--quick]
Each configuration trains three real steps through `rtx_lab.loop.fit` on batches of the largest shape; the second, where
optimizer state exists, is measured by torch.profiler's allocator events on a CPU (what was there before is added) and
by torch.cuda.max_memory_allocated on a GPU. Bar on a CPU: 2 % each. Beside it, on a CPU: the resident set of a process
of its own against the prediction with the stated cost of a process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

BAR = 0.02
SMALL = "model.d_model=64 model.num_slots=32 model.bilinear_rank=8"
CT = [
    *(f"model.connection={kind} {SMALL}" for kind in ("dense", "core", "diag", "scalar", "linear")),
    *(
        f"model.connection={kind} {SMALL} budget.micro_batch=16"
        for kind in ("dense", "core", "diag", "scalar", "linear")
    ),
    *(f"model.halting={kind} {SMALL} budget.micro_batch=32" for kind in ("none", "threshold", "ponder")),
    *(f"model.halting_criterion={kind} {SMALL}" for kind in ("state_change", "absolute")),
    f"model.fixed_steps=2 {SMALL} budget.micro_batch=16",
    f"model.step_norm=per_step model.slots=learned {SMALL}",
    *(f"model.connection=diag model.num_slots={n} model.d_model=64" for n in (64, 128, 256)),
    *(f"model.connection=dense model.num_slots={n} model.d_model=64 model.bilinear_rank=8" for n in (16, 64)),
    *(f"model.d_model=128 model.bilinear_rank={r} budget.micro_batch=8" for r in (4, 16, 32, 64)),
    "model.d_model=256 model.num_slots=64 model.bilinear_rank=16 budget.micro_batch=8",
    "model.max_reasoning_steps=8 model.num_encoder_layers=0",
    "model.num_encoder_layers=2 model.num_decoder_layers=3 model.dropout=0.1",
    *(f"model.connection={kind} budget.gradient_checkpointing=true" for kind in ("dense", "core", "diag")),
    "budget.gradient_checkpointing=true budget.micro_batch=8 model.num_decoder_layers=4",
    "dataset=arithmetic budget.micro_batch=32",
    "dataset=arithmetic model.connection=dense budget.gradient_checkpointing=true",
    "optim=adamw_8bit model.d_model=128",
]
BASELINE = [
    *(f"model=transformer_baseline model.d_model=64 model.num_slots={n} model.bilinear_rank=8" for n in (32, 64)),
    "model=transformer_baseline model.d_model=128 budget.micro_batch=8",
    "model=transformer_baseline model.d_model=64 budget.gradient_checkpointing=true dataset=arithmetic",
]


def settled(overrides: str) -> Any:
    """Compose and settle one configuration of this project."""
    from hydra import compose, initialize_config_dir

    import rtx_lab.run  # noqa: F401  (registers the schema)
    from rtx_lab.core.schema import settle

    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        threads = ["hardware.num_threads=1"]
        return settle(compose("config", overrides=[*overrides.split(), *threads]))


def largest_steps(parts: Any, started: Any, ended: Any) -> Any:
    """Batches of the largest shape in place of the task's own; `started` and `ended` enclose the second step."""
    import torch

    from rtx_lab.core.memory import filled

    budget = parts.run.budget
    pieces = -(-budget.global_batch // budget.micro_batch)

    def batches(_model: Any, start: int, stop: int) -> Iterator[list[dict[str, torch.Tensor]]]:
        for step in range(start + 1, stop + 1):
            made = [filled(parts.task.example_batch(budget.micro_batch)) for _ in range(pieces)]
            if step == 2:
                started(sum(tensor.nbytes for batch in made for tensor in batch.values()))
            yield made
            if step == 2:
                ended()
            del made

    return batches


def measure(overrides: str) -> dict[str, float]:
    """Predicted and measured peak of one configuration, bytes."""
    import torch

    from rtx_lab import loop
    from rtx_lab.core.components import bind
    from rtx_lab.core.device import GB
    from rtx_lab.core.training import Plan
    from rtx_lab.pricing.price import price
    from rtx_lab.run import build

    config = settled(overrides)
    priced = price(config)
    parts = build(config.run)
    update = bind(config.run.optim)(parts.model, 3)
    parts.model.gradient_checkpointing = config.run.budget.gradient_checkpointing
    meter = cuda_meter(parts) if parts.device.is_cuda else profiler_meter(parts, update)
    parts.task.batches = largest_steps(parts, meter["start"], meter["stop"])
    loop.fit(
        parts.model, parts.task, update, Plan(steps=3, eval_every=100), parts.device, seed=0, evaluate=nothing(parts)
    )
    predicted = priced.raw_peak_bytes if parts.device.is_cuda else priced.training
    return {
        "predicted": predicted,
        "measured": meter["peak"](),
        "resident": parts.device.peak_memory_gb() * GB,
        "predicted_resident": predicted + priced.predicted_raw_peak_memory_gb * GB - priced.raw_peak_bytes,
        "cuda": float(torch.cuda.is_available() and parts.device.is_cuda),
    }


def nothing(parts: Any) -> Any:
    """An evaluation that costs nothing: the step alone is measured."""
    return lambda: {parts.task.monitor: 0.0}


def profiler_meter(parts: Any, update: Any) -> dict[str, Any]:
    """The running sum of the CPU allocator's events, on top of what lives when the step begins."""
    from torch.profiler import ProfilerActivity, profile

    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    found: dict[str, float] = {}

    def start(batch_bytes: int) -> None:
        tensors = [*parts.model.parameters(), *parts.model.buffers()]
        tensors += [value for state in update.optimizer.state.values() for value in leaves(state)]
        found["before"] = batch_bytes + sum(tensor.nbytes for tensor in tensors)
        profiler.start()

    def peak() -> float:
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
        now = most = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            now += event.nbytes()
            most = max(most, now)
        return found["before"] + most

    return {"start": start, "stop": profiler.stop, "peak": peak}


def leaves(state: Any) -> list[Any]:
    """The tensors of one parameter's optimizer state, without the tables that bitsandbytes shares among all."""
    return [value for key, value in state.items() if hasattr(value, "nbytes") and not str(key).startswith("qmap")]


def cuda_meter(parts: Any) -> dict[str, Any]:
    """The allocator's own high-water mark over the step."""
    import torch

    found: dict[str, float] = {}

    def start(_: int) -> None:
        torch.cuda.reset_peak_memory_stats(parts.device.torch_device)

    def stop() -> None:
        found["peak"] = torch.cuda.max_memory_allocated(parts.device.torch_device)

    return {"start": start, "stop": stop, "peak": lambda: found["peak"]}


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four of the 40 configurations, in this process")
    quick = parser.parse_args().quick
    chosen = [CT[0], CT[7], CT[-7], BASELINE[0]] if quick else [*CT, *BASELINE]
    print(f"{len(chosen)} configurations, {os.cpu_count()} cores, 1 thread, torch {torch.__version__}")
    print(
        f"{'predicted':>10} {'measured':>10} {'off':>7} {'resident: predicted':>20} {'measured':>9}   MB of 1e6 bytes"
    )
    alone = multiprocessing.get_context("spawn")
    errors = []
    for overrides in chosen:
        if quick:
            row = measure(overrides)
        else:  # each in a process of its own, whose resident set is its own
            with alone.Pool(1) as pool:
                row = pool.apply(measure, (overrides,))
        errors.append(row["predicted"] / row["measured"] - 1)
        shown = [f"{row[key] / 1e6:.2f}" for key in ("predicted", "measured", "predicted_resident", "resident")]
        print(
            f"{shown[0]:>10} {shown[1]:>10} {errors[-1]:>+7.2%} {shown[2]:>20} {shown[3]:>9}   {overrides}", flush=True
        )
    worst = max(map(abs, errors))
    middle = statistics.median(map(abs, errors))
    print(f"worst {worst:.2%}, median {middle:.2%}: bar {BAR:.0%} {'reached' if worst <= BAR else 'NOT reached'}")


if __name__ == "__main__":
    main()
