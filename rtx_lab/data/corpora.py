"""The five public data sets, one function each.

Every function reads a local folder when `path` (or `RTX_LAB_DATA`) names one that holds `<folder>/<split>.jsonl[.gz]`,
`.parquet` or `.csv`, else a pinned parquet revision of the hub. `splits` maps train, validation and test to the file
names of the local folder; without a validation file the held-out slice of train serves (`corpus.held_out_slice`).
`rows` states other row counts than the published ones, for data of one's own. No row is dropped: a longer source loses
its beginning (after the prefix), and the split counts how many did. Lengths are in tokens, the end of a target
included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rtx_lab.core.components import with_nulls
from rtx_lab.core.errors import UsageError
from rtx_lab.data import formats
from rtx_lab.data.corpus import Corpus, CorpusSplit, Hub
from rtx_lab.data.items import Item
from rtx_lab.data.reading import Row
from rtx_lab.data.text import SPLITS, TextDataset
from rtx_lab.data.tokenizers import Tokenizer, load_tokenizer

T5 = "google-t5/t5-base"
T5_ENTRIES = 32000
"""Entries of T5 that text can produce; its 100 sentinels never occur."""
CONVERTED = "refs/convert/parquet"
GSM8K_LENGTHS = {"final": 16, "rationale": 320}
"""Tokens that hold the longest target, in T5's tokenizer."""
NUM_OPTIONS = {"logiqa": 4, "commonsenseqa": 5, "strategyqa": 2, "sst2": 2}
"""Most options of a row; GSM8K has none."""


def _gsm8k_nulls(node: Mapping[str, Any]) -> dict[str, Any]:
    """T5's tokenizer, and as many tokens of it as the longest target takes."""
    longest = GSM8K_LENGTHS.get(str(node.get("target", "final")), GSM8K_LENGTHS["final"])
    return {"tokenizer": T5, "vocab_size": T5_ENTRIES, "max_target_length": longest}


@with_nulls(_gsm8k_nulls)
def gsm8k(
    *,
    path: str | None = None,
    folder: str = "gsm8k",
    splits: Mapping[str, str],
    rows: Mapping[str, int] | None = None,
    tokenizer: str | None = None,
    vocab_size: int | None = None,
    max_source_length: int = 512,
    max_target_length: int | None = None,
    target: str = "final",
) -> TextDataset:
    """GSM8K (7473 train, of which 747 held out as validation; 1319 test): a number is generated.

    `target` is `final` (the number) or `rationale` (the worked solution, then `#### number`). Nulls are T5's tokenizer,
    and 16 or 320 tokens of target.
    Hub: openai/gsm8k at a commit seen in several public pins.
    """
    if target not in formats.GSM8K_TARGETS:
        raise UsageError(f"dataset.target must be one of {', '.join(formats.GSM8K_TARGETS)}, not {target!r}.")
    counts = {"train": 7473, "test": 1319}
    files = {name: f"main/{name}-00000-of-00001.parquet" for name in counts}
    hub = Hub(repo="openai/gsm8k", revision="e53f048856ff4f594e959d75785d2c2d37b678ee", files=files, rows=counts)
    corpus = Corpus(name="gsm8k", path=path, folder=folder, splits=splits, local_rows=counts, hub=hub, rows=rows)
    usual = _gsm8k_nulls({"target": target})
    return _dataset(
        corpus, formats.GSM8K_TARGETS[target], "number", load_tokenizer(tokenizer or usual["tokenizer"]),
        vocab_size or usual["vocab_size"], max_source_length, max_target_length or usual["max_target_length"],
    )  # fmt: skip


def logiqa(
    *,
    path: str | None = None,
    folder: str = "logiqa",
    splits: Mapping[str, str],
    rows: Mapping[str, int] | None = None,
    tokenizer: str = T5,
    vocab_size: int = T5_ENTRIES,
    max_source_length: int = 384,
    max_target_length: int = 128,
) -> TextDataset:
    """LogiQA 1.0 (7376 train, 651 validation, 651 test): four options ranked.

    The original experiments used 6678/1000/1000, a re-split of the same 8678 items, and 16 tokens for a letter;
    contents need more. Hub: lucasmccabe/logiqa is a script, so the hub's own parquet conversion is read; its commit is
    not pinned.
    """
    counts = {"train": 7376, "validation": 651, "test": 651}
    files = {name: f"default/{name}/0000.parquet" for name in counts}
    hub = Hub(repo="lucasmccabe/logiqa", revision=CONVERTED, files=files, rows=counts)
    corpus = Corpus(name="logiqa", path=path, folder=folder, splits=splits, local_rows=counts, hub=hub, rows=rows)
    return _dataset(
        corpus, formats.logiqa, "options", load_tokenizer(tokenizer), vocab_size, max_source_length, max_target_length
    )


