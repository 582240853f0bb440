"""Which checkpoint a run goes on from, and whether another run's weights fit: asked before anything changes."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from rtx_lab.core import checkpoint
from rtx_lab.core.checkpoint import Store


def latest_of(store: Store) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that this run can go on from, and what is wrong with the newer ones that it cannot.

    It is whole, was written by the run that owns the store, and the best checkpoint that it remembers is whole too:
    going on from an earlier one finds the lost best again, bit for bit.
    """
    skipped: list[str] = []
    for path in reversed(checkpoint.steps(store.folder)):
        problems = checkpoint.verify(path) or _foreign(path, store.owner) or _lost_best(path)
        if not problems:
            return path, skipped
        skipped += problems
    return None, skipped


def _foreign(path: Path, owner: str) -> list[str]:
    writer = _manifest(path).get("owner", "")
    return [] if writer == owner else [f"{path} belongs to another run ({writer or 'of no name'})"]


def _lost_best(path: Path) -> list[str]:
    known = checkpoint.read_state(path).get("best")
    best = path.with_name(f"step-{known['step']:08d}") if known else path
    problems = checkpoint.verify(best) if best != path else []
    return [f"{path} remembers a best checkpoint that is damaged: {problem}" for problem in problems]


def _manifest(path: Path) -> dict[str, str]:
    return json.loads((path / "manifest.json").read_bytes())


def content_digest(place: Path) -> str:
    """The digest over the whole checkpoint that a run or folder stands for; it changes when its content does."""
    return _manifest(checkpoint.find(place))["sha256"]


def check_fits(model: nn.Module, place: Path) -> None:
    """Hold a checkpoint's tensors against a model, which may be without memory (meta device).

    Raises UsageError that names the first tensor of another shape, RunError where the checkpoint is damaged.
    """
    found = checkpoint.find(place)
    checkpoint.refuse_other_model(model, checkpoint.read_weights(found), found)
