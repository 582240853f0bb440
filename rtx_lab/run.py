"""The composition root: build what a settled configuration names, train it, evaluate it, record the outcome."""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rtx_lab import loop, pruning
from rtx_lab.core import checkpoint, earlier, memory, parallel, record, telemetry
from rtx_lab.core.components import bind
from rtx_lab.core.credentials import read_env_file
from rtx_lab.core.cutting import once_more
from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.core.judged import judged_by
from rtx_lab.core.progress import progress_bar
from rtx_lab.core.rundir import RunDir, write_json, write_text
from rtx_lab.core.schema import Settled, settle
from rtx_lab.core.signals import Stopped, StopSignal, exit_code
from rtx_lab.core.training import PURPOSES, Outcome, Plan, TrainState
from rtx_lab.models.counts import count_weights
from rtx_lab.parts import Parts, build
from rtx_lab.preflight import finished, input_digests
from rtx_lab.tracking import Tracker

log = logging.getLogger(__name__)

PATIENT_SHARE = 0.2
"""Share of the time that may be spent waiting for data before a line of advice is due."""


def run(config: DictConfig) -> dict[str, Any]:
    """Run one job to a terminal status and return its result; never raises.

    The run directory is Hydra's output directory. Under torchrun rank 0 writes.
    """
    settled = settle(config)
    place = (
        Path(HydraConfig.get().runtime.output_dir) if HydraConfig.initialized() else Path("multirun", settled.directory)
    )
    return run_settled(settled, RunDir(place))


def run_settled(settled: Settled, directory: RunDir) -> dict[str, Any]:
    """Run a settled configuration in a directory that is there, and return its result; never raises."""
    leads = int(os.environ.get("RANK", "0")) == 0
    if not leads:
        logging.disable(logging.WARNING)  # rank 0 speaks for all
    try:
        with directory.lock() if leads else nullcontext():
            done = finished(settled, directory)
            if done is not None:
                return done
            if leads:
                earlier.set_aside(directory, run_anyway=settled.run.run_anyway)
                write_text(directory.config_path, OmegaConf.to_yaml(OmegaConf.create(settled.config)))
            result = _attempt(settled, directory)
            if leads:
                write_json(directory.result_path, result)
                earlier.drop(directory, result)
    except (RunError, UsageError) as error:
        result = {"status": "failed", "reason": str(error), "signature": settled.signature}
    if result["status"] != "done":
        level = logging.INFO if result["status"] == "pruned" else logging.ERROR
        log.log(level, "%s: %s", result["status"], result["reason"])
    return result


def _attempt(settled: Settled, directory: RunDir) -> dict[str, Any]:
    """Do the work and turn every way to end into a result."""
    started = time.time()
    before = directory.read_result() or {}
    result: dict[str, Any] = {
        "status": "failed",
        "reason": "",
        "signature": settled.signature,
        "phase": settled.run.phase,
    }
    stop = StopSignal()
    try:
        with stop:
            result |= _execute(settled, directory, stop)
    except Stopped:
        result |= {"status": "interrupted", "reason": "stopped by a signal", "exit_code": exit_code(stop.signum)}
    except UsageError as error:
        result |= {"status": "refused", "reason": str(error)}
    except RunError as error:
        result |= {"status": "failed", "reason": str(error)}
    except Exception as error:
        record.keep_traceback(directory.path / "train.log")
        kind = "out_of_memory" if memory.is_out_of_memory(error) or isinstance(error, memory.OutOfMemory) else "failed"
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        reason = f"{type(error).__name__}: {first_line} (traceback in {directory.path / 'train.log'})"
        result |= {"status": kind, "reason": reason}
        memory.forget(error)
    planned = directory.read_plan() or {}
    if planned.get("signature") == settled.signature:
        result |= {key: planned.get(key) for key in ("price", "predicted_peak_memory_gb")}
        result["parents"] = [*(planned.get("parents") or []), *result.get("parents", [])]
    result |= record.times(started, before, result.pop("earlier_s", 0.0))
    return result | {"versions": record.versions(), "git": record.git_state(Path(__file__).parent)}


def _execute(settled: Settled, directory: RunDir, stop: StopSignal) -> dict[str, Any]:
    read_env_file()
    parts = build(settled.run)
    try:
        result = _train_and_evaluate(settled, parts, directory, stop)
        parallel.leave_together(parts.ranks)
        return result
    finally:
        parallel.leave(parts.ranks)


def _train_and_evaluate(settled: Settled, parts: Parts, directory: RunDir, stop: StopSignal) -> dict[str, Any]:
    run, task = settled.run, parts.task
    parts.model.gradient_checkpointing = run.budget.gradient_checkpointing  # type: ignore[assignment]
    parts.events += memory.find_auto(
        run.budget, parts.model, task, parts.device, parts.ranks,
        lambda: float(bind(run.optim)(parts.model, 1).state_bytes), parts.cutting.size,
    )  # fmt: skip
    plan = Plan.of(run.budget, task.steps_per_epoch if run.budget.steps != 0 else 1)
    if plan.steps and not any(param.requires_grad for param in parts.model.parameters()):
        raise UsageError(f"phase={run.phase} trains nothing, it evaluates: leave budget.steps at 0")
    update = bind(run.optim)(parts.model, max(1, plan.steps))
    store = checkpoint.Store(folder=directory.checkpoints, keep_last=run.budget.keep_last, owner=settled.signature)
    state = _starting_point(parts, update, store)
    if run.hardware.compile:
        task.loss = torch.compile(task.loss, dynamic=True)
    tracker = None
    if parts.ranks.leads:
        tracker = Tracker(
            run.tracking, directory.path, signature=settled.signature, config=settled.config, resume_step=state.step
        )
    result: dict[str, Any] = {"total_steps": plan.steps}
    try:
        outcome = _train(parts, update, plan, store, state, directory, tracker, stop)
        result |= _describe(settled, parts, outcome) | record.memory(directory.read_metrics(), parts.device)
        if outcome.status != "done":
            return result | {"exit_code": exit_code(outcome.signum) if outcome.status == "interrupted" else 1}
        best = checkpoint.best(store.folder) if plan.steps else None
        if best is not None:
            told = partial(outcome.state.events.append, {"event": "out_of_memory", "where": "load"})
            once_more(partial(checkpoint.load_weights, parts.model, best), parts.device.release, told)
        before = time.perf_counter()
        result |= _final_evaluation(parts, directory, stop, outcome.state.events)
        result |= record.memory(directory.read_metrics(), parts.device)
        result["time_split_s"]["evaluation"] += time.perf_counter() - before
        return result
    finally:
        if tracker is not None:
            tracker.close(result.get("metrics"))


