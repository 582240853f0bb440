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


def main() -> None:
    ranks = parallel.join("cpu")
    shard = {"rank": ranks.rank, "world_size": ranks.world_size, "micro_batch": 3}
    second = ranks.rank == ranks.world_size - 1
    seen = {}

    def go(name, task=None, model=None, **options):
        model, outcome, records = train(
            task or ToyTask(**shard), model or ToyModel(dropout=0.0), ranks=ranks, **options
        )
        losses = [record["loss"] for record in records if "loss" in record]
        seen[name] = {"status": outcome.status, "step": outcome.state.step, "losses": losses, "digest": digest(model)}
        seen[name] |= {"micro_batch": outcome.state.micro_batch, "best": outcome.state.best, "signum": outcome.signum}
        return model

    plain = go("plain", store=Store(folder=OUT / "plain"))
    torch.save(plain.state_dict(), OUT / f"plain{ranks.rank}.pt")
    other = ToyModel(dropout=0.0)
    other.register_buffer("flags", torch.tensor([True, False]))
    other.register_buffer("turned", torch.arange(6.0).reshape(2, 3).T.clone(memory_format=torch.preserve_format))
    if second:
        nn.init.ones_(other.mix.bias)
        other.flags.zero_()
        other.turned.zero_()
    go("alike", model=other)
    seen["alike"] |= {"flags": other.flags.tolist(), "turned": other.turned.sum().item()}
    go("tight on one", ToyTask(**shard, most_rows=1 if second else 99))
    go("too tight on one", ToyTask(**shard, most_rows=0 if second else 99))
    go("broken on one", ToyTask(**shard, broken={4: float("nan")} if second else {}))
    used = go("unused", HalfTask(**shard), HalfUsed())
    seen["unused"]["never"] = used.never.sum().item()
    stopping = stop_after(5) if second else {}
    go("stopped by one", model=ToyModel(), store=Store(folder=OUT / "stopped"), **stopping)
    go("resumed", model=ToyModel(), store=Store(folder=OUT / "stopped"))
    go("undisturbed", model=ToyModel())
    score = {"validation/accuracy": float(ranks.rank)}
    go("evaluated", evaluate=lambda: score, plan={"eval_every": 3, "patience": 2})
    stop = StopSignal()
    stop.signum = None

    def leave_on_second():
        if second:
            stop.signum = signal.SIGINT
            stop.check()
        return score

    go("stopped in evaluation", evaluate=leave_on_second, plan={"eval_every": 3}, stop=stop)
    try:
        go("no disk", store=Store(folder=Path(os.devnull) / "x"), steps=STEPS)
    except RunError as error:
        seen["no disk"] = {"error": str(error)}
    (OUT / f"{ranks.rank}.json").write_text(json.dumps(seen))
    parallel.leave(ranks)


if __name__ == "__main__":
    main()
