"""Shapes of a checkpoint, read from its config.json while a configuration is settled. Standard library only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtx_lab.core.errors import UsageError

WITH_SHAPES = "memgen_qwen2.5_1.5b"
"""A model option that states its shapes, to name as an example."""


def shapes_of(place: str | None, keys: Mapping[str, str]) -> dict[str, Any]:
    """What a checkpoint's folder says of itself, by our names; `keys` gives the names of config.json.

    With them `tokenizer_size`, one more than the largest id of tokenizer.json, where there is one. Raises UsageError
    where no folder is given or there, or its config.json cannot be read.
    """
    if place is None:
        raise UsageError("model.checkpoint is missing: give the folder of a model, whose config.json says its shapes")
    folder = Path(place)
    if not folder.is_dir():
        raise UsageError(
            f"model.checkpoint={place} is no folder here, and without one its shapes are not known: download it and "
            f"give its folder, or take a model that states its shapes, as model={WITH_SHAPES}"
        )
    config = _read(folder / "config.json")
    nested = config.get("rope_parameters")
    known = {**(nested if isinstance(nested, dict) else {}), **config}
    shapes = {key: known[name] for key, name in keys.items() if known.get(name) is not None}
    shapes.setdefault("tied_head", False)
    if (folder / "tokenizer.json").is_file():
        shapes["tokenizer_size"] = _num_ids(_read(folder / "tokenizer.json"))
    elif isinstance(shapes.get("embedding_rows"), int):
        shapes["tokenizer_size"] = shapes["embedding_rows"]
    return shapes


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read: model.checkpoint must be a folder as save_pretrained writes"
        ) from error
    return value if isinstance(value, dict) else {}


def _num_ids(tokenizer: Mapping[str, Any]) -> int:
    """One more than the largest id; a vocabulary is {piece: id}, or a list in the order of ids."""
    vocab = (tokenizer.get("model") or {}).get("vocab") or ()
    ids = [*vocab.values()] if isinstance(vocab, Mapping) else [len(vocab) - 1]
    ids += [int(token["id"]) for token in tokenizer.get("added_tokens") or ()]
    return 1 + max(ids, default=-1)
