"""WikiText-2 and WikiText-103: Wikipedia articles as running text.

The raw variants are read: a tokenizer with subwords knows the words that the other variants replace by `<unk>`. A
document is a whole article: its paragraphs, joined by line breaks, without headings and empty lines. Paragraphs of one
article tell of one thing, so a packed window keeps its context and meets the end of a document once in some 4,200
tokens instead of once in 125.

Local folder: `<folder>/<split>.jsonl[.gz]`, `.parquet` or `.csv` with rows of one line each in the field `text`, as on
the hub; `splits` maps train, validation and test to file names. `rows` states other row counts than the published ones.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rtx_lab.core.errors import UsageError
from rtx_lab.data.corpus import Corpus, Hub
from rtx_lab.data.reading import Row
from rtx_lab.data.segments import MASK_RATIOS, SegmentDataset
from rtx_lab.data.store import file_digest
from rtx_lab.data.text import SPLITS
from rtx_lab.data.tokenizers import BERT, BERT_ENTRIES, load_tokenizer

ARTICLES_VERSION = "articles 1"
REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"
"""Of Salesforce/wikitext, as many public projects pin it."""
HEADING = re.compile(r" (= )+\S.*( =)+ \n?")
TITLE = re.compile(r" = [^=\s].* = \n?")
TOKENS_PER_WORD = 1.082
"""Tokens of BERT in the documents per published word, as counted on validation and test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What is known of a split beforehand: rows, articles, and words with the ends of lines, headings included."""

    rows: int
    articles: int
    words: int


VALIDATION = Published(rows=3760, articles=60, words=217_646)
TEST = Published(rows=4358, articles=60, words=245_569)
SMALL = Published(rows=36_718, articles=600, words=2_088_628)
LARGE = Published(rows=1_801_350, articles=28_475, words=103_227_021)


def wikitext2(
    *,
    path: str | None = None,
    folder: str = "wikitext2",
    splits: Mapping[str, str],
    rows: Mapping[str, int] | None = None,
    tokenizer: str = BERT,
    vocab_size: int = BERT_ENTRIES,
    max_source_length: int = 128,
    packing: bool = True,
    mask_ratios: Sequence[float] = MASK_RATIOS,
    judge: str | None = None,
    num_validation: int | None = 256,
    num_test: int | None = 1024,
) -> SegmentDataset:
    """WikiText-2: 600 articles of 2.1 million words, and 60 each to validate and to test. Hub: Salesforce/wikitext."""
    sources = _sources("wikitext2", "wikitext-2-raw-v1", 1, SMALL, path, folder, splits, rows)
    return SegmentDataset(
        name="wikitext2",
        tokenizer=load_tokenizer(tokenizer),
        vocab_size=vocab_size,
        max_source_length=max_source_length,
        packing=packing,
        mask_ratios=tuple(mask_ratios),
        judge=judge,
        num_validation=num_validation,
        num_test=num_test,
        sources=sources,
    )


def wikitext103(
    *,
    path: str | None = None,
    folder: str = "wikitext103",
    splits: Mapping[str, str],
    rows: Mapping[str, int] | None = None,
    tokenizer: str = BERT,
    vocab_size: int = BERT_ENTRIES,
    max_source_length: int = 256,
    packing: bool = True,
    mask_ratios: Sequence[float] = MASK_RATIOS,
    judge: str | None = None,
    num_validation: int | None = 256,
    num_test: int | None = 1024,
) -> SegmentDataset:
    """WikiText-103: 28,475 articles of 103 million words; validation and test are those of WikiText-2.

    The length is that of the original's base model; its small one reads 128. Hub: Salesforce/wikitext.
    """
    sources = _sources("wikitext103", "wikitext-103-raw-v1", 2, LARGE, path, folder, splits, rows)
    return SegmentDataset(
        name="wikitext103",
        tokenizer=load_tokenizer(tokenizer),
        vocab_size=vocab_size,
        max_source_length=max_source_length,
        packing=packing,
        mask_ratios=tuple(mask_ratios),
        judge=judge,
        num_validation=num_validation,
        num_test=num_test,
        sources=sources,
    )


def _sources(
    name: str,
    config: str,
    num_train_files: int,
    train: Published,
    path: str | None,
    folder: str,
    splits: Mapping[str, str],
    rows: Mapping[str, int] | None,
) -> dict[str, Articles]:
    if set(splits) != set(SPLITS):
        raise UsageError(f"dataset.splits must name a file for each of {', '.join(SPLITS)}, and for nothing else.")
    numbers = {"train": num_train_files, "validation": 1, "test": 1}
    files = {
        split: tuple(f"{config}/{split}-{part:05d}-of-{number:05d}.parquet" for part in range(number))
        for split, number in numbers.items()
    }
    counts = {"train": train.rows, "validation": VALIDATION.rows, "test": TEST.rows}
    hub = Hub(repo="Salesforce/wikitext", revision=REVISION, files=files, rows=counts)
    corpus = Corpus(name=name, path=path, folder=folder, splits=splits, local_rows=counts, hub=hub, rows=rows)
    known = {"train": train, "validation": VALIDATION, "test": TEST}
    return {split: Articles(corpus=corpus, split=split, published=one) for split, one in known.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Articles:
    """The articles of one split."""

    corpus: Corpus
    split: str
    published: Published

    def size(self) -> tuple[int, int]:
        """Scaled by the rows where other counts than the published ones are stated."""
        scale = self.corpus.published_rows(self.split) / self.published.rows
        words, articles = self.published.words, self.published.articles
        return max(1, round(articles * scale)), round(words * TOKENS_PER_WORD * scale)

    def digest(self) -> str:
        files, _ = self.corpus.locate(self.split)
        return hashlib.sha256("\n".join((ARTICLES_VERSION, *map(file_digest, files))).encode()).hexdigest()

    def documents(self) -> Iterator[str]:
        return articles(self.corpus.stream(self.split))


def articles(rows: Iterator[Row]) -> Iterator[str]:
    """Join the lines of each article; a heading stands between empty lines, or else it is text such as ` = 3 m = `."""
    paragraphs: list[str] = []
    for before, line, after in _with_neighbours(row.text("text") for row in rows):
        alone = not before.strip() and not after.strip()
        if alone and TITLE.fullmatch(line) and paragraphs:
            yield "\n".join(paragraphs)
            paragraphs = []
        if line.strip() and not (alone and HEADING.fullmatch(line)):
            paragraphs.append(line.strip())
    if paragraphs:
        yield "\n".join(paragraphs)


def _with_neighbours(lines: Iterator[str]) -> Iterator[tuple[str, str, str]]:
    before, line = "", next(lines, None)
    while line is not None:
        after = next(lines, None)
        yield before, line, after or ""
        before, line = line, after