def _starting_point(parts: Parts, update: Any, store: checkpoint.Store) -> TrainState:
    """The newest whole checkpoint of this run; else where `resume_from` points; else the weights of `init_from`."""
    run = parts.run
    state = loop.resume(store, parts.model, update, parts.device)
    if state.step == 0 and run.resume_from is not None:
        state = loop.resume_from(Path(run.resume_from), parts.model, update, parts.device)
        log.info("continuing from %s at step %d", run.resume_from, state.step)
    elif state.step == 0 and run.init_from is not None:
        log.info("weights from %s", checkpoint.load_weights(parts.model, Path(run.init_from)))
    elif state.step:
        log.info("continuing at step %d", state.step)
    for event in state.events:
        if event.get("event") == "checkpoint_skipped":
            log.warning("passed over a damaged checkpoint: %s", event["reason"])
    return state


def _train(
    parts: Parts,
    update: Any,
    plan: Plan,
    store: checkpoint.Store,
    state: TrainState,
    directory: RunDir,
    tracker: Tracker | None,
    stop: StopSignal,
) -> Outcome:
    run, ranks = parts.run, parts.ranks
    if ranks.leads:
        directory.rewind_metrics(state.step)

    def keep(line: dict[str, Any]) -> None:  # called on rank 0 alone
        line |= telemetry.gpu_metrics() if parts.device.is_cuda else {}
        parts.energy.add(time.monotonic(), line.get("gpu_power_w"))
        directory.append_metrics(line)
        if tracker is not None:
            tracker.log(line)

    def look() -> dict[str, Any]:
        metrics, _ = parts.evaluate(parts.task.watched, stop, state.events)
        found = {f"validation/{key}": value for key, value in metrics.items()}
        log.info("%s %s", parts.task.monitor, found.get(parts.task.monitor))
        return found

    watch = pruning.watched(
        look, directory.read_plan(), monitor=parts.task.monitor, state=state, last_step=plan.steps, ranks=ranks,
        keep=keep,
    )  # fmt: skip
    with progress_bar(plan.steps, state.step, leads=ranks.leads) as show:
        return loop.fit(
            parts.model, parts.task, update, plan, parts.device, seed=run.seed, store=store, log=keep,
            evaluate=watch, stop=stop, state=state, ranks=ranks, cutting=parts.cutting, show=show,
        )  # fmt: skip


def _describe(settled: Settled, parts: Parts, outcome: Outcome) -> dict[str, Any]:
    """What a result says of training, whichever way it ended."""
    if outcome.data_wait > PATIENT_SHARE and not hasattr(parts.task, "rehearse_data"):
        log.warning(
            "%.0f %% of the time went into waiting for data: raise hardware.num_workers (now %d)",
            100 * outcome.data_wait,
            parts.run.hardware.num_workers or 0,
        )
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "monitor": parts.task.monitor,
        "best": outcome.state.best,
        "steps": outcome.state.step,
        "parameters": count_weights(parts.model),
        "parents": [place for place in (parts.run.init_from, parts.run.resume_from) if place],
        "step_time_s": outcome.step_time_s,
        "earlier_s": outcome.earlier_s,
        "time_split_s": {purpose: outcome.state.time_split_s.get(purpose, 0.0) for purpose in PURPOSES},
        "num_processes": parts.ranks.world_size,
        "energy_kwh": parts.energy.kwh,
        "digests": input_digests(settled, parts.dataset),
        "events": parts.events + outcome.state.events,
    }


def _final_evaluation(parts: Parts, directory: RunDir, stop: StopSignal, events: list[Any]) -> dict[str, Any]:
    """Score validation, test and what else there is with the best weights; the objective is validation's monitor."""
    metrics: dict[str, Any] = {}
    for split in parts.task.splits:
        found, records = parts.evaluate(split, stop, events)
        metrics |= {f"{split}/{key}": value for key, value in found.items()}
        if not parts.ranks.leads:
            continue
        for name, text in parts.task.files(records, split).items():
            write_text(directory.path / name, text)
        if split == "test":
            public = [{k: v for k, v in entry.items() if not k.startswith("_")} for entry in records]
            directory.write_predictions(public)
            for name, value in parts.task.maps(parts.model).items():
                write_text(directory.path / f"{name}.json", json.dumps(value) + "\n")
    name = judged_by(parts.task.monitor)
    value, low, high = (metrics.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is not None:
        interval = "" if low is None or high is None else f" (95 % interval {low:.4f} to {high:.4f})"
        log.info("%s %.4f%s", name, value, interval)
    return {"metrics": metrics, "objective": metrics.get(parts.task.monitor), "events": parts.events + events}
