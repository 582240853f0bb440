"""Write a run as a self-contained model folder, or back up every finished run.

    python -m rtx_lab export multirun/main/connection_transformer-... my_model
    python -m rtx_lab export --all /backup/lab --runs multirun

A model folder holds config.json and model.safetensors, the tokenizer, config.yaml, result.json and a model card; it
is written whole or not at all. A backup holds config, metrics, result, predictions and the best checkpoint of each
finished run and SHA256SUMS (for `sha256sum -c`); it can be repeated and continued, and overwrites nothing that differs.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rtx_lab.commands import backup, modelcard
from rtx_lab.commands.places import DEFAULT_ROOT, find_run, list_runs
from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.core.rundir import RunDir, write_json

if TYPE_CHECKING:
    from rtx_lab.reopen import LoadedRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("run", nargs="?", help="a run: its folder or a part of its name, see status")
    parser.add_argument("folder", nargs="?", type=Path, help="the model folder to write")
    parser.add_argument("--adapter", action="store_true", help="LoRA: write the adapters alone, as peft saves them")
    parser.add_argument("--all", type=Path, metavar="DIR", help="back up every finished run into DIR instead")
    parser.add_argument("--runs", type=Path, default=DEFAULT_ROOT, help="where the runs are (default: multirun)")


def main(args: argparse.Namespace) -> int:
    """Export one run or back up all of them."""
    if args.all is not None:
        if args.run is not None:
            raise UsageError("--all takes no run: export RUN DIR, or export --all DIR")
        return _back_up(args.runs, args.all)
    if args.run is None or args.folder is None:
        raise UsageError("name the run and the folder to write: export RUN DIR, or export --all DIR")
    if args.folder.exists() and any(args.folder.iterdir() if args.folder.is_dir() else [args.folder]):
        raise UsageError(f"{args.folder} exists: choose another folder or remove it")
    from rtx_lab.reopen import load_run

    run = find_run(args.run, args.runs)
    loaded = load_run(run.path)
    export_model(loaded, run, args.folder, _adapter_writer(loaded) if args.adapter else loaded.model.save_pretrained)
    print(f"exported to {args.folder}")
    return 0


def _adapter_writer(loaded: LoadedRun) -> Callable[[Path], object]:
    from rtx_lab.models.pretrained import PretrainedSeq2Seq
    from rtx_lab.models.pretrained_export import export_adapter

    if not isinstance(loaded.model, PretrainedSeq2Seq):
        raise UsageError("--adapter is for models with LoRA (T5, mT5, BART): leave it out")
    return partial(export_adapter, loaded.model)


def export_model(loaded: LoadedRun, run: RunDir, folder: Path, write: Callable[[Path], object]) -> None:
    """Write the model folder, its weights by `write`, whole or not at all. Raises RunError when the disk refuses."""
    staging = folder.absolute().with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        write(staging)
        save_tokenizer(loaded.tokenizer, staging)
        for path in (run.config_path, run.result_path):
            if path.exists():
                shutil.copyfile(path, staging / path.name)
        card = modelcard.write_card(loaded.config, run.read_result() or {"status": run.status()}, run.path.name)
        (staging / "README.md").write_text(card, encoding="utf-8")
        for path in filter(Path.is_file, staging.rglob("*")):
            path.chmod(0o644)  # the hub library writes weights for the owner's eyes only
        backup.write_manifest(staging)
        folder.rmdir() if folder.is_dir() else None
        staging.rename(folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}; nothing was left there") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def save_tokenizer(tokenizer: object, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, which `load_tokenizer(folder)` reads to the same ids."""
    backend = tokenizer.backend  # type: ignore[attr-defined]
    backend.save(str(folder / "tokenizer.json"))
    ids = {"pad_token": "pad_id", "bos_token": "start_id", "eos_token": "eos_id"}
    specials = {name: backend.id_to_token(getattr(tokenizer, field)) for name, field in ids.items()}
    write_json(folder / "tokenizer_config.json", specials | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _back_up(runs: Path, target: Path) -> int:
    if not runs.is_dir():
        raise UsageError(f"there is no folder {runs}: name it with --runs")
    if target.resolve().is_relative_to(runs.resolve()):
        raise UsageError(f"{target} is inside {runs}: a backup there would be taken for runs")
    finished = [run for run in list_runs(runs) if run.status() == "done"]
    if not finished:
        print(f"no finished runs below {runs}: nothing to back up")
        return 0
    files, problems = backup.collect(finished)
    copied = backup.back_up(files, runs, target)
    kept = len(finished) - len(problems)
    print(f"{kept} finished run{'s' * (kept != 1)} in {target}: {copied} files copied, every digest is right")
    if problems:
        raise RunError(f"not backed up: {'; '.join(problems)}")
    return 0
