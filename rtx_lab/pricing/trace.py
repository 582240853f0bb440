"""One optimizer step and one scoring of the real task on tensors without memory: what they hold and what they do.

Needs no data, tokenizer, GPU or network: shapes are all that counts. Equal shapes are traced once in a process, and
once on a machine where `keep_on_disk` was called.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import _engine_run_backward

from rtx_lab.core.assembly import make_task, prepare
from rtx_lab.core.components import bind
from rtx_lab.core.live_bytes import LiveBytes
from rtx_lab.core.partition import rounded
from rtx_lab.core.schema import RunConfig
from rtx_lab.core.types import Cut, Task
from rtx_lab.models.counts import count_weights
from rtx_lab.pricing import shelf
from rtx_lab.pricing.cuda_rules import CudaRules
from rtx_lab.pricing.data import Dataset, shape_of
from rtx_lab.pricing.work import Operators, Work

_CUDA_BLOCK = 512
"""Bytes that CUDA's caching allocator rounds up to (c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize)."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NUMBERS = frozenset(
    {
        *("convergence_threshold", "target_steps", "dropout", "readout_weight", "reasoning_cost_weight"),
        *("ponder_weight", "orthogonal_weight", "threshold", "loss_weight_recon", "loss_weight_gate"),
        *("lora_alpha", "lora_dropout"),
    }
)
"""Settings of models that change numbers and no shape; whether they are zero may switch a part off."""
_WORK = ("micro_batch_work", "update_work", "evaluation_work")
_traces: dict[str, Trace] = {}
_unkept: dict[str, Trace] = {}
"""What this command has traced and stands in no file."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a run holds in memory at its peak, in bytes, and the operators that it executes.

    Training peaks at `weights + gradients + optimizer + activations`: the first three are what a step holds at its
    end, `activations` what its peak holds beyond them, batches included; `logits` is the part of these whose last
    dimension is the vocabulary.
    """

    parameters: int
    samples: int
    """Samples of a micro-batch."""
    num_micro_batches: int
    """Micro-batches of an optimizer step."""
    weights: int
    gradients: int
    optimizer: int
    paged: int
    """How much of `optimizer` moves to host memory when a GPU is full."""
    activations: int
    logits: int
    evaluation: int
    """Peak while scoring, weights and optimizer state included."""
    micro_batch_work: tuple[Operators, ...]
    """Forward and backward of one micro-batch."""
    update_work: tuple[Operators, ...]
    evaluation_work: tuple[Operators, ...]
    """Scoring of one evaluation batch."""

    @property
    def states(self) -> int:
        """Weights, gradients and optimizer state."""
        return self.weights + self.gradients + self.optimizer

    @property
    def training(self) -> int:
        """Peak of training."""
        return self.states + self.activations

    @property
    def peak(self) -> int:
        """The most that training or scoring holds at once."""
        return max(self.training, self.evaluation)


def trace(run: RunConfig, micro_batch: int) -> Trace:
    """Trace one step in micro-batches of `micro_batch` samples of the largest shape, and one scoring.

    `hardware.compile` is not seen: a compiled step holds at most what this one holds. One process is traced, whatever
    the number of ranks.
    """
    key = shape_key(run, micro_batch)
    if not knows(key):
        dataset = shape_of(run).dataset
        remember({key: _trace(run, dataset, _samples(run, dataset, micro_batch))})
    return _traces[key]


def num_traced() -> int:
    """How many different shapes this process knows."""
    return len(_traces)


def knows(key: str) -> bool:
    """Whether this shape needs no tracing any more: this process has its trace now, from disk if need be."""
    if key not in _traces and (kept := shelf.read(key)) is not None:
        work: dict[str, Any] = {name: tuple(Operators(*each) for each in kept[name]) for name in _WORK}
        _traces[key] = Trace(**kept | work)
    return key in _traces


def remember(traces: Mapping[str, Trace]) -> None:
    """Take what was traced, here or by other processes."""
    _traces.update(traces)
    _unkept.update(traces)


def keep_on_disk() -> None:
    """Write what this command has traced to disk, for later commands."""
    while _unkept:
        key, found = _unkept.popitem()
        plain = asdict(found)
        work = {name: [list(each.values()) for each in plain[name]] for name in _WORK}
        shelf.write(key, plain | work)


def shape_key(run: RunConfig, micro_batch: int) -> str:
    """Runs of equal key have equal traces; learning rate, seed and thresholds are not part of it."""
    dataset = shape_of(run).dataset
    return _shape(run, dataset, _samples(run, dataset, micro_batch))


