"""Where the rows of a public data set come from: a local folder or the hub, with counts that are checked."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rtx_lab.core.errors import RunError
from rtx_lab.data.hub import fetch
from rtx_lab.data.items import Item
from rtx_lab.data.reading import SUFFIXES, Row, read_rows
from rtx_lab.data.store import file_digest

HELD_OUT_SHARE = 0.1
HELD_OUT_SEED = 20250531


def held_out_slice(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The one 90/10 slice of the project: (rows to train on, rows held out as validation), both ascending.

    A pure function of the number of rows: 7473 (GSM8K) gives 6726 and 747. Used wherever a set has no labelled
    validation split of its own, so that every system selects on, and trains without, the same rows.
    """
    order = np.random.Generator(np.random.PCG64([HELD_OUT_SEED, num_rows])).permutation(num_rows)
    num_held_out = round(num_rows * HELD_OUT_SHARE)
    return np.sort(order[num_held_out:]), np.sort(order[:num_held_out])


@dataclass(frozen=True, slots=True, kw_only=True)
class Hub:
    """A pinned hub repository: parquet file (or files, in order) and row count per split."""

    repo: str
    revision: str
    files: Mapping[str, str | tuple[str, ...]]
    rows: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A public data set: `splits` maps our split names to file stems of the local folder, `rows` to expected counts.

    A split `validation` that is not in `splits` is the held-out slice of `train`.
    """

    name: str
    path: str | None
    folder: str
    splits: Mapping[str, str]
    local_rows: Mapping[str, int]
    hub: Hub
    rows: Mapping[str, int] | None

    def locate(self, split: str) -> tuple[list[Path], int]:
        """The files of a split (downloaded if need be) and their expected number of rows.

        Raises RunError when one is missing.
        """
        root = self.path or os.environ.get("RTX_LAB_DATA")
        advice = f"RTX_LAB_DATA=<folder that holds {self.folder}/{self.splits[split]}.jsonl.gz>"
        if root and (self.path or (Path(root) / self.folder).is_dir()):
            stem = Path(root) / self.folder / self.splits[split]
            for suffix in SUFFIXES:
                file = stem.with_name(stem.name + suffix)
                if file.is_file():
                    return [file], self._expected(split, self.local_rows)
            raise RunError(
                f"The {split} split of {self.name} is missing: there is no {stem}.jsonl[.gz], .parquet or .csv; "
                f"set {advice}, or unset it and allow the network."
            )
        repo, revision, names = self.hub.repo, self.hub.revision, self.hub.files[split]
        parts = (names,) if isinstance(names, str) else names
        files = [fetch(repo, part, kind="dataset", revision=revision, advice=advice) for part in parts]
        return files, self._expected(split, self.hub.rows)

    def published_rows(self, split: str) -> int:
        """Rows of a split where it would be read from: the local folder if there is one, else the hub."""
        root = self.path or os.environ.get("RTX_LAB_DATA")
        local = root and (self.path or (Path(root) / self.folder).is_dir())
        return self._expected(split, self.local_rows if local else self.hub.rows)

    def read(self, split: str) -> list[Row]:
        """The rows of a split. Raises RunError when there are none or their number is not the published one."""
        return list(self.stream(split))

    def stream(self, split: str) -> Iterator[Row]:
        """The rows of a split one by one. Raises RunError as `read`, a wrong number after the last of them."""
        files, expected = self.locate(split)
        found = 0
        for file in files:
            for row in read_rows(file):
                found += 1
                yield row
        if found != expected:
            raise RunError(
                f"{files[0]} has {found} rows where {expected} are expected: fetch it anew, or state the counts "
                f"of your own data as 'dataset.rows={{{split}: {found}}}'."
            )

    def _expected(self, split: str, published: Mapping[str, int]) -> int:
        counts = {**published, **(self.rows or {})}
        return counts[split]


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusSplit:
    """One split of a corpus as items; `to_item` formats a row."""

    corpus: Corpus
    split: str
    to_item: Callable[[Row, str], Item]
    settings: str

    @property
    def num_items(self) -> int:
        return len(self._chosen(self.corpus.published_rows(self._published())))

    def digest(self) -> str:
        files, _ = self.corpus.locate(self._published())
        parts = (*map(file_digest, files), self.split, self.settings, inspect.getsource(held_out_slice))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def items(self) -> list[Item]:
        split = self._published()
        rows = self.corpus.read(split)
        chosen = self._chosen(len(rows))
        return [self.to_item(rows[row], f"{self.corpus.splits[split]}-{row}") for row in chosen]

    def _published(self) -> str:
        return self.split if self.split in self.corpus.splits else "train"

    def _chosen(self, num_rows: int) -> np.ndarray:
        if "validation" in self.corpus.splits or self.split == "test":
            return np.arange(num_rows)
        train, validation = held_out_slice(num_rows)
        return validation if self.split == "validation" else train
