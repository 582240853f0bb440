"""Texts with a class each, a segment a text: what a task with two losses, denoising and classifying, learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rtx_lab.core.errors import RunError
from rtx_lab.data import store
from rtx_lab.data.corpora import sst2
from rtx_lab.data.formats import SENTIMENTS
from rtx_lab.data.segments import MASK_RATIOS, SegmentDataset, Segments
from rtx_lab.data.text import SPLITS, SplitSource
from rtx_lab.data.tokenizers import BERT, BERT_ENTRIES, STAND_IN, Tokenizer, load_tokenizer

SENTENCES_VERSION = "sentences 1"
SENTENCE_TOKENS = 11.3
"""Tokens of BERT in a row of SST-2, whose training rows are parts of sentences; as counted over all of them."""


def sst2_texts(
    *,
    path: str | None = None,
    folder: str = "sst2",
    splits: Mapping[str, str],
    rows: Mapping[str, int] | None = None,
    tokenizer: str = BERT,
    vocab_size: int = BERT_ENTRIES,
    max_source_length: int = 72,
    mask_ratios: Sequence[float] = MASK_RATIOS,
    judge: str | None = None,
    num_validation: int | None = 256,
    num_test: int | None = 256,
) -> LabelledTexts:
    """SST-2 as texts: the same rows in the same splits as `rtx_lab.data.corpora.sst2`, without its prefix.

    `num_validation` and `num_test` are how many texts are restored in an evaluation; all of a split are classified.
    """
    questions = sst2(path=path, folder=folder, splits=splits, rows=rows, tokenizer=STAND_IN)
    sources = {name: Sentences(rows=source) for name, source in questions.sources.items()}
    texts = SegmentDataset(
        name="sst2_texts", tokenizer=load_tokenizer(tokenizer), vocab_size=vocab_size,
        max_source_length=max_source_length, packing=False, mask_ratios=tuple(mask_ratios), judge=judge,
        num_validation=num_validation, num_test=num_test, sources=sources,
    )  # fmt: skip
    return LabelledTexts(texts=texts, sources=sources, classes=SENTIMENTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentences:
    """One split of questions as documents without their prefixes, and the index of the right option of each."""

    rows: SplitSource

    def size(self) -> tuple[int, int]:
        return self.rows.num_items, round(self.rows.num_items * SENTENCE_TOKENS)

    def digest(self) -> str:
        return hashlib.sha256(f"{SENTENCES_VERSION}\n{self.rows.digest()}".encode()).hexdigest()

    def documents(self) -> Iterator[str]:
        return (item.source[item.keep :] for item in self.rows.items())

    def labels(self) -> np.ndarray:
        """(n,) int64, in the order of the documents."""
        return np.array([item.label for item in self.rows.items()], np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledTexts:
    """Running text of which every segment is a document with a class: `texts`, and the label of each of its rows.

    Told of itself as any dataset, by its texts.
    """

    holds: ClassVar[str] = "texts with classes"
    example: ClassVar[str] = "sst2_texts"

    texts: SegmentDataset
    sources: Mapping[str, Sentences]
    classes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.texts.name

    @property
    def tokenizer(self) -> Tokenizer:
        return self.texts.tokenizer

    @property
    def vocab_size(self) -> int:
        return self.texts.vocab_size

    @property
    def max_source_length(self) -> int:
        return self.texts.max_source_length

    @property
    def max_target_length(self) -> int:
        return self.texts.max_target_length

    @property
    def num_options(self) -> int:
        return self.texts.num_options

    def digest(self) -> str:
        """Names what the three splits hold."""
        return self.texts.digest()

    def num_rows(self, name: str) -> int:
        """Rows of a split as published, told without opening data."""
        return self.sources[name].rows.num_items

    def split(self, name: str) -> Segments:
        """Open the texts of `train`, `validation` or `test`; errors as `SegmentDataset.split`."""
        return self.texts.split(name)

    def labels(self, name: str) -> np.ndarray:
        """The class (n,) int64 of every row of a split, an index of `classes`.

        Raises RunError where texts and labels are not one to one.
        """
        source = self.sources[name]
        folder = store.open_or_build(f"{self.name}-{name}-labels", source.digest(), lambda: _kept(source))
        labels, num_texts = store.load(folder)[0]["labels"], len(self.split(name))
        if len(labels) != num_texts:
            raise RunError(
                f"{self.name}/{name} has {len(labels)} labels for {num_texts} segments: a text is empty, or longer "
                f"than dataset.max_source_length={self.max_source_length}, which cuts it in two; raise it."
            )
        return labels

    def check_vocabulary(self, vocab_size: int, splits: Sequence[str] = SPLITS) -> None:
        """Refuse ids that a model of `vocab_size` entries does not know, and labels that do not fit (RunError)."""
        self.texts.check_vocabulary(vocab_size, splits)
        for name in splits:
            self.labels(name)


def _kept(source: Sentences) -> tuple[store.Arrays, dict[str, object]]:
    return {"labels": source.labels()}, {}
