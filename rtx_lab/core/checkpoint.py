"""Checkpoints: one folder per saved step, whole or not there, and checked byte by byte before it is used.

`step-00000500/` holds `model.safetensors`, `optimizer.safetensors`, `state.json` and `manifest.json` (size and sha256
of each, and of itself). A folder is written under a temporary name, flushed to the disk and renamed. Never pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rtx_lab.core import tensorfile
from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.core.update import load_state

FORMAT = 1
_NAME = re.compile(r"step-(\d{8,})")
_NOTHING = "{} holds no checkpoint that can be used: give a run directory or a folder such as step-00000500"


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where a run keeps its checkpoints, and how many of the last ones; the best is kept besides."""

    folder: Path
    keep_last: int = 3
    owner: str = ""
    """Signature of the run that writes here; a run goes on from its own checkpoints alone."""


def save(
    store: Store,
    state: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Path:
    """Write a checkpoint of `state["step"]` and delete those that are no longer kept.

    `state` is what the loop remembers beside tensors: JSON values, with `best: {step, value} | None`.
    Raises RunError when the disk refuses: nothing half-written is left and earlier checkpoints stay.
    """
    target = store.folder / f"step-{state['step']:08d}"
    with _whole_folder(target) as temporary:
        digests: dict[str, str] = {}
        weights, model_tensors = tensorfile.split(model.state_dict())
        digests["model.safetensors"] = tensorfile.write(temporary / "model.safetensors", model_tensors)
        document = {"format": FORMAT, "state": dict(state), "model": weights, "optimizer": None, "scaler": None}
        if optimizer is not None:
            tree, tensors = tensorfile.split(optimizer.state_dict()["state"])
            document["optimizer"] = {"kind": type(optimizer).__name__, "state": tree}
            digests["optimizer.safetensors"] = tensorfile.write(temporary / "optimizer.safetensors", tensors)
        if scaler is not None:
            document["scaler"] = scaler.state_dict()
        text = json.dumps(document).encode()
        digests["state.json"] = tensorfile.write_chunks(temporary / "state.json", iter([text]))
        files = {name: {"bytes": (temporary / name).stat().st_size, "sha256": digests[name]} for name in digests}
        manifest = _seal({"format": FORMAT, "step": state["step"], "owner": store.owner, "files": files})
        tensorfile.write_chunks(temporary / "manifest.json", iter([manifest]))
    _prune(store, state)
    return target


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target`, on disk, when all went well."""
    temporary = target.with_name(f".{target.name}.writing")
    aside = target.with_name(f".{target.name}.old")
    try:
        for leftover in target.parent.glob(".step-*"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        _flush_folder(temporary)
        if target.exists():  # a damaged one of this step, or one from beyond the step that was resumed from
            target.rename(aside)
        temporary.rename(target)
        _flush_folder(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise RunError(
            f"the checkpoint {target} could not be written ({error.strerror or error}) and earlier "
            "ones are as they were: free some space and run the same command again"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seal(manifest: dict[str, Any]) -> bytes:
    """Spell a manifest in the one way that its own digest allows."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    return json.dumps(manifest | {"sha256": digest}, sort_keys=True, indent=1).encode()


def _prune(store: Store, state: Mapping[str, Any]) -> None:
    best = (state.get("best") or {}).get("step")
    older = [path for path in steps(store.folder) if step_of(path) <= state["step"]]
    for path in older[: -store.keep_last]:
        if step_of(path) != best:
            shutil.rmtree(path, ignore_errors=True)


def steps(folder: Path) -> list[Path]:
    """All checkpoints in a folder, oldest step first."""
    return sorted((path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a checkpoint's name tells."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else 0


def verify(checkpoint: Path) -> list[str]:
    """Check every byte of a checkpoint and return what is wrong, one sentence each; empty for a good one."""
    try:
        raw = (checkpoint / "manifest.json").read_bytes()
        manifest = json.loads(raw)
        files: dict[str, dict[str, Any]] = manifest["files"]
        whole = raw == _seal({key: value for key, value in manifest.items() if key != "sha256"})
        named = f"step-{manifest['step']:08d}"
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{checkpoint}/manifest.json is missing or cannot be read"]
    if not whole:
        return [f"{checkpoint}/manifest.json was changed after it was written"]
    found = [] if named == checkpoint.name or not _NAME.fullmatch(checkpoint.name) else [f"{checkpoint} holds {named}"]
    for name, expected in files.items():
        path = checkpoint / name
        size = path.stat().st_size if path.is_file() else -1
        if size != expected["bytes"]:
            found.append(
                f"{path} has {size} bytes instead of {expected['bytes']}" if size >= 0 else f"{path} is missing"
            )
        elif tensorfile.digest_of(path) != expected["sha256"]:
            found.append(f"{path} was changed after it was written (its sha256 differs)")
    return found


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and what is wrong with the newer ones that had to be passed over."""
    skipped: list[str] = []
    for path in reversed(steps(folder)):
        problems = verify(path)
        if not problems:
            return path, skipped
        skipped += problems
    return None, skipped


def best(folder: Path) -> Path | None:
    """The checkpoint with the best monitor, as the newest whole checkpoint knows it; None before the first evaluation.

    Raises RunError if that checkpoint is damaged or gone.
    """
    last, _ = newest(folder)
    known = read_state(last).get("best") if last else None
    if not last or not known:
        return None
    path = folder / f"step-{known['step']:08d}"
    problems = verify(path)
    if problems:
        raise RunError(f"the best checkpoint cannot be used: {'; '.join(problems)}; remove {folder} and train again")
    return path


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What the loop remembered beside tensors when it saved."""
    return _document(checkpoint)["state"]


def _document(checkpoint: Path) -> dict[str, Any]:
    try:
        return json.loads((checkpoint / "state.json").read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{checkpoint}/state.json cannot be read") from error


def read_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The model's weights by name, without building the model; tied weights appear under each of their names.

    Raises RunError if the checkpoint is not whole.
    """
    problems = verify(checkpoint)
    if problems:
        raise RunError("; ".join(problems))
    return tensorfile.join(_document(checkpoint)["model"], tensorfile.read(checkpoint / "model.safetensors"))


def find(place: Path) -> Path:
    """The checkpoint that a run, a `checkpoints` folder, or a checkpoint itself stands for: its best, else its newest.

    Raises UsageError if there is none, RunError if all are damaged.
    """
    for folder in (place, place / "checkpoints"):
        if (folder / "manifest.json").is_file():
            return folder
        if steps(folder):
            found = best(folder) or newest(folder)[0]
            if found:
                return found
    raise _nothing(place)


def find_newest(place: Path) -> Path:
    """The newest whole checkpoint of a run or a `checkpoints` folder, or the checkpoint itself (`resume_from`).

    Raises UsageError if there is none, RunError if all are damaged.
    """
    if (place / "manifest.json").is_file():
        return place
    found = newest(place)[0] or newest(place / "checkpoints")[0]
    if found is None:
        raise _nothing(place)
    return found


def _nothing(place: Path) -> RunError | UsageError:
    """What to say where no checkpoint can be used: they are damaged, or there are none."""
    damaged = newest(place)[1] or newest(place / "checkpoints")[1]
    if damaged:
        return RunError(f"every checkpoint of {place} is damaged: {'; '.join(damaged)}")
    return UsageError(_NOTHING.format(place))


def load_weights(model: nn.Module, place: Path) -> Path:
    """Set a model's weights from a run or a checkpoint (`init_from`) and return the checkpoint used.

    Raises UsageError if it belongs to another model, before anything is changed.
    """
    checkpoint = find(place)
    _set_weights(model, read_weights(checkpoint), checkpoint)
    return checkpoint


def restore(
    checkpoint: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Any]:
    """Set weights, optimizer and scaler to what they were, bit for bit, and return the loop's state.

    The optimizer keeps its own rates and decays: they come from the configuration. Raises RunError if the checkpoint
    is not whole, UsageError if it belongs to another model or optimizer; then nothing has been changed.
    """
    weights = read_weights(checkpoint)
    document = _document(checkpoint)
    saved = document["optimizer"]
    if optimizer is not None:
        kind = saved["kind"] if saved else "no optimizer"
        if kind != type(optimizer).__name__:
            raise UsageError(
                f"{checkpoint} was saved with {kind}, this run uses {type(optimizer).__name__}: use the same optim"
            )
    _set_weights(model, weights, checkpoint)
    if optimizer is not None:
        tree = tensorfile.join(saved["state"], tensorfile.read(checkpoint / "optimizer.safetensors"))
        load_state(optimizer, tree)
    if scaler is not None and document["scaler"]:
        scaler.load_state_dict(document["scaler"])
    return document["state"]


def _set_weights(model: nn.Module, weights: Mapping[str, Tensor], checkpoint: Path) -> None:
    refuse_other_model(model, weights, checkpoint)
    model.load_state_dict(weights)


def refuse_other_model(model: nn.Module, weights: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Raise UsageError if names or shapes differ; changes nothing."""
    own = model.state_dict()
    for name in [*own, *weights]:
        here = tuple(own[name].shape) if name in own else None
        there = tuple(weights[name].shape) if name in weights else None
        if here != there:
            spell = [f"shape {shape}" if shape is not None else "no such tensor" for shape in (there, here)]
            raise UsageError(f"{checkpoint} belongs to another model: {name} has {spell[0]} there and {spell[1]} here")
