"""Before a run: what it would cost, whether its inputs are there, and whether it is done already. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rtx_lab.core import device, recovery
from rtx_lab.core.components import bind
from rtx_lab.core.errors import UsageError
from rtx_lab.core.rundir import RunDir
from rtx_lab.core.schema import Settled


def range_problems(plain: dict[str, Any]) -> list[str]:
    """What is out of range in model and optimizer, found by building both without memory."""
    problems: list[str] = []
    for look, section in ((_weightless, "model"), (_on_one_weight, "optim")):
        try:
            built = look(plain[section])
        except UsageError as error:
            problems += error.problems
            continue
        if getattr(built, "refuses_fp16", False) and (plain.get("hardware") or {}).get("precision") == "fp16":
            problems.append("hardware.precision=fp16 overflows in this model: use hardware.precision=bf16 (or fp32)")
    return problems


def _weightless(node: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        return bind(node)()


def _on_one_weight(node: dict[str, Any]) -> Any:
    return bind(node)(nn.Linear(1, 1, bias=False), 1)


def check_inputs(settled: Settled) -> None:
    """Refuse what is not there, before anything is written: data, tokenizer, device, parent.

    Raises UsageError or RunError with one sentence.
    """
    run = settled.run
    device.setup(run.hardware)
    dataset = bind(run.dataset)()
    longest, positions = dataset.max_source_length, run.model.get("max_seq_len")
    if positions is not None and max(longest, dataset.max_target_length) > positions:
        raise UsageError(
            f"dataset.max_source_length={longest} and max_target_length={dataset.max_target_length} must not exceed "
            f"model.max_seq_len={positions}: shorten the one or raise the other"
        )
    for place in (run.init_from, run.resume_from):
        if place is not None:
            recovery.check_fits(_weightless(run.model), Path(place))
    if "vocab_size" in run.model:  # opens the splits: what is missing or broken is said here, and encoding is done once
        splits = ("train", "validation", "test") if run.budget.steps != 0 else ("validation", "test")
        splits += tuple(set(getattr(dataset, "final_splits", ())) - set(splits))
        dataset.check_vocabulary(run.model["vocab_size"], splits)


def current_digests(settled: Settled) -> dict[str, str]:
    """Digests of a run's inputs as they are now."""
    return input_digests(settled, bind(settled.run.dataset)())


def finished(
    settled: Settled, directory: RunDir, digests: Callable[[Settled], dict[str, str]] = current_digests
) -> dict[str, Any] | None:
    """The result of this very run if it is done; None if there is work left.

    Raises UsageError if it was done with data that have changed since.
    """
    result = directory.read_result()
    if result is None or result.get("status") != "done" or settled.run.run_anyway:
        return None
    then = result.get("digests") or {}
    changed = [name for name, now in digests(settled).items() if then.get(name) != now]
    if changed:
        raise UsageError(
            f"{directory.path} is done, but these inputs have changed since: {', '.join(changed)}; "
            "put the old ones back, or train again with run_anyway=true"
        )
    return result


def input_digests(settled: Settled, dataset: Any) -> dict[str, str]:
    """Digests of what a run reads: data, tokenizer, and the checkpoint that it starts from."""
    found = {"data": dataset.digest(), "tokenizer": dataset.tokenizer.digest}
    for key in ("init_from", "resume_from"):
        place = getattr(settled.run, key)
        if place is not None:
            found[key] = recovery.content_digest(Path(place))
    return found
