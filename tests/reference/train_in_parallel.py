"""Started by torchrun: trains the toy under every condition that processes must agree on; writes what each saw."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn
from toy_training import STEPS, ToyModel, ToyTask, digest, stop_after, train

from rtx_lab.core import parallel
from rtx_lab.core.checkpoint import Store
from rtx_lab.core.errors import RunError
from rtx_lab.core.signals import StopSignal

OUT = Path(sys.argv[1])


class HalfUsed(ToyModel):
    """Has a weight that only some samples use, and one that none uses."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.sometimes = nn.Parameter(torch.ones(4, 4))
        self.never = nn.Parameter(torch.ones(4, 4))


class HalfTask(ToyTask):
    def loss(self, model, batch):
        loss, counts = super().loss(model, batch)
        if self.rank == self.world_size - 1:
            loss = loss + model.sometimes.sum() * batch["factor"].sum()
        return loss, counts


class Pair:
    """One of two processes, and what it saw in every condition."""

    def __init__(self) -> None:
        self.ranks = parallel.join("cpu")
        self.second = self.ranks.rank == self.ranks.world_size - 1
        self.shard = {"rank": self.ranks.rank, "world_size": self.ranks.world_size, "micro_batch": 3}
        self.seen = {}

    def go(self, name, task=None, model=None, **options):
        model, outcome, records = train(
            task or ToyTask(**self.shard), model or ToyModel(dropout=0.0), ranks=self.ranks, **options
        )
        losses = [record["loss"] for record in records if "loss" in record]
        row = {"status": outcome.status, "step": outcome.state.step, "losses": losses, "digest": digest(model)}
        row |= {"micro_batch": outcome.state.micro_batch, "best": outcome.state.best, "signum": outcome.signum}
        self.seen[name] = row
        return model


def weights(pair: Pair) -> None:
    """Equal to one process; made alike at the start; used by one process alone."""
    plain = pair.go("plain", store=Store(folder=OUT / "plain"))
    torch.save(plain.state_dict(), OUT / f"plain{pair.ranks.rank}.pt")
    other = ToyModel(dropout=0.0)
    other.register_buffer("flags", torch.tensor([True, False]))
    other.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T.clone(memory_format=torch.preserve_format))
    if pair.second:
        nn.init.ones_(other.mix.bias)
        other.flags.zero_()
        other.turned.zero_()
    pair.go("alike", model=other)
    pair.seen["alike"] |= {"flags": other.flags.tolist(), "turned": other.turned.sum().item()}
    used = pair.go("unused", HalfTask(**pair.shard), HalfUsed())
    pair.seen["unused"]["never"] = used.never.sum().item()


def failures(pair: Pair) -> None:
    """Memory, a loss or the disk fails on one process."""
    pair.go("tight on one", ToyTask(**pair.shard, most_rows=1 if pair.second else 99))
    pair.go("too tight on one", ToyTask(**pair.shard, most_rows=0 if pair.second else 99))
    pair.go("broken on one", ToyTask(**pair.shard, broken={4: float("nan")} if pair.second else {}))
    try:
        pair.go("no disk", store=Store(folder=Path(os.devnull) / "x"), steps=STEPS)
    except RunError as error:
        pair.seen["no disk"] = {"error": str(error)}


def stops(pair: Pair) -> None:
    """A signal to one process, in training and in an evaluation; the resume; the value that decides."""
    stopping = stop_after(5) if pair.second else {}
    pair.go("stopped by one", model=ToyModel(), store=Store(folder=OUT / "stopped"), **stopping)
    pair.go("resumed", model=ToyModel(), store=Store(folder=OUT / "stopped"))
    pair.go("undisturbed", model=ToyModel())
    score = {"validation/accuracy": float(pair.ranks.rank)}
    pair.go("evaluated", evaluate=lambda: score, plan={"eval_every": 3, "patience": 2})
    stop = StopSignal()
    stop.signum = None

    def leave_on_second():
        if pair.second:
            stop.signum = signal.SIGINT
            stop.check()
        return score

    pair.go("stopped in evaluation", evaluate=leave_on_second, plan={"eval_every": 3}, stop=stop)


def main() -> None:
    pair = Pair()
    weights(pair)
    failures(pair)
    stops(pair)
    (OUT / f"{pair.ranks.rank}.json").write_text(json.dumps(pair.seen))
    parallel.leave_together(pair.ranks)


if __name__ == "__main__":
    main()
