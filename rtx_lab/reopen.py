"""Open a run or an exported folder again: its model with the best weights, its tokenizer, its settled configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from rtx_lab.core import checkpoint
from rtx_lab.core.components import bind, locate
from rtx_lab.core.errors import UsageError
from rtx_lab.core.schema import settle


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A model in evaluation mode and what it takes to talk to it."""

    model: Any
    dataset: Any
    tokenizer: Any
    dataset_name: str
    max_target_length: int
    config: dict[str, Any]


def load_run(place: Path) -> LoadedRun:
    """Build the model of a run directory or of an exported folder, on the GPU where there is one.

    The configuration is held against the schema and may name targets of rtx_lab alone. Raises UsageError where the
    folder is neither, RunError where its weights are damaged.
    """
    config = _read_config(place)
    dataset_node = dict(config["dataset"])
    exported = (place / "config.json").is_file()
    if exported:
        if "tokenizer" in dataset_node:
            dataset_node["tokenizer"] = str(place.resolve())
        model: Any = locate(config["model"]["_target_"])
        model = _from_pretrained(model, place)
    else:
        model = bind(config["model"])()
        checkpoint.load_weights(model, place)
    dataset = bind(dataset_node)()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return LoadedRun(
        model.to(device).eval(), dataset, dataset.tokenizer, dataset.name, dataset.max_target_length, config
    )


def _read_config(place: Path) -> dict[str, Any]:
    path = place / "config.yaml"
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{place} is neither a run directory nor an exported folder: it has no config.yaml") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as YAML: restore it or train again") from error
    if not isinstance(plain, dict):
        raise UsageError(f"{path} holds no configuration: restore it or train again")
    return settle(plain).config


def _from_pretrained(kind: Any, place: Path) -> Any:
    try:
        return kind.from_pretrained(place)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"the exported model in {place} cannot be read ({first}): export it again") from error