def strategyqa(
    *,
    path: str | None = None,
    folder: str = "strategy_qa",
    splits: Mapping[str, str],
    rows: Mapping[str, int] | None = None,
    tokenizer: str = T5,
    vocab_size: int = T5_ENTRIES,
    max_source_length: int = 128,
    max_target_length: int = 8,
) -> TextDataset:
    """StrategyQA: yes or no, ranked.

    The answers of the official test split are hidden. Locally the authors' 2061 + 229 split serves: 229 are the test,
    and of the 2061 a tenth is held out. Hub: ChilleD/StrategyQA splits the same 2290 as 1603 + 687 (so numbers of the
    two sources do not compare); the hub's own parquet conversion is read, its commit is not pinned.
    """
    hub_counts = {"train": 1603, "test": 687}
    files = {name: f"default/{name}/0000.parquet" for name in hub_counts}
    hub = Hub(repo="ChilleD/StrategyQA", revision=CONVERTED, files=files, rows=hub_counts)
    counts = {"train": 2061, "test": 229}
    corpus = Corpus(name="strategyqa", path=path, folder=folder, splits=splits, local_rows=counts, hub=hub, rows=rows)
    return _dataset(
        corpus,
        formats.strategyqa,
        "options",
        load_tokenizer(tokenizer),
        vocab_size,
        max_source_length,
        max_target_length,
    )


def commonsenseqa(
    *,
    path: str | None = None,
    folder: str = "commonsense_qa",
    splits: Mapping[str, str],
    rows: Mapping[str, int] | None = None,
    tokenizer: str = T5,
    vocab_size: int = T5_ENTRIES,
    max_source_length: int = 160,
    max_target_length: int = 40,
) -> TextDataset:
    """CommonsenseQA (9741 train, of which 974 held out; the public validation split of 1221 serves as test).

    The answers of the official test split (1140 rows) are hidden. Five options ranked. Hub: tau/commonsense_qa at a
    commit seen in several public pins.
    """
    counts = {"train": 9741, "test": 1221}
    files = {"train": "data/train-00000-of-00001.parquet", "test": "data/validation-00000-of-00001.parquet"}
    revision = "94630fe30dad47192a8546eb75f094926d47e155"
    hub = Hub(repo="tau/commonsense_qa", revision=revision, files=files, rows=counts)
    name = "commonsenseqa"
    corpus = Corpus(name=name, path=path, folder=folder, splits=splits, local_rows=counts, hub=hub, rows=rows)
    return _dataset(
        corpus,
        formats.commonsenseqa,
        "options",
        load_tokenizer(tokenizer),
        vocab_size,
        max_source_length,
        max_target_length,
    )


def sst2(
    *,
    path: str | None = None,
    folder: str = "sst2",
    splits: Mapping[str, str],
    rows: Mapping[str, int] | None = None,
    tokenizer: str = T5,
    vocab_size: int = T5_ENTRIES,
    max_source_length: int = 128,
    max_target_length: int = 8,
) -> TextDataset:
    """SST-2 (67349 train, of which 6735 held out; the public validation split of 872 serves as test).

    The labels of the official test split (1821 rows) are hidden. negative or positive, ranked. Hub: stanfordnlp/sst2 at
    a commit seen in several public pins.
    """
    counts = {"train": 67349, "test": 872}
    files = {"train": "data/train-00000-of-00001.parquet", "test": "data/validation-00000-of-00001.parquet"}
    hub = Hub(repo="stanfordnlp/sst2", revision="8d51e7e4887a4caaa95b3fbebbf53c0490b58bbb", files=files, rows=counts)
    corpus = Corpus(name="sst2", path=path, folder=folder, splits=splits, local_rows=counts, hub=hub, rows=rows)
    return _dataset(
        corpus, formats.sst2, "options", load_tokenizer(tokenizer), vocab_size, max_source_length, max_target_length
    )


def _dataset(
    corpus: Corpus,
    to_item: Callable[[Row, str], Item],
    answer: str,
    tokenizer: Tokenizer,
    vocab_size: int,
    source_length: int,
    target: int,
) -> TextDataset:
    problems = [] if source_length >= 16 else [f"dataset.max_source_length must be at least 16, not {source_length}."]
    problems += [] if target >= 2 else [f"dataset.max_target_length must be at least 2, not {target}."]
    known = [name for name in corpus.splits if name not in SPLITS]
    problems += [f"dataset.splits has no use for {name!r}: it maps {', '.join(SPLITS)}." for name in known]
    problems += [
        f"dataset.splits must name a file for {name}." for name in ("train", "test") if name not in corpus.splits
    ]
    if problems:
        raise UsageError(*problems)
    settings = f"{to_item.__name__} {formats.FORMATS_VERSION}"
    sources = {name: CorpusSplit(corpus=corpus, split=name, to_item=to_item, settings=settings) for name in SPLITS}
    return TextDataset(
        name=corpus.name,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        answer=answer,
        max_source_length=source_length,
        max_target_length=target,
        sources=sources,
        num_options=NUM_OPTIONS.get(corpus.name, 0),
    )
