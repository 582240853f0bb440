"""A training task of a few hundred weights with all that can go wrong: ragged rows, dropout, planted failures."""

from __future__ import annotations

import hashlib
import signal
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from rtx_lab import loop, optim
from rtx_lab.core.device import Device, setup
from rtx_lab.core.schema import Hardware
from rtx_lab.core.signals import StopSignal
from rtx_lab.core.training import Plan

VOCAB, WIDTH, LENGTH = 13, 8, 6
STEPS = 12
RATES = {"samples_per_s", "tokens_per_s", "padded_tokens_per_s"}
MEMORY = {"memory_gb", "peak_memory_gb", "reserved_gb", "peak_reserved_gb"}
TIMES = {"step_time_s", "data_wait", *RATES, *MEMORY}


def host(precision: str = "fp32") -> Device:
    return setup(Hardware(name="cpu", device="cpu", precision=precision, memory_gb=4, num_threads=1))


class ToyModel(nn.Module):
    """Guesses the next id from the mean of the ids so far; tied table and head, a norm, dropout."""

    def __init__(self, dropout: float = 0.1, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCAB, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB)
        self.head.weight = self.table.weight
        self.dropout = dropout
        self.to(dtype)

    def forward(self, ids_BT: Tensor) -> Tensor:
        past_BTD = self.table(ids_BT).cumsum(1) / torch.arange(1, ids_BT.shape[1] + 1)[:, None].to(ids_BT.device)
        hidden = F.dropout(self.norm(torch.tanh(self.mix(past_BTD))), self.dropout, self.training)
        return self.head(hidden)


@dataclass
class ToyTask:
    """Samples of a step depend on (seed, step) alone; they are cut into micro-batches and dealt to ranks in turn."""

    monitor: str = "validation/accuracy"
    mode: str = "max"
    steps_per_epoch: int = 5
    global_batch: int = 12
    micro_batch: int = 4
    rank: int = 0
    world_size: int = 1
    workers: int = 0
    seed: int = 7
    most_rows: int = 10**9  # more than these in one piece is out of memory
    broken: dict[int, float] = field(default_factory=dict)  # step -> what its loss is multiplied with
    message: str = "CUDA out of memory. Tried to allocate 2.00 GiB"

    def batches(self, model, start, stop):
        return iter(DataLoader(_Steps(self, start, stop), batch_size=None, num_workers=self.workers))

    def samples(self, step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1000 + step)
        ids = torch.randint(1, VOCAB, (self.global_batch, LENGTH + 1), generator=generator)
        ids[:, 1::2] = (ids[:, 0:1] + 1) % VOCAB  # half of the ids can be learnt
        lengths = torch.randint(1, LENGTH + 1, (self.global_batch, 1), generator=generator)
        labels = ids[:, 1:].masked_fill(torch.arange(LENGTH) >= lengths, -100)
        factor = torch.full((self.global_batch,), self.broken.get(step, 1.0))
        return {"source": ids[:, :-1], "labels": labels, "factor": factor}

    def weight(self, batch):
        return (batch["labels"] != -100).sum().float()

    def loss(self, model, batch):
        if len(batch["labels"]) > self.most_rows:
            raise RuntimeError(self.message)
        logits = model(batch["source"])
        rows = F.cross_entropy(logits.mT, batch["labels"], ignore_index=-100, reduction="none").sum(1)
        return (rows * batch["factor"].to(rows.dtype)).sum(), {
            "tokens": (batch["labels"] != -100).sum(),
            "padded_tokens": torch.full((), batch["labels"].numel()),
        }

    def example_batch(self, model, micro_batch):
        ids = torch.empty((micro_batch, LENGTH), dtype=torch.int64)
        return {"source": ids, "labels": ids.clone(), "factor": torch.empty(micro_batch)}

    def describe(self, step):
        return [f"row-{step}-{i}" for i in range(self.global_batch)]


class _Steps(Dataset):
    def __init__(self, task: ToyTask, start: int, stop: int) -> None:
        self.task, self.start, self.stop = task, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int):
        if index >= len(self):
            raise IndexError
        task = self.task
        whole = task.samples(self.start + 1 + index)
        mine = {name: value[task.rank :: task.world_size] for name, value in whole.items()}
        cuts = range(0, len(mine["labels"]), task.micro_batch)
        return [{name: value[cut : cut + task.micro_batch] for name, value in mine.items()} for cut in cuts]


def digest(model: nn.Module) -> str:
    """One hash of all weights."""
    total = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        total.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def distance(a: nn.Module, b: nn.Module) -> float:
    """Largest difference between the weights of two models."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max((x.detach().double() - y.detach().double()).abs().max().item() for x, y in pairs)


def train(task=None, model=None, *, factory=optim.adamw, steps=STEPS, lr=1e-2, precision="fp32", store=None, **options):
    """Train a fresh toy model, or go on where the store left off; return model, outcome and logged records."""
    model = model or ToyModel()
    update = factory(model, steps, lr=lr, **options.pop("optim", {}))
    device = host(precision)
    state = loop.resume(store, model, update, device) if store else None
    plan = {"steps": steps, "log_every": 1, "eval_every": 100, "checkpoint_every": 100} | options.pop("plan", {})
    records = []
    outcome = loop.fit(
        model,
        task or ToyTask(),
        update,
        Plan(**plan),
        device,
        seed=3,
        store=store,
        state=state,
        log=records.append,
        **options,
    )
    return model, outcome, records


def series(records):
    return [{key: value for key, value in record.items() if key not in {*TIMES, "time_s"}} for record in records]


def stop_after(step):
    """A stop signal and the `show` that sends it after a step."""
    stop = StopSignal()

    def show(done, _record):
        if done == step:
            stop.signum = signal.SIGTERM

    return {"stop": stop, "show": show}


def scores(*values):
    """An evaluation that returns the given accuracies one after another."""
    line = iter(values)
    return lambda: {"validation/accuracy": next(line)}
