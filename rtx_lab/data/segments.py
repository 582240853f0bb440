"""Running text as segments of token ids: what denoising learns from.

L is the length of a segment with its start and its end, V the entries of the tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from rtx_lab.core.errors import RunError, UsageError
from rtx_lab.data import store
from rtx_lab.data.splits import SPLITS, digest_of_splits, open_once, split_digest
from rtx_lab.data.tokenizers import Tokenizer

FORMAT_VERSION = 1
MASK_RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
SHORTEST = 8
CHUNK_CHARACTERS = 2**18
"""Documents are encoded together until they hold this many characters: what bounds the memory of building."""
CHUNK_SEGMENTS = 2**16
PATIENCE_S = 2.0
"""Building shows its progress when it takes longer than this."""


class DocumentSource(Protocol):
    """Where the documents of one split come from."""

    def size(self) -> tuple[int, int]:
        """How many documents and tokens there are, as generated, published or estimated, without opening data."""
        ...

    def digest(self) -> str:
        """Names the content without encoding it."""
        ...

    def documents(self) -> Iterator[str]:
        """The documents one by one, in the order of the split; no more than a few of them are in memory."""
        ...


class Segments:
    """The segments of one split, memory-mapped; it is pickled as its folder.

    `lengths` (n,) int64 counts the tokens of each, start and end included. `special_ids` are the ids that are never
    masked: padding, start, end and the mask itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._arrays, self.meta = store.load(folder)
        self.lengths = np.diff(self._arrays["offsets"]) + 2
        self.pad_id: int = self.meta["pad_id"]
        self.start_id: int = self.meta["start_id"]
        self.eos_id: int = self.meta["eos_id"]
        self.mask_id: int = self.meta["mask_id"]
        self.special_ids: tuple[int, ...] = tuple(self.meta["special_ids"])
        self.max_id: int = self.meta["max_id"]
        self.num_documents: int = self.meta["num_documents"]

    def __reduce__(self) -> tuple[type[Segments], tuple[Path]]:
        return Segments, (self.folder,)

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, row: int) -> np.ndarray:
        """The ids of a segment (at most L,) int32: start, text, end. Documents packed together have an end between."""
        first, last = self._arrays["offsets"][row : row + 2]
        ids = np.empty(last - first + 2, np.int32)
        ids[0], ids[1:-1], ids[-1] = self.start_id, self._arrays["tokens"][first:last], self.eos_id
        return ids

    def record(self, row: int) -> dict[str, Any]:
        """What is known of a row: its id."""
        return {"id": f"{self.meta['split']}-{row}"}

    def unigram(self) -> np.ndarray:
        """How often each id occurs (V,) int64; special ids, which are never masked, do not count."""
        return self._arrays["counts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDataset:
    """A named text over a tokenizer; a split is read, encoded and cached when first asked for.

    With `packing` the documents of a split, an end between each two, are cut into windows of `max_source_length` tokens
    (their start and end included), of which the last one may be shorter. Without it every document is a segment of its
    own; one that is too long is cut into the fewest equal parts.
    `mask_ratios` are the shares of masked tokens at which the evaluation looks, `num_validation` and `num_test` how
    many segments it takes (None: all), `judge` a causal language model (folder or hub id) that reads what was restored.
    Raises UsageError, all problems at once, for settings out of range or a tokenizer without a mask.
    """

    holds: ClassVar[str] = "running text"
    example: ClassVar[str] = "stories (or wikitext2, ...)"

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    max_source_length: int
    packing: bool
    mask_ratios: tuple[float, ...]
    sources: Mapping[str, DocumentSource]
    num_validation: int | None = None
    num_test: int | None = None
    judge: str | None = None
    max_target_length: int = 1
    num_options: int = 0
    _opened: dict[str, Segments] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = list(_problems(self))
        if problems:
            raise UsageError(*problems)

    def digest(self) -> str:
        """Names what the three splits hold; a split whose data are missing counts as missing."""
        return digest_of_splits(self._split_digest)

    def num_rows(self, name: str) -> int:
        """Segments of a split, told from published or estimated sizes without opening data."""
        num_documents, num_tokens = self.sources[name].size()
        room = self.max_source_length - 2
        if self.packing:
            return max(1, math.ceil((num_tokens + num_documents - 1) / room))
        return num_documents * max(1, math.ceil(num_tokens / max(1, num_documents) / room))

    def split(self, name: str) -> Segments:
        """Open `train`, `validation` or `test`.

        Raises UsageError for another name, RunError for missing or broken data.
        """
        return open_once(self._opened, name, self._open, dataset=self.name, known=self.sources)

    def check_vocabulary(self, vocab_size: int, splits: Sequence[str] = SPLITS) -> None:
        """Refuse, naming the first row, ids that a model of `vocab_size` entries does not know (RunError)."""
        for name in splits:
            split = self.split(name)
            if split.max_id >= vocab_size:
                row = next((row for row in range(len(split)) if split.tokens(row).max() >= vocab_size), 0)
                raise RunError(
                    f"Segment {row} of {self.name}/{name}, or a special token, has an id of up to {split.max_id}, but "
                    f"the vocabulary has {vocab_size} entries: set model.vocab_size to at least {split.max_id + 1}."
                )

    def _open(self, name: str) -> Segments:
        digest = self._split_digest(name)
        write = partial(write_segments, self, name)
        return Segments(store.open_or_write(f"{self.name}-{name}", digest, write))

    def _split_digest(self, name: str) -> str:
        return split_digest(FORMAT_VERSION, self.sources[name], self.tokenizer, self.max_source_length, self.packing)


def _problems(dataset: SegmentDataset) -> Iterator[str]:
    tokenizer, needed = dataset.tokenizer, dataset.tokenizer.vocab_size
    if tokenizer.mask_id is None:
        yield (
            f"The tokenizer {tokenizer.name} has no mask token, which denoising needs: set "
            "dataset.tokenizer=google-bert/bert-base-uncased dataset.vocab_size=30522."
        )
    if dataset.vocab_size < needed:
        yield (
            f"dataset.vocab_size={dataset.vocab_size} is less than the {needed} entries of its tokenizer: "
            f"set dataset.vocab_size={needed}"
        )
    if dataset.max_source_length < SHORTEST:
        yield f"dataset.max_source_length must be at least {SHORTEST}, not {dataset.max_source_length}."
    ratios = dataset.mask_ratios
    if not ratios or list(ratios) != sorted(set(ratios)) or not (0 <= ratios[0] <= ratios[-1] <= 1):
        yield f"dataset.mask_ratios must be different numbers in ascending order within 0 to 1, not {list(ratios)}."
    for key in ("num_validation", "num_test"):
        value = getattr(dataset, key)
        if value is not None and value < 1:
            yield f"dataset.{key} must be at least 1, or null for all, not {value}."


def write_segments(dataset: SegmentDataset, name: str, folder: Path) -> dict[str, Any]:
    """Encode a split into `folder` chunk by chunk: memory does not grow with the text. Return what is to be noted.

    Raises RunError when there is no text, or a special token in it.
    """
    tokenizer, room, where = dataset.tokenizer, dataset.max_source_length - 2, f"{dataset.name}/{name}"
    specials = sorted({tokenizer.pad_id, tokenizer.start_id, tokenizer.eos_id, tokenizer.mask_id or 0})
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    num_documents = num_tokens = 0
    with (
        store.growing(folder / "tokens.npy", _smallest(tokenizer.vocab_size)) as append_tokens,
        store.growing(folder / "offsets.npy", np.dtype(np.int64)) as append_offsets,
    ):
        append_offsets(np.zeros(1, np.int64))
        for documents in _encoded(dataset, name):
            counts += np.bincount(np.concatenate(documents), minlength=len(counts))
            if counts[specials].any():
                raise RunError(_special_token(documents, specials, where, num_documents))
            if not dataset.packing:
                append_offsets(num_tokens + _cuts(documents, room))
            text = _with_ends(documents, tokenizer.eos_id) if dataset.packing else np.concatenate(documents)
            append_tokens(text)
            num_tokens += len(text)
            num_documents += len(documents)
        if num_documents == 0:
            raise RunError(f"{where} holds no text.")
        for offsets in _windows(num_tokens - 1, room) if dataset.packing else ():  # no end after the last document
            append_offsets(offsets)
    np.save(folder / "counts.npy", counts)
    return {
        "split": name,
        "num_documents": num_documents,
        "num_tokens": int(counts.sum()),
        "max_id": int(max(np.flatnonzero(counts)[-1], *specials)),
        "special_ids": specials,
        **{key: getattr(tokenizer, key) for key in ("pad_id", "start_id", "eos_id", "mask_id")},
    }


def _smallest(num_entries: int) -> np.dtype:
    return np.dtype(np.uint16 if num_entries <= 2**16 else np.int32)


def _encoded(dataset: SegmentDataset, name: str) -> Iterator[list[np.ndarray]]:
    """Yield the ids of a few documents at a time, those without any left out."""
    from tqdm import tqdm

    tokenizer = dataset.tokenizer.literal()
    _, expected = dataset.sources[name].size()
    # disable=None: shown on a terminal only
    bar = tqdm(desc=f"encoding {dataset.name}/{name}", unit=" tokens", unit_scale=True, disable=None, leave=False,
               total=expected, delay=PATIENCE_S)  # fmt: skip
    with bar:
        for texts in _chunks(dataset.sources[name].documents()):
            found = [np.array(ids, np.int32) for ids in tokenizer.encode_batch(texts) if ids]
            if found:
                yield found
            bar.update(sum(map(len, found)))


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    held: list[str] = []
    characters = 0
    for text in texts:
        held.append(text)
        characters += len(text)
        if characters >= CHUNK_CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held


def _with_ends(documents: list[np.ndarray], end: int) -> np.ndarray:
    """All documents in one array, an end after each."""
    stop = np.array([end], np.int32)
    return np.concatenate([piece for ids in documents for piece in (ids, stop)])


def _cuts(documents: list[np.ndarray], room: int) -> np.ndarray:
    """Where the segments end that are made of each document by itself: as few as possible, of equal length."""
    lengths = np.array([len(ids) for ids in documents])
    starts = np.cumsum(lengths) - lengths
    parts = -(-lengths // room)
    ends = [start + length * np.arange(1, n + 1) // n for start, length, n in zip(starts, lengths, parts, strict=True)]
    return np.concatenate(ends)


def _windows(num_tokens: int, room: int) -> Iterator[np.ndarray]:
    """Where windows of `room` tokens end, some at a time; the last one may be shorter."""
    count = -(-num_tokens // room)
    for first in range(0, count, CHUNK_SEGMENTS):
        ends = np.arange(first + 1, min(first + CHUNK_SEGMENTS, count) + 1) * room
        yield np.minimum(ends, num_tokens)


def _special_token(documents: list[np.ndarray], specials: list[int], where: str, num_before: int) -> str:
    index = next(index for index, ids in enumerate(documents) if np.isin(ids, specials).any())
    return (
        f"Document {num_before + index + 1} of {where} holds one of the special tokens {specials}, which stand for "
        "no text: take it out."
    )
