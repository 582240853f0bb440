"""A data set as token ids: what `dataset` targets return, and what batches are cut from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data import store
from rtx_lab.data.items import Item
from rtx_lab.data.splits import SPLITS, digest_of_splits, open_once, split_digest
from rtx_lab.data.tokenizers import Tokenizer

FORMAT_VERSION = 1
CHUNK = 2048
Row = TypeVar("Row")


class SplitSource(Protocol):
    """Where the items of one split come from."""

    @property
    def num_items(self) -> int:
        """How many items there are, told without opening data."""
        ...

    def digest(self) -> str:
        """Names the content without reading items."""
        ...

    def items(self) -> list[Item]:
        """The items, in the order of the split."""
        ...


class Split:
    """The rows of one split as memory-mapped token ids; it is pickled as its folder.

    `source_lengths` and `target_lengths` (n,) int64 count tokens, the end of the target excluded; `lengths` (n,) is the
    larger of the two, what batches are sorted by: short answers leave it to the sources, and on worked solutions of
    GSM8K it leaves 83 % of all positions real where sorting by source leaves 62 %.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._arrays, self.meta = store.load(folder)
        self.source_lengths = np.diff(self._arrays["source_offsets"])
        self.target_lengths = np.diff(self._arrays["target_offsets"])
        self.lengths = np.maximum(self.source_lengths, self.target_lengths + 1)
        self.pad_id: int = self.meta["pad_id"]
        self.start_id: int = self.meta["start_id"]
        self.eos_id: int = self.meta["eos_id"]
        self.max_id: int = self.meta["max_id"]
        self.num_cut_sources: int = self.meta["num_cut_sources"]
        self.num_cut_targets: int = self.meta["num_cut_targets"]

    def __reduce__(self) -> tuple[type[Split], tuple[Path]]:
        return Split, (self.folder,)

    def __len__(self) -> int:
        return len(self.source_lengths)

    def source(self, row: int) -> np.ndarray:
        """The ids of a source (S,) int32."""
        return self._slice("source", row)

    def target(self, row: int) -> np.ndarray:
        """The ids of a target (T,) int32, without start and end."""
        return self._slice("target", row)

    def options(self, row: int) -> list[np.ndarray]:
        """The ids of each option, without start and end; empty when the answer is generated."""
        first, last = self._arrays["row_offsets"][row : row + 2]
        return [self._slice("option", index) for index in range(first, last)]

    def record(self, row: int) -> dict[str, Any]:
        """What is known of a row: id, source, gold, label, options, difficulty, family (texts as in the data)."""
        return json.loads(self._slice("record", row).tobytes())

    def _slice(self, kind: str, index: int) -> np.ndarray:
        first, last = self._arrays[f"{kind}_offsets"][index : index + 2]
        return self._arrays[kind][first:last]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDataset:
    """A named data set over a tokenizer; a split is read, encoded and cached when first asked for.

    `answer` is `options` (contents ranked by likelihood, at most `num_options` a row) or `number` (generated).
    `max_source_length` and `max_target_length` are in tokens, the end of the target included; `vocab_size` is what a
    model has to know. Raises UsageError if the tokenizer has more entries than that.
    """

    holds: ClassVar[str] = "questions with answers"
    example: ClassVar[str] = "reasoning (or gsm8k, ...)"

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    answer: str
    max_source_length: int
    max_target_length: int
    sources: Mapping[str, SplitSource]
    num_options: int = 0
    _opened: dict[str, Split] = field(default_factory=dict)

    def __post_init__(self) -> None:
        needed = self.tokenizer.vocab_size
        if self.vocab_size < needed:
            raise UsageError(
                f"dataset.vocab_size={self.vocab_size} is less than the {needed} entries of its tokenizer: "
                f"set dataset.vocab_size={needed}"
            )

    def digest(self) -> str:
        """Names what the three splits hold; a split whose data are missing counts as missing."""
        return digest_of_splits(self._split_digest)

    def num_rows(self, name: str) -> int:
        """Rows of a split as generated or published, told without opening data."""
        return self.sources[name].num_items

    def split(self, name: str) -> Split:
        """Open `train`, `validation` or `test`.

        Raises UsageError for another name, RunError for missing or broken data.
        """
        return open_once(self._opened, name, self._open, dataset=self.name, known=self.sources)

    def check_vocabulary(self, vocab_size: int, splits: Sequence[str] = SPLITS) -> None:
        """Refuse, naming the first row, ids that a model of `vocab_size` entries does not know (RunError)."""
        for name in splits:
            refuse_ids(self.name, name, self.split(name), vocab_size)

    def _open(self, name: str) -> Split:
        digest, source = self._split_digest(name), self.sources[name]
        return Split(store.open_or_build(f"{self.name}-{name}", digest, lambda: encode(self, source.items())))

    def _split_digest(self, name: str) -> str:
        lengths = (self.max_source_length, self.max_target_length)
        return split_digest(FORMAT_VERSION, self.sources[name], self.tokenizer, *lengths)


