"""What every set of splits does alike: a split is named by what decides its content, and opened once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from typing import Any, Protocol, TypeVar

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data.tokenizers import Tokenizer

SPLITS = ("train", "validation", "test")
Opened = TypeVar("Opened")


class Source(Protocol):
    """Where a split comes from."""

    def digest(self) -> str:
        """Names the content without reading it."""
        ...


def split_digest(version: int | str, source: Source, tokenizer: Tokenizer, *encoding: Any) -> str:
    """Name a split by the form of its arrays, its source, its tokenizer, and what else decides its ids."""
    parts = [version, source.digest(), tokenizer.digest, *encoding]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def digest_of_splits(digest_of: Callable[[str], str]) -> str:
    """Name what three splits hold together; a split whose data are missing counts as missing."""

    def digest_or_missing(name: str) -> str:
        try:
            return digest_of(name)
        except RunError:
            return "missing"

    return hashlib.sha256(" ".join(digest_or_missing(name) for name in SPLITS).encode()).hexdigest()


def open_once(
    opened: dict[str, Opened], name: str, open_it: Callable[[str], Opened], *, dataset: str, known: Collection[str]
) -> Opened:
    """The split `name` of a data set out of `opened`, opened first if need be. Raises UsageError if it is not known."""
    if name not in known:
        raise UsageError(f"There is no split {name!r} in {dataset}: choose from {', '.join(known)}.")
    if name not in opened:
        opened[name] = open_it(name)
    return opened[name]
