"""One training loop for every task: steps, accumulation, schedule, evaluation, checkpoints, and every way to end early.

A step computes gradients of a summed loss divided by the summed weight of all its samples, over all micro-batches and
processes; however the samples are cut, the step is the same. Nothing in a step waits for the device: losses, norms
and flags are read when a line is logged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from rtx_lab.core import checkpoint, gradients
from rtx_lab.core.checkpoint import Store
from rtx_lab.core.cutting import BY_SAMPLES, Cutting
from rtx_lab.core.device import Device
from rtx_lab.core.errors import RunError
from rtx_lab.core.memory import OutOfMemory, forget, is_out_of_memory, rows
from rtx_lab.core.parallel import Ranks
from rtx_lab.core.recovery import latest_of
from rtx_lab.core.signals import Stopped, StopSignal
from rtx_lab.core.training import Ended, Outcome, Plan, Training, TrainState
from rtx_lab.core.types import Batch, Record, Task
from rtx_lab.core.update import Update, scaled, set_rate
from rtx_lab.core.window import Window

_SMALLEST_SCALE = 2.0**-14
"""Loss scale below which fp16 has nothing left to give: 26 halvings from the start."""


def resume(store: Store, model: nn.Module, update: Update, device: Device) -> TrainState:
    """Continue a run from its newest whole checkpoint, or from the start; events name the damaged ones passed over."""
    found, skipped = latest_of(store)
    state = _restore(found, model, update, device) if found else TrainState()
    state.events += [{"event": "checkpoint_skipped", "step": state.step, "reason": problem} for problem in skipped]
    return state


def resume_from(place: Path, model: nn.Module, update: Update, device: Device) -> TrainState:
    """Continue in a new run from another run or checkpoint: weights, optimizer and step; its best stays with it.

    Raises UsageError if it belongs to another model or optimizer, RunError if it is damaged; then nothing has changed.
    """
    state = _restore(checkpoint.find_newest(place), model, update, device)
    state.best, state.stale, state.events, state.time_split_s = None, 0, [], {}
    return state


def _restore(place: Path, model: nn.Module, update: Update, device: Device) -> TrainState:
    update.prepare()
    return TrainState(**checkpoint.restore(place, model, update.optimizer, device.scaler))


def fit(
    model: nn.Module,
    task: Task,
    update: Update,
    plan: Plan,
    device: Device,
    *,
    seed: int,
    store: Store | None = None,
    log: Callable[[Record], None] = lambda _: None,
    evaluate: Callable[[], dict[str, Any]] = dict,
    stop: StopSignal | None = None,
    state: TrainState | None = None,
    ranks: Ranks | None = None,
    cutting: Cutting = BY_SAMPLES,
    show: Callable[[int, Record | None], None] = lambda _step, _record: None,
) -> Outcome:
    """Train up to `plan.steps` optimizer steps and say how it ended; a run is continued by handing in its `state`.

    `log` receives one record per logged step and per evaluation (rank 0 alone); `evaluate` returns metrics with the
    task's monitor among them, is called on every rank, and rank 0's value decides; `cutting` makes micro-batches that
    do not fit smaller; `show` is told of every step for a progress bar. `plan.steps` 0 trains nothing. Raises RunError
    if a checkpoint cannot be written; other exceptions pass through.
    """
    state = state or TrainState()
    update = gradients.insisting(update, device, state)
    earlier_s = sum(state.time_split_s.values())
    run = Training(
        model=model, task=task, update=update, plan=plan, device=device, seed=seed,
        store=store, log=log, evaluate=evaluate, stop=stop or StopSignal(),
        state=state, ranks=ranks or Ranks(), window=Window(state.window), cutting=cutting,
        params=[param for param in model.parameters() if param.requires_grad],
        apply=partial(scaled, device.scaler, update) if device.scaler else partial(update.step, update),
    )  # fmt: skip
    status, reason = _until_the_end(run, show)
    gradients.drop(run)
    run.book("train")
    return Outcome(
        status=status, reason=reason, state=state, signum=run.stop.signum, earlier_s=earlier_s, **run.window.times()
    )


def _until_the_end(run: Training, show: Callable[[int, Record | None], None]) -> tuple[str, str]:
    """Train and turn every expected way to end into a status and a sentence."""
    try:
        run.ranks.same_weights(run.model)
        run.update.prepare()
        return "done", _train(run, show)
    except Ended as end:
        return end.status, str(end)
    except OutOfMemory as error:
        reason = str(error)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        forget(error)
        reason = "memory ran out beside the micro-batch (optimizer state, evaluation): try optim=adamw_8bit"
    return "out_of_memory", f"step {run.state.step + 1}: {reason}"


def _train(run: Training, show: Callable[[int, Record | None], None]) -> str:
    state, plan = run.state, run.plan
    if _evaluate_if_due(run):  # a signal came between a step and its evaluation
        _save(run)
    if state.stale >= plan.patience:
        return _early(run)
    run.model.train()
    steps = iter(run.task.batches(run.model, state.step, plan.steps))
    run.book("data")
    run.window.start_clock()
    while state.step < plan.steps:
        stopping = _step(run, _next(run, steps))
        state.step += 1
        show(state.step, _log(run) if state.step % plan.log_every == 0 or state.step == plan.steps else None)
        if stopping or (run.ranks.alone and run.stop.signum is not None):
            _save(run)
            raise Ended("interrupted", f"stopped by a signal after step {state.step}")
        _evaluate_if_due(run)
        early = state.stale >= plan.patience
        if early or state.step % plan.checkpoint_every == 0 or state.step == plan.steps:
            _save(run)
        if early:
            return _early(run)
    return f"trained {state.step} steps"


def _early(run: Training) -> str:
    state, best = run.state, run.state.best or {}
    return (
        f"stopped early at step {state.step}: {state.stale} evaluations without a better {run.task.monitor} "
        f"than {best.get('value')} at step {best.get('step')}"
    )


def _next(run: Training, steps: Iterator[list[Batch]]) -> list[Batch]:
    run.book("train")
    with run.device.autocast:  # a task may write what it learns from
        batches = next(steps, None)
    run.window.waited(run.book("data"))
    if not batches:
        raise RunError(f"the task gave no samples for step {run.state.step + 1} of {run.plan.steps}")
    return batches


def _step(run: Training, batches: list[Batch]) -> bool:
    """Do one optimizer step; return whether a signal asks any of the processes to stop."""
    step = run.state.step + 1
    own = [sum(float(run.task.weight(batch)) for batch in batches), float(sum(rows(batch) for batch in batches))]
    weight, num_samples = run.ranks.sum_host(own)
    set_rate(run.update, step)
    loss = failure = None
    try:
        loss = gradients.compute(run, step, batches, weight or 1.0)
    except OutOfMemory as error:
        failure = error
    stopping = gradients.agree(run, failure)
    assert loss is not None
    grads = [param.grad for param in run.params if param.grad is not None]
    run.ranks.sum_tensors([*grads, loss])
    norm, refused = run.apply(grads, loss, weight or 1.0)
    del grads
    gradients.drop(run)
    run.window.add(step, loss, norm, refused, weight, num_samples)
    return stopping


def _drain(run: Training) -> None:
    """Read the collected steps; ends the run if one of them was not finite."""
    refused = run.window.drain(run.ranks)
    scaler = run.device.scaler
    if refused:
        ids = run.task.describe(refused[0])
        run.state.events.append({"event": "diverged", "step": refused[0], "rows": ids})
        shown = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
        raise Ended(
            "diverged",
            f"loss or gradient of step {refused[0]} is not finite (rows {shown}); no weight was changed by it",
        )
    if scaler and scaler.get_scale() < _SMALLEST_SCALE:
        raise Ended(
            "diverged",
            f"gradients overflow fp16 at any loss scale by step {run.state.step}: use hardware.precision=bf16",
        )


def _log(run: Training) -> Record:
    _drain(run)
    device = run.device
    record = {"step": run.state.step, "lr": run.update.rate(run.state.step), **run.window.line()}
    record |= {"memory_gb": device.memory_in_use_gb(), "peak_memory_gb": device.peak_memory_gb()}
    record |= {"reserved_gb": device.reserved_gb(), "peak_reserved_gb": device.peak_reserved_gb()}
    if run.ranks.leads:
        run.log(record)
    return record


def _evaluate_if_due(run: Training) -> bool:
    """Evaluate at every `eval_every` steps and after the last one; keep a checkpoint of the best."""
    state, plan, stopped = run.state, run.plan, False
    if not state.step or state.evaluated == state.step or (state.step % plan.eval_every and state.step != plan.steps):
        return False
    _drain(run)
    run.book("train")
    run.model.eval()
    metrics: dict[str, Any] = {}
    try:
        metrics = run.evaluate()
    except Stopped:
        stopped = True
    run.book("evaluation")
    run.model.train()
    if any(run.ranks.max_host([float(stopped)])):
        _save(run)
        raise Ended("interrupted", f"stopped by a signal in the evaluation after step {state.step}")
    if run.ranks.leads and metrics:
        run.log({"step": state.step, **metrics, "time_s": sum(state.time_split_s.values())})
    state.evaluated = state.step
    _judge(run, metrics)
    run.window.start_clock()
    return True


def _judge(run: Training, metrics: dict[str, Any]) -> None:
    state = run.state
    own = [1.0, float(metrics[run.task.monitor])] if metrics else [0.0, math.nan]
    known, value = run.ranks.from_lead(own)
    if not known:
        return
    sign = 1.0 if run.task.mode == "max" else -1.0
    if math.isnan(value) or (state.best and sign * value <= sign * state.best["value"]):
        state.stale += 1
        return
    state.best, state.stale = {"step": state.step, "value": value}, 0
    _save(run)


def _save(run: Training) -> None:
    """Write a checkpoint of this step, once; all processes go on when it is on disk."""
    if run.store is None or run.saved == run.state.step:
        return
    _drain(run)
    run.book("train")
    failure = None
    if run.ranks.leads:
        try:
            checkpoint.save(run.store, asdict(run.state), run.model, run.update.optimizer, run.device.scaler)
        except RunError as error:
            failure = error
    (written,) = run.ranks.from_lead([float(failure is None)])
    if not written:
        raise failure or RunError("rank 0 could not write the checkpoint")
    run.saved = run.state.step
    run.book("checkpoint")
    run.window.start_clock()