def refuse_ids(dataset: str, name: str, split: Split, vocab_size: int) -> None:
    """Raise RunError for the first row of a split with an id that a vocabulary of `vocab_size` entries has not."""
    if split.max_id < vocab_size:
        return
    for row in range(len(split)):
        ids = np.concatenate([split.source(row), split.target(row), *split.options(row)])
        if len(ids) and ids.max() >= vocab_size:
            raise RunError(
                f"Row {row} ({split.record(row)['id']}) of {dataset}/{name} holds the token id {ids.max()}, but the "
                f"vocabulary has {vocab_size} entries: set model.vocab_size to at least {split.max_id + 1}."
            )


def encode(dataset: TextDataset, items: list[Item]) -> tuple[store.Arrays, dict[str, Any]]:
    """Turn items into flat arrays with offsets. Raises RunError when there are none or an id is out of range."""
    if not items:
        raise RunError(f"{dataset.name} has no rows.")
    flat: dict[str, list[np.ndarray]] = {"source": [], "target": [], "option": [], "record": []}
    cut_sources = cut_targets = 0
    for chunk in chunks(items, dataset.name):
        sources = dataset.tokenizer.encode_batch([item.source for item in chunk])
        cut_sources += sum(len(ids) > dataset.max_source_length for ids in sources)
        flat["source"] += [_cut_source(dataset, item, ids) for item, ids in zip(chunk, sources, strict=False)]
        texts = [text for item in chunk for text in (item.target, *item.options)]
        answers = dataset.tokenizer.encode_batch(texts)
        cut_targets += sum(len(ids) >= dataset.max_target_length for ids in answers)
        answers = iter(int32(ids[: dataset.max_target_length - 1]) for ids in answers)
        for item in chunk:
            flat["target"].append(next(answers))
            flat["option"] += [next(answers) for _ in item.options]
        flat["record"] += [np.frombuffer(_record(item), dtype=np.uint8) for item in chunk]
    arrays = {"row_offsets": offsets([len(item.options) for item in items]), **joined(flat)}
    ids = [item.id for item in items]
    return arrays, noted(dataset.name, dataset.tokenizer, ids, arrays, cut_sources, cut_targets)


def joined(flat: Mapping[str, Sequence[np.ndarray]]) -> store.Arrays:
    """All pieces of a kind in one array, and where each begins (`<kind>_offsets`)."""
    arrays: store.Arrays = {}
    for kind, parts in flat.items():
        arrays[kind] = np.concatenate(parts) if parts else np.empty(0, np.int32)
        arrays[f"{kind}_offsets"] = offsets([len(part) for part in parts])
    return arrays


def noted(
    name: str, tokenizer: Tokenizer, rows: Sequence[str], arrays: store.Arrays, cuts: int, target_cuts: int
) -> dict[str, Any]:
    """What is kept beside the arrays of a split; `rows` are the ids of its rows.

    Raises RunError, naming the row, for a token id that the tokenizer gives to no plain text.
    """
    for kind in ("source", "target"):
        if len(arrays[kind]) and arrays[kind].max() >= tokenizer.vocab_size:
            at = int(np.argmax(arrays[kind] >= tokenizer.vocab_size))
            row = int(np.searchsorted(arrays[f"{kind}_offsets"], at, side="right")) - 1
            raise RunError(
                f"Row {row} ({rows[row]}) of {name} holds the token id {arrays[kind][at]} in its {kind}, "
                f"a sentinel beyond the {tokenizer.vocab_size} entries of plain text: take it out of the data."
            )
    ids = [arrays[kind].max(initial=0) for kind in ("source", "target", "option")]
    return {
        "num_rows": len(rows),
        "num_cut_sources": cuts,
        "num_cut_targets": target_cuts,
        "max_id": int(max(*ids, tokenizer.pad_id, tokenizer.start_id, tokenizer.eos_id)),
        "pad_id": tokenizer.pad_id,
        "start_id": tokenizer.start_id,
        "eos_id": tokenizer.eos_id,
    }


def chunks(items: list[Row], name: str) -> Iterator[list[Row]]:
    """Some rows at a time, with a bar on a terminal where there are many."""
    from tqdm import tqdm

    quiet = None if len(items) > 4 * CHUNK else True  # None: shown on a terminal only
    with tqdm(total=len(items), desc=f"encoding {name}", unit=" rows", disable=quiet, leave=False) as bar:
        for start in range(0, len(items), CHUNK):
            chunk = items[start : start + CHUNK]
            yield chunk
            bar.update(len(chunk))


def _cut_source(dataset: TextDataset, item: Item, ids: list[int]) -> np.ndarray:
    """Shorten from the front, the prefix excepted: the question stands at the end."""
    limit = dataset.max_source_length
    if len(ids) <= limit:
        return int32(ids)
    head = dataset.tokenizer.encode(item.source[: item.keep]) if item.keep else []
    return int32(head + ids[len(ids) - (limit - len(head)) :])


def int32(ids: Sequence[int]) -> np.ndarray:
    """Token ids as an array."""
    return np.asarray(ids, dtype=np.int32)


def offsets(lengths: Sequence[int]) -> np.ndarray:
    """Where pieces of these lengths begin in a flat array, and where the last one ends (n + 1,) int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def _record(item: Item) -> bytes:
    fields = {
        "id": item.id,
        "source": item.source,
        "gold": item.gold,
        "label": item.label,
        "options": list(item.options),
        "difficulty": item.difficulty,
        "family": item.family,
    }
    return json.dumps(fields, ensure_ascii=False).encode("utf-8")