def _samples(run: RunConfig, dataset: Dataset, micro_batch: int) -> int:
    """Samples of the largest shape that a micro-batch can hold."""
    tokens = run.budget.micro_tokens
    return micro_batch if tokens in (None, "auto") else max(1, min(micro_batch, tokens // longest_tokens(dataset)))


def longest_tokens(dataset: Dataset) -> int:
    """What the largest sample takes of a budget of tokens."""
    lengths = [dataset.max_source_length, dataset.max_target_length]
    return int(rounded(np.array([length for length in lengths if length > 1])).sum())  # plain texts have no target


def scored_together(run: RunConfig, dataset: Dataset, samples: int) -> int:
    """Samples of the largest shape scored at once: by tokens twice those of training, shared by beams or options."""
    rows = run.budget.eval_batch or 1
    if run.budget.micro_tokens is None:
        return rows
    return max(1, min(rows, 2 * samples // max(1, dataset.num_options, run.generation.num_beams)))


def _shape(run: RunConfig, dataset: Dataset, samples: int) -> str:
    """Everything that a trace depends on."""
    model = {key: bool(value) if key in _NUMBERS else value for key, value in run.model.items()}
    lengths = dataset.max_source_length, dataset.max_target_length, dataset.vocab_size, dataset.num_options
    budget, hardware = run.budget, run.hardware
    scored = scored_together(run, dataset, samples)
    sizes = samples, budget.global_batch, scored, budget.steps == 0, budget.gradient_checkpointing
    place = hardware.device, hardware.precision
    names = run.task, run.optim.get("_target_"), run.optim.get("max_grad_norm") is None
    writing = run.generation.num_beams, run.generation.max_new_tokens, run.ltpo.work
    return json.dumps([model, lengths, sizes, place, names, writing], sort_keys=True, default=str)


@dataclass(frozen=True, slots=True)
class _Part:
    """What a piece of work adds to what was there before: its peak, the logits of that moment, its operators."""

    peak: int = 0
    logits: int = 0
    work: tuple[Operators, ...] = ()


@dataclass(frozen=True, slots=True)
class States:
    """What a run holds between two steps, in bytes; `paged` is the part of `optimizer` that can move to the host."""

    weights: int
    gradients: int = 0
    optimizer: int = 0
    paged: int = 0


def state_bytes(run: RunConfig) -> States:
    """Count weights, gradients and optimizer state of a model without memory; nothing is traced."""
    with FakeTensorMode():
        model = bind(run.model)()
        prepare(task_of(run, shape_of(run).dataset, 1), model)
    return _states(run, model)


def _states(run: RunConfig, model: nn.Module) -> States:
    weights = _bytes([*model.parameters(), *model.buffers()])
    if run.budget.steps == 0:
        return States(weights)
    update = bind(run.optim)(model, 1)  # under no fake mode: bitsandbytes computes tables when it is built
    gradients = _bytes(param for param in model.parameters() if param.requires_grad)
    return States(weights, gradients, int(update.state_bytes), int(update.paged_bytes))


def _trace(run: RunConfig, dataset: Dataset, samples: int) -> Trace:
    task = task_of(run, dataset, samples)
    pieces = -(-run.budget.global_batch // samples)
    with FakeTensorMode() as fake:
        model = bind(run.model)()
        prepare(task, model)
    states = _states(run, model)
    model.gradient_checkpointing = run.budget.gradient_checkpointing
    with fake, _rules(run):
        training = _train(run, model, task, samples, pieces) if states.gradients else _Part()
        scoring = _score(run, model, task, scored_together(run, dataset, samples))
    activations = max(0, training.peak - states.gradients)
    moved = 2 * states.weights + 4 * states.gradients + 2 * states.optimizer
    return Trace(
        parameters=count_weights(model),
        samples=samples, num_micro_batches=pieces,
        weights=states.weights, gradients=states.gradients, optimizer=states.optimizer, paged=states.paged,
        activations=activations, logits=min(training.logits, activations),
        evaluation=states.weights + states.optimizer + scoring.peak,
        micro_batch_work=training.work,
        update_work=(Operators(flops=0, moved_bytes=moved, count=1),),  # read and write once, clip in one more pass
        evaluation_work=scoring.work,
    )  # fmt: skip


def task_of(run: RunConfig, dataset: Dataset, samples: int) -> Task:
    """Build a run's task over a described dataset, for one process."""
    cut = Cut(
        seed=run.seed, global_batch=run.budget.global_batch, micro_batch=samples,
        eval_batch=run.budget.eval_batch or samples,
    )  # fmt: skip
    return make_task(run, dataset, cut)


def _train(run: RunConfig, model: nn.Module, task: Task, samples: int, pieces: int) -> _Part:
    """Forward and backward of a micro-batch; of a later one, where the gradients of earlier ones are there already."""
    model.train()
    batch, before = task.example_batch(model, samples), 0
    if pieces > 1:
        for param in model.parameters():
            param.grad = torch.empty_like(param) if param.requires_grad else None
        before = _bytes(param.grad for param in model.parameters() if param.grad is not None)
    # a GPU gets the micro-batches of a step one by one; on a CPU they are all there
    before += _bytes(batch.values()) * (1 if run.hardware.device == "cuda" else pieces)
    work, rehearse_data = Work(), getattr(task, "rehearse_data", lambda *_: None)
    with _live(run, work) as live:
        with _autocast(run):
            rehearse_data(model, samples)
            loss, _ = task.loss(model, batch)
        _backward(loss)
    model.zero_grad(set_to_none=True)
    return _Part(before + live.peak, live.apart_at_peak, work.operators())


def _backward(loss: Tensor) -> None:
    """As `loss.backward()`, which would suspend function modes, and with them the rules of what is recomputed."""
    _engine_run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def _score(run: RunConfig, model: nn.Module, task: Task, samples: int) -> _Part:
    model.eval()
    work = Work()
    with torch.no_grad(), _live(run, work) as live, _autocast(run):
        task.rehearse(model, samples)
    return _Part(live.peak, live.apart_at_peak, work.operators())


def _rules(run: RunConfig) -> AbstractContextManager[Any]:
    return CudaRules() if run.hardware.device == "cuda" else contextlib.nullcontext()


def _live(run: RunConfig, work: Work) -> LiveBytes:
    vocab_size = run.model.get("vocab_size")
    return LiveBytes(
        block=_CUDA_BLOCK if run.hardware.device == "cuda" else 1,
        apart=lambda tensor: tensor.ndim > 0 and tensor.shape[-1] == vocab_size,
        observe=work.observe,
    )


def _autocast(run: RunConfig) -> AbstractContextManager[Any]:
    dtype = _DTYPES.get(run.hardware.precision or "fp32")
    return torch.autocast("cpu", dtype=dtype) if dtype else contextlib.nullcontext()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
